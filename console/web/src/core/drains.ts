/** The drains that this page runs. They go on while the viewer looks at other pages, and end with the tab. */

import { isCutOff, keyOf, LineParser, pathOf, queryOf, type Progress, type Subject, type Terms } from "./drain";
import { api, changed } from "./state";

/** The pause before a drain is begun again whose gateway has ended. */
const PAUSE = 1000;

export interface Drain {
  subject: Subject;
  name: string;
  terms: Terms;
  /** The project and domain, so that another tenant's page shows nothing of it. */
  tenant: string;
  until: number;
  /** The last that was told. */
  progress: Progress | undefined;
  state: "running" | "ended" | "stopped" | "failed";
  /** The refusal, or the reason for which it did not come to its end. */
  problem: string;
  /** It was cut off, and has been begun again. */
  again: number;
  /** The ids of the instances, for those who give them back or unregister them later. */
  instances: string[];
  abort: AbortController;
}

const drains = new Map<string, Drain>();

function tenant(): string {
  return `${api.tenant.domain}/${api.tenant.project}`;
}

export function drainOf(subject: Subject): Drain | undefined {
  return drains.get(`${tenant()} ${keyOf(subject)}`);
}

export function isDraining(): boolean {
  return [...drains.values()].some((drain) => drain.state === "running");
}

export function forget(drain: Drain): void {
  drains.delete(`${drain.tenant} ${keyOf(drain.subject)}`);
  changed();
}

/** Ends the wait. The marks stay: the instances take no traffic until these end. */
export function stop(drain: Drain): void {
  drain.state = "stopped";
  drain.abort.abort();
  changed();
}

export function startDrain(subject: Subject, name: string, terms: Terms, instances: string[]): Drain {
  const drain: Drain = {
    subject,
    name,
    terms,
    tenant: tenant(),
    until: Date.now() + terms.deadline * 1000,
    progress: undefined,
    state: "running",
    problem: "",
    again: 0,
    instances,
    abort: new AbortController(),
  };
  drains.set(`${drain.tenant} ${keyOf(subject)}`, drain);
  void run(drain);
  changed();
  return drain;
}

async function run(drain: Drain): Promise<void> {
  const path = api.path(pathOf(drain.subject));
  while (drain.state === "running") {
    const left = Math.max(1, (drain.until - Date.now()) / 1000);
    try {
      if (await attempt(drain, `${path}${queryOf({ ...drain.terms, deadline: left })}`)) break;
    } catch (error) {
      if (drain.abort.signal.aborted) break;
      drain.problem = error instanceof Error ? error.message : String(error);
    }
    if (drain.state !== "running") break;
    if (Date.now() + PAUSE >= drain.until) {
      drain.state = "failed";
      break;
    }
    drain.again += 1;
    changed();
    await new Promise((done) => setTimeout(done, PAUSE));
  }
  changed();
}

/** The calls that give the instances back, each with its method and path. */
export function callsToGiveBack({ subject, instances }: Drain): [string, string][] {
  return instances.map((id) => ["DELETE", api.path(pathOf({ serviceId: subject.serviceId, instanceId: id }))]);
}

/** The calls that unregister the instances. */
export function callsToUnregister({ subject, instances }: Drain): [string, string][] {
  return instances.map((id) => ["DELETE", pathOfInstance(subject.serviceId, id)]);
}

function pathOfInstance(serviceId: string, id: string): string {
  return api.path(`/registry/microservices/${encodeURIComponent(serviceId)}/instances/${encodeURIComponent(id)}`);
}

/** One attempt; true when there is nothing more to wait for. */
async function attempt(drain: Drain, path: string): Promise<boolean> {
  const response = await api.send("POST", path, { signal: drain.abort.signal });
  if (!response.ok || !response.body) {
    drain.problem = await refusal(response);
    // What a gateway or a control plane cannot do now, another one may.
    if (response.status >= 500 || response.status === 429) return false;
    drain.state = "failed";
    return true;
  }
  const parser = new LineParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    for (const line of parser.push(value)) {
      drain.problem = line.error ?? "";
      if (isCutOff(line)) return false;
      drain.progress = line;
      if (line.done) {
        drain.state = line.error ? "failed" : "ended";
        return true;
      }
      changed();
    }
  }
}

async function refusal(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { errorMessage = "", detail = "" } = JSON.parse(text) as Record<string, string>;
    return [errorMessage, detail].filter(Boolean).join(": ");
  } catch {
    return text.trim().slice(0, 200) || `HTTP ${response.status}`;
  }
}

// A tab that is closed ends its drains, which nobody should learn afterwards.
addEventListener("beforeunload", (event) => {
  if (isDraining()) event.preventDefault();
});
