/**
 * Keeps a registry up to date: by a resumable watch where there is one, by asking again and again elsewhere.
 *
 * After a break the watch is opened with the confirmed revision, at whichever gateway answers, so nothing is
 * missed. Until then the last state stays readable, and the page says how old it is.
 */

import { ApiError, type Api } from "./api";
import { openSocket, openStream, type Connection, type Ended } from "./connection";
import type { Detail, Frame, Service } from "./model";
import type { Registry } from "./registry";
import { backoff } from "./resume";

export type Mode = "connecting" | "live" | "lost" | "polling" | "denied";

/** The ways to follow a registry, the best first. A browser has room for six streams, for all of its tabs. */
const WAYS = ["socket", "stream", "poll"] as const;
type Way = (typeof WAYS)[number];

/** Nothing arrives for this long only when the connection is dead: a quiet watch gets bookmarks. */
const SILENCE = 75_000;
const POLL = 5_000;
const LIST = 30_000;
const HEALTH = 5_000;
/** A watch that has sent no instance for this long is one over nothing. */
const EMPTY = 1_500;
/** The failures after which a way that has never worked is given up. */
const FAILURES = 2;

export class Live {
  mode: Mode = "connecting";
  /** The last time at which something arrived. */
  heardAt = 0;
  /** False while no control plane answers. */
  planes = true;
  /** The time of which a gateway has answered from its own state, since no control plane answers; 0 if none has. */
  staleAt = 0;
  problem = "";
  private way: Way = "socket";
  private connection: Connection | undefined;
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private failures = 0;
  private hasWorked = false;
  private run = 0;
  private listing = false;
  private unknownSince = 0;
  private openedAt = 0;

  constructor(
    private readonly api: Api,
    private readonly registry: Registry,
    private readonly changed: () => void,
    private readonly signedOut: () => void,
  ) {}

  /** Begins anew. `canWatch` is false where the account's rights do not cover everything. */
  start(canWatch: boolean): void {
    this.stop();
    this.planes = true;
    this.staleAt = 0;
    this.problem = "";
    // A WebSocket of a browser has no header for the domain.
    const watch = this.api.tenant.domain === "default" ? "socket" : "stream";
    this.begin(canWatch ? watch : "poll");
  }

  stop(): void {
    this.halt();
    this.set("connecting");
  }

  /** Opens a lost watch at once. */
  retry(): void {
    if (this.mode === "lost" && this.way !== "poll" && !this.connection) this.open(this.run);
  }

  /** An answer was not of now, but so many seconds old. */
  noteStale(age: number): void {
    this.staleAt = Date.now() - age * 1000;
    this.changed();
    // The next round would find out too; until then acts would be offered that cannot be done.
    void this.checkPlanes(this.run);
  }

  private begin(way: Way): void {
    const { run } = this;
    this.way = way;
    this.failures = 0;
    this.hasWorked = false;
    if (way === "poll") this.poll(run);
    else this.open(run);
    this.every(run, HEALTH, () => void this.checkPlanes(run));
    this.every(run, 1000, () => this.checkSilence(run));
    this.every(run, LIST, () => this.connection && this.list(run));
  }

  /** Ends everything that was begun: what still comes back belongs to an earlier run. */
  private halt(): void {
    this.run += 1;
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
    this.listing = false;
    this.close();
  }

  private close(): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.close();
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
    const connect = this.way === "socket" ? openSocket : openStream;
    this.openedAt = Date.now();
    this.connection = connect(api, rev, {
      opened: () => {
        this.hasWorked = true;
        this.heardAt = Date.now();
        this.problem = "";
        this.set(registry.loaded ? "live" : "connecting");
        this.list(run);
      },
      alive: () => {
        this.heardAt = Date.now();
      },
      text: (text) => this.take(run, text),
      ended: (how) => {
        this.connection = undefined;
        this.ended(run, how);
      },
    });
  }

  private take(run: number, text: string): void {
    const now = Date.now();
    let frame: Frame;
    try {
      frame = JSON.parse(text) as Frame;
    } catch {
      return;
    }
    this.heardAt = now;
    this.failures = 0;
    this.registry.apply(frame, now);
    if (this.registry.loaded) this.mode = "live";
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

  private ended(run: number, { next, problem, didOpen }: Ended): void {
    if (run !== this.run) return;
    this.problem = problem;
    if (next === "sign-in") return this.signedOut();
    if (next === "denied") return this.set("denied");
    if (next === "none") return this.giveWay();
    if (next === "from-start") this.registry.forgetPosition();
    this.failures += 1;
    this.set("lost");
    const wait = next === "again" ? backoff(this.failures - 1, Math.random()) : 0;
    this.later(run, wait, () => this.mode === "lost" && !this.connection && this.open(run));
    // A refusal of a WebSocket looks like any other failure to a page.
    if (!didOpen) void this.explain(run);
  }

  /** Asks over REST why a watch does not open. */
  private async explain(run: number): Promise<void> {
    try {
      await this.api.permissions();
    } catch (error) {
      if (run !== this.run) return;
      this.problem = error instanceof ApiError ? error.message : this.problem;
      this.changed();
      return;
    }
    // A control plane has no watches, and some proxies let none through.
    if (run === this.run && !this.hasWorked && this.failures >= FAILURES) this.giveWay();
  }

  /** Goes on in the next best way. */
  private giveWay(): void {
    const next = WAYS[WAYS.indexOf(this.way) + 1] ?? "poll";
    this.halt();
    this.begin(next);
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
        this.later(run, EMPTY, () => this.findEmpty());
      } catch {
        // Without the records the names of the watch are shown, and the next round asks again.
      } finally {
        if (run === this.run) this.listing = false;
      }
    })();
  }

  private findEmpty(): void {
    const { registry } = this;
    if (registry.loaded || registry.instances > 0 || !this.connection) return;
    registry.isEmpty();
    this.set("live");
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
    if (run !== this.run) return;
    if (answers && this.staleAt > 0) {
      this.staleAt = 0;
      this.changed();
    }
    if (answers === this.planes) return;
    this.planes = answers;
    if (answers && this.connection) this.list(run);
    this.changed();
  }

  private checkSilence(run: number): void {
    // Without control planes nothing can be new, and a gateway has nothing to say.
    if (!this.planes || !this.connection || Date.now() - Math.max(this.heardAt, this.openedAt) <= SILENCE) return;
    this.set("lost");
    this.open(run);
  }
}
