/** Drains: an instance takes no more traffic, and everybody who reads the service is known to have been told. Pure but for one class. */

import { t, type Word } from "./words";

export interface Waiting {
  consumer?: string;
  transport?: string;
  peer?: string;
  gateway?: string;
  state?: string;
  forMs?: number;
}

/** A line of the reply. A registry of a later version may send more. */
export interface Progress {
  proven?: boolean;
  done?: boolean;
  watchers?: number;
  reached?: number;
  /** Clients that poll, and those of them that have asked since. */
  pollers?: number;
  pollersReached?: number;
  /** The time for which clients may go by the answer of a gateway that is gone. */
  pollersKnownInMs?: number;
  /** Streams of xDS, and those of them that know. */
  streams?: number;
  streamsReached?: number;
  moving?: number;
  gateways?: number;
  behind?: number;
  fleetKnown?: boolean;
  silent?: { gateway?: string; silentMs?: number }[];
  gone?: string[];
  waiting?: Waiting[];
  elapsedMs?: number;
  instances?: number;
  then?: string;
  /** Given back, and taking no traffic all the same. */
  stillOut?: number;
  error?: string;
}

/** Who watches a service, and how far the gateways and the watchers are. */
export interface Watchers extends Progress {
  revision?: number;
  at?: { gateway?: string; watchers?: number; reached?: number; behind?: boolean }[];
}

export type Then = "keep" | "unregister" | "give-back";

/** What is drained: a service, or one of its instances. */
export interface Subject {
  serviceId: string;
  instanceId?: string;
}

export interface Terms {
  /** Seconds. */
  deadline: number;
  then: Then;
  /** For people; empty for none. */
  reason: string;
}

export function keyOf({ serviceId, instanceId }: Subject): string {
  return `${serviceId}/${instanceId ?? ""}`;
}

/** The path of the drain below `/v4/{project}`. To delete that of an instance gives it back. */
export function pathOf({ serviceId, instanceId }: Subject): string {
  const service = `/registry/microservices/${encodeURIComponent(serviceId)}`;
  return `${instanceId ? `${service}/instances/${encodeURIComponent(instanceId)}` : service}/drain`;
}

export function queryOf({ deadline, then, reason }: Terms): string {
  const why = reason && `&reason=${encodeURIComponent(reason)}`;
  return `?deadline=${Math.max(1000, Math.round(deadline * 1000))}ms&then=${then}${why}`;
}

/** The same as words of `muster`. */
export function commandOf(subject: Subject, { deadline, then, reason }: Terms): string[] {
  const words = ["drain", subject.instanceId ? "instance" : "service", "--service", subject.serviceId];
  if (subject.instanceId) words.push("--instance", subject.instanceId);
  words.push("--deadline", `${deadline}s`);
  if (then !== "keep") words.push(`--${then}`);
  if (reason) words.push("--reason", reason);
  return words;
}

/** Reads JSON objects, one a line, from the pieces in which they arrive. A line that is none is left out. */
export class LineParser {
  private rest = "";

  push(piece: string): Progress[] {
    const lines = (this.rest + piece).split("\n");
    this.rest = lines.pop() ?? "";
    const read: Progress[] = [];
    for (const line of lines) {
      try {
        const value = JSON.parse(line) as unknown;
        if (typeof value === "object" && value !== null) read.push(value);
      } catch {
        // The next line has everything again.
      }
    }
    return read;
  }
}

/** The readers of every kind, and those of them that know. */
export function readers(progress: Progress | undefined): { all: number; known: number } {
  const { watchers = 0, reached = 0, pollers = 0, pollersReached = 0, streams = 0, streamsReached = 0 } = progress ?? {};
  return { all: watchers + pollers + streams, known: reached + pollersReached + streamsReached };
}

/** True for a last line that ends nothing: its gateway is about to end, and another one begins the drain again. */
export function isCutOff({ done, then, proven }: Progress): boolean {
  return done === true && then === undefined && proven !== true;
}

/** The state in words: the watchers that know first, then everything that is missing for a proof. */
export function words(progress: Progress, number: (value: number) => string): string {
  const { watchers = 0, reached = 0, moving = 0, behind = 0, silent = [] } = progress;
  const { pollers = 0, pollersReached = 0, streams = 0, streamsReached = 0, pollersKnownInMs } = progress;
  const rest: [number, Word][] = [
    [watchers - reached, "drainWait"],
    [moving, "drainMoving"],
    [behind, "drainBehind"],
    [silent.length, "drainSilent"],
  ];
  const parts = [t("drainKnow", number(reached), number(watchers))];
  for (const [count, word] of rest) if (count > 0) parts.push(t(word, number(count)));
  if (pollers > 0) parts.push(t("drainPolls", number(pollersReached), number(pollers)));
  if (streams > 0) parts.push(t("drainStreams", number(streamsReached), number(streams)));
  if (pollersKnownInMs !== undefined) parts.push(t("drainPollsUnknown", number(Math.ceil(pollersKnownInMs / 1000))));
  if (progress.fleetKnown === false) parts.push(t("drainNewGateway"));
  return parts.join(t("comma"));
}
