/**
 * Keeps a registry up to date: by a resumable watch where there is one, by asking again and again elsewhere.
 *
 * After a break the watch is opened with the confirmed revision, at whichever gateway answers, so nothing is
 * missed. Until then the last state stays readable, and the page says how old it is.
 */

import { ApiError, type Api } from "./api";
import type { Detail, Frame, Service } from "./model";
import type { Registry } from "./registry";
import { afterClose, backoff } from "./resume";

export type Mode = "connecting" | "live" | "lost" | "polling" | "denied";

/** Nothing arrives for this long only when the connection is dead: a quiet watch gets bookmarks. */
const SILENCE = 75_000;
const POLL = 5_000;
const LIST = 30_000;
const HEALTH = 5_000;
const WATCH_FAILURES = 3;

export class Live {
  mode: Mode = "connecting";
  /** The last time at which something arrived. */
  heardAt = 0;
  /** False while no control plane answers. */
  planes = true;
  problem = "";
  retryAt = 0;
  private socket: WebSocket | undefined;
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private failures = 0;
  private opened = 0;
  private run = 0;
  private listing = false;
  private unknownSince = 0;

  constructor(
    private readonly api: Api,
    private readonly registry: Registry,
    private readonly changed: () => void,
    private readonly signedOut: () => void,
  ) {}

  /** Begins anew. `canWatch` is false where the account's rights do not cover everything. */
  start(canWatch: boolean): void {
    this.stop();
    this.failures = 0;
    this.opened = 0;
    this.planes = true;
    this.problem = "";
    // A WebSocket of a browser has no header for the domain.
    this.begin(canWatch && this.api.tenant.domain === "default");
  }

  private begin(watch: boolean): void {
    const run = this.run;
    if (watch) this.open(run);
    else this.poll(run);
    this.every(run, HEALTH, () => void this.checkPlanes(run));
    this.every(run, 1000, () => this.checkSilence(run));
    this.every(run, LIST, () => this.socket && this.list(run));
  }

  stop(): void {
    this.halt();
    this.close();
    this.set("connecting");
  }

  /** Ends everything that was begun: what still comes back belongs to an earlier run. */
  private halt(): void {
    this.run += 1;
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
    this.listing = false;
  }

  /** Opens a lost watch at once. */
  retry(): void {
    if (this.mode !== "lost") return;
    this.retryAt = 0;
    this.open(this.run);
  }

  private close(): void {
    const socket = this.socket;
    this.socket = undefined;
    socket?.close();
  }

  private set(mode: Mode): void {
    this.mode = mode;
    this.changed();
  }

  private every(run: number, time: number, act: () => void): void {
    if (run === this.run) this.timers.add(setInterval(act, time));
  }

