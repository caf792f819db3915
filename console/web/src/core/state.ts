/** The one state of the page, and the hooks by which the parts of a page follow it. */

import { useEffect, useState } from "preact/hooks";

import { Api, ApiError } from "./api";
import { Live } from "./live";
import type { Permission } from "./model";
import { Registry } from "./registry";
import { accountOf, may, mayAt, type Labels } from "./rights";
import { warming } from "./search";

export const api = new Api();
export const registry = new Registry();

export type Access = "unknown" | "open" | "signed-in" | "signed-out";

export const session = {
  access: "unknown" as Access,
  account: "",
  permissions: undefined as Permission[] | undefined,
  /** The session ended while something was on the page; the page stays. */
  ended: false,
  problem: "",
  /** Nothing could be begun, because a gateway answers and no control plane does. */
  withoutPlanes: false,
};

/** Prepares the search while the browser has nothing else to do. */
let isWarm = false;

function warmUp(): void {
  if (isWarm === registry.loaded) return;
  isWarm = registry.loaded;
  if (!isWarm || typeof requestIdleCallback !== "function") return;
  const steps = warming(registry.providers.values());
  const work = (deadline: IdleDeadline) => {
    let step = steps.next();
    while (!step.done && deadline.timeRemaining() > 5) step = steps.next();
    if (!step.done && isWarm) requestIdleCallback(work);
  };
  requestIdleCallback(work);
}

const listeners = new Set<() => void>();
let asked = false;

/** Tells all followers, once for each picture that the browser draws. */
export function changed(): void {
  if (asked) return;
  asked = true;
  const tell = () => {
    asked = false;
    warmUp();
    for (const listener of [...listeners]) listener();
  };
  // A page in the background draws nothing, and shall still be right when it is looked at again.
  if (document.hidden) setTimeout(tell, 500);
  else requestAnimationFrame(tell);
}

export const live = new Live(api, registry, changed, signedOut);

/** Renders a part of a page again when the state has changed, at most once in `pause` milliseconds. */
export function useRegistry(pause = 0): number {
  const [version, setVersion] = useState(0);
  useEffect(() => {
    let last = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const show = () => {
      timer = undefined;
      last = performance.now();
      setVersion((before) => before + 1);
    };
    const listener = () => {
      if (timer !== undefined) return;
      const wait = last + pause - performance.now();
      if (wait <= 0) show();
      else timer = setTimeout(show, wait);
    };
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      clearTimeout(timer);
    };
  }, [pause]);
  return version;
}

/** The time, for "5 seconds ago". */
export function useNow(pause = 1000): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), pause);
    return () => clearInterval(timer);
  }, [pause]);
  return now;
}

function signedOut(): void {
  if (session.access === "signed-out") return;
  session.ended = session.access === "signed-in" || session.access === "open";
  session.access = "signed-out";
  api.token = "";
  live.stop();
  changed();
}

api.onSignedOut = signedOut;
api.onStale = (age) => live.noteStale(age);

/** Finds out how this registry lets people in, and begins to follow it. */
export async function begin(): Promise<void> {
  try {
    session.permissions = await api.permissions();
    session.access = session.permissions === undefined ? "open" : "signed-in";
    session.account = accountOf(api.token);
    session.ended = false;
    session.problem = "";
    live.start(may(session.permissions, "get", "service") === "all");
  } catch (error) {
    // 401 has been told already.
    if (!(error instanceof ApiError && error.status === 401)) {
      session.problem = error instanceof Error ? error.message : String(error);
      session.withoutPlanes = error instanceof ApiError && error.status >= 500;
      setTimeout(() => session.access === "unknown" && void begin(), 3000);
    } else {
      session.access = "signed-out";
    }
  }
  changed();
}

export async function signIn(name: string, password: string): Promise<void> {
  const before = session.account;
  await api.signIn(name, password);
  // Another account may see other things.
  if (accountOf(api.token) !== before) registry.clear();
  await begin();
}

export async function signOut(): Promise<void> {
  live.stop();
  await api.signOut();
  registry.clear();
  session.access = "signed-out";
  session.ended = false;
  session.account = "";
  session.permissions = undefined;
  changed();
}

export function setTenant(domain: string, project: string): void {
  api.tenant = { domain, project };
  registry.clear();
  live.start(may(session.permissions, "get", "service") === "all");
  changed();
}

export function allowed(verb: string, type: string): boolean {
  return may(session.permissions, verb, type) !== "none";
}

/** Whether the account may do something to this service. The registry decides anyway. */
export function allowedAt(verb: string, type: string, of: Labels | undefined): boolean {
  return of ? mayAt(session.permissions, verb, type, of) : allowed(verb, type);
}
