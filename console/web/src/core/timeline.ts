/** The last changes of a service or an instance, with their causes, as a control plane knows them. Pure. */

import type { Word } from "./words";

export interface Noted {
  revision: number;
  /** Milliseconds since 1970. */
  time: number;
  instanceId: string;
  cause: string;
  /** The status that clients saw after the change, or last. */
  status?: string;
  overrideId?: string;
  by?: string;
  reason?: string;
}

export interface Timeline {
  /** Every change after this revision is known. */
  since: number;
  changes?: Noted[];
}

export interface Shown extends Noted {
  key: string;
  /** The status before, where the timeline has it. */
  from: string | undefined;
}

/** The causes with which an instance leaves. */
const ENDS = new Set(["unregistered", "beat-lost", "hold-ended", "service-deleted"]);

const CAUSES: Record<string, Word> = {
  registered: "causeRegistered",
  "registered-again": "causeRegisteredAgain",
  "status-changed": "causeStatus",
  changed: "causeChanged",
  unregistered: "causeUnregistered",
  "beat-lost": "causeBeatLost",
  held: "causeHeld",
  "hold-ended": "causeHoldEnded",
  "service-registered": "causeServiceRegistered",
  "service-deleted": "causeServiceDeleted",
  override: "causeOverride",
  "override-ended": "causeOverrideEnded",
  drain: "causeDrain",
  "drain-ended": "causeDrainEnded",
};

/** The word for a cause; `undefined` for one of a later version, which is shown as it is. */
export function causeWord(cause: string): Word | undefined {
  return CAUSES[cause];
}

export function isEnd(cause: string): boolean {
  return ENDS.has(cause);
}

/** The changes, the latest first, each with the status that the same instance had before. */
export function shown({ changes = [] }: Timeline): Shown[] {
  const before = new Map<string, string>();
  const times = new Map<string, number>();
  const all = changes.map((change) => {
    const from = before.get(change.instanceId);
    if (isEnd(change.cause)) before.delete(change.instanceId);
    else before.set(change.instanceId, change.status ?? "");
    // One revision may change an instance twice: it is unregistered and registered, or overridden at once.
    const name = `${change.revision} ${change.instanceId} ${change.cause}`;
    const nth = (times.get(name) ?? 0) + 1;
    times.set(name, nth);
    return { ...change, from, key: `${name} ${nth}` };
  });
  return all.reverse();
}