  private later(run: number, time: number, act: () => void): void {
    if (run !== this.run) return;
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      act();
    }, time);
    this.timers.add(timer);
  }

  private open(run: number): void {
    this.close();
    const { registry, api } = this;
    const rev = registry.loaded ? registry.confirmed : 0;
    if (rev === 0) registry.forgetPosition();
    const url = new URL(api.url(api.path("/registry/watcher")));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.search = `?all&rev=${rev}`;
    // Browsers send no header of ours with a WebSocket, so the gateway takes the token from here.
    const offers = api.token ? ["muster.watch", `muster.bearer.${api.token}`] : [];
    const socket = new WebSocket(url.href, offers);
    this.socket = socket;
    let didOpen = false;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      didOpen = true;
      this.opened += 1;
      this.heardAt = Date.now();
      this.problem = "";
      this.set(registry.loaded ? "live" : "connecting");
      this.list(run);
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      if (socket === this.socket) this.take(run, event.data);
    };
    socket.onclose = (event) => {
      if (socket !== this.socket || run !== this.run) return;
      this.socket = undefined;
      this.ended(run, event, didOpen);
    };
  }

  private take(run: number, text: string): void {
    const now = Date.now();
    let frame: Frame;
    try {
      frame = JSON.parse(text) as Frame;
    } catch {
      // A text that is no JSON is the reason why the watch ends.
      this.problem = text.slice(0, 200);
      return;
    }
    this.heardAt = now;
    this.failures = 0;
    this.registry.apply(frame, now);
    if (this.registry.loaded && this.mode !== "live") this.mode = "live";
    this.findUnknown(run, frame, now);
    this.changed();
  }

  /** The watch tells of instances only, so the record of a service that is new here is asked for. */
  private findUnknown(run: number, frame: Frame, now: number): void {
    const id = frame.instance?.serviceId;
    if (!this.registry.loaded || !id || this.registry.byId.get(id)?.service || now - this.unknownSince < 2000) return;
    this.unknownSince = now;
    this.later(run, 300, () => this.list(run));
  }

  private ended(run: number, event: CloseEvent, didOpen: boolean): void {
    if (event.reason) this.problem = event.reason;
    const next = afterClose(event.code);
    if (next === "sign-in") return this.signedOut();
    if (next === "denied") return void this.set("denied");
    if (next === "from-start") this.registry.forgetPosition();
    this.failures += 1;
    const wait = next === "again" ? backoff(this.failures - 1, Math.random()) : 0;
    this.retryAt = Date.now() + wait;
    this.set("lost");
    // A refusal before the upgrade looks like any other failure to a page.
    if (!didOpen) void this.explain(run);
    this.later(run, wait, () => this.mode === "lost" && !this.socket && this.open(run));
  }

  /** Asks over REST why a watch does not open. */
  private async explain(run: number): Promise<void> {
    let failure: ApiError | undefined;
    try {
      await this.api.permissions();
    } catch (error) {
      if (error instanceof ApiError) failure = error;
    }
    if (run !== this.run) return;
    // A control plane has no watches, and some proxies let none through.
    if (!failure && this.opened === 0 && this.failures >= WATCH_FAILURES) {
      this.halt();
      this.begin(false);
    } else if (failure) {
      this.problem = failure.message;
      this.changed();
    }
  }

  private poll(run: number): void {
    const ask = async () => {
      const began = Date.now();
      try {
        const answer = await this.api.get<{ allServicesDetail?: Detail[] }>(
          this.api.path("/govern/microservices?options=instances&withShared=1"),
        );
        if (run !== this.run) return;
        const now = Date.now();
        this.registry.setAll(answer.allServicesDetail ?? [], this.registry.loaded ? now : 0);
        this.heardAt = now;
        this.problem = "";
        this.set("polling");
      } catch (error) {
        if (run !== this.run) return;
        const isDenied = error instanceof ApiError && error.status === 403;
        this.problem = error instanceof Error ? error.message : String(error);
        this.set(isDenied ? "denied" : "lost");
        this.retryAt = Date.now() + POLL;
      }
      // A large registry is asked less often.
      this.later(run, Math.max(POLL, (Date.now() - began) * 10), () => void ask());
    };
    void ask();
  }

  private list(run: number): void {
    if (this.listing) return;
    this.listing = true;
    void (async () => {
      try {
        const { services } = await this.api.get<{ services?: Service[] }>(this.api.path("/registry/microservices"));
        if (run !== this.run) return;
        this.registry.setServices(services ?? []);
        this.changed();
      } catch {
        // Without the records the names of the watch are shown, and the next round asks again.
      } finally {
        if (run === this.run) this.listing = false;
      }
    })();
  }

  private async checkPlanes(run: number): Promise<void> {
    let answers = false;
    try {
      const response = await this.api.send("GET", this.api.path("/registry/health/readiness"));
      answers = response.ok;
    } catch {
      // Without any answer the watch itself tells that the connection is lost.
      answers = this.mode === "lost" && this.planes;
    }
    if (run !== this.run || answers === this.planes) return;
    this.planes = answers;
    if (answers && this.socket) this.list(run);
    this.changed();
  }

  private checkSilence(run: number): void {
    const open = this.socket?.readyState === WebSocket.OPEN;
    if (open && Date.now() - this.heardAt > SILENCE) {
      this.problem = "";
      this.close();
      this.failures = 0;
      this.open(run);
      this.set("lost");
    }
  }
}
