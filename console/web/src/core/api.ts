/** Calls of the registry's API, in the name of whoever has signed in. */

import type { Permission } from "./model";
import { staleAge } from "./stale";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Tenant {
  domain: string;
  project: string;
}

/** The address below which the registry is served: the console lies at `console/` below it. */
export const BASE = new URL("../", location.href.split("#")[0]);

const KEY = "muster.token";

export class Api {
  tenant: Tenant = { domain: "default", project: "default" };
  /** Called when a token does not count any more. */
  onSignedOut: () => void = () => {};
  /** Called with an answer that is not of now: a gateway's own, so many seconds old. */
  onStale: (age: number) => void = () => {};
  private held: string;

  constructor() {
    // The storage of this tab: a reload keeps it, another tab does not see it, and it ends with the tab.
    this.held = sessionStorage.getItem(KEY) ?? "";
  }

  get token(): string {
    return this.held;
  }

  set token(token: string) {
    this.held = token;
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  }

  /** The address of something below `/v4/{project}`. */
  path(rest: string): string {
    return `/v4/${encodeURIComponent(this.tenant.project)}${rest}`;
  }

  url(path: string): string {
    return new URL(path.replace(/^\//, ""), BASE).href;
  }

  headers(): Record<string, string> {
    return this.tenant.domain === "default" ? {} : { "X-Domain-Name": this.tenant.domain };
  }

  async send(
    method: string,
    path: string,
    options: { body?: string | undefined; headers?: Record<string, string>; signal?: AbortSignal } = {},
  ): Promise<Response> {
    const headers = new Headers({ ...this.headers(), ...options.headers });
    if (this.held) headers.set("Authorization", `Bearer ${this.held}`);
    if (options.body !== undefined) headers.set("Content-Type", "application/json");
    const { signal = AbortSignal.timeout(20_000), body } = options;
    const response = await fetch(this.url(path), {
      method,
      headers,
      signal,
      cache: "no-store",
      credentials: "same-origin",
      ...(body === undefined ? {} : { body }),
    });
    const age = staleAge(response.headers);
    if (age !== undefined) this.onStale(age);
    return response;
  }

  /** The JSON of a call. */
  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const token = this.held;
    let response: Response;
    try {
      response = await this.send(method, path, { body: body === undefined ? undefined : JSON.stringify(body) });
    } catch (error) {
      throw new ApiError(0, "", error instanceof Error ? error.message : String(error));
    }
    const text = await response.text();
    if (response.ok) return (text ? JSON.parse(text) : {}) as T;
    const failure = readFailure(response.status, text);
    if (response.status === 401 && path !== "/v4/token" && token === this.held) this.onSignedOut();
    throw failure;
  }

  get<T>(path: string): Promise<T> {
    return this.call<T>("GET", path);
  }

  async signIn(name: string, password: string): Promise<void> {
    this.token = (await this.call<{ token: string }>("POST", "/v4/token", { name, password })).token;
  }

  /** Ends the token at the registry too. That it cannot be reached keeps nobody signed in here. */
  async signOut(): Promise<void> {
    const ended = this.send("DELETE", "/v4/token").catch(() => undefined);
    this.token = "";
    await ended;
  }

  /** The own permissions; `undefined` on a registry without access control. */
  async permissions(): Promise<Permission[] | undefined> {
    try {
      return (await this.get<{ perms?: Permission[] }>("/v4/self-perms")).perms ?? [];
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return undefined;
      throw error;
    }
  }
}

function readFailure(status: number, text: string): ApiError {
  try {
    const { errorCode = "", errorMessage = "", detail = "" } = JSON.parse(text) as Record<string, string>;
    return new ApiError(status, errorCode, detail ? `${errorMessage}: ${detail}` : errorMessage);
  } catch {
    return new ApiError(status, "", text.trim() || `HTTP ${status}`);
  }
}
