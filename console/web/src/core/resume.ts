/** When and how a watch that has ended is opened again. Pure. */

/**
 * How to go on after the end of a watch: again where it was, from the beginning, after signing in; or not at all,
 * because the account may not, or because there is no such watch.
 */
export type Next = "again" | "from-start" | "sign-in" | "denied" | "none";

/** Milliseconds to wait after so many failures. `random` is between 0 and 1, so that pages do not come all at once. */
export function backoff(failures: number, random: number): number {
  return Math.min(15_000, 400 * 2 ** Math.min(failures, 6)) * (0.5 + random / 2);
}

/** By the close code of a WebSocket. */
export function afterClose(code: number): Next {
  if (code === 4106) return "from-start";
  if (code === 4105) return "denied";
  return code >= 4101 && code <= 4107 ? "sign-in" : "again";
}

const REASONS: Record<string, Next> = {
  token_expired: "sign-in",
  token_revoked: "sign-in",
  token_missing: "sign-in",
  account_deleted: "sign-in",
  account_inactive: "sign-in",
  right_lost: "denied",
  right_changed: "from-start",
};

/** By the reason in the last of the server-sent events. */
export function afterReason(reason: string): Next {
  return REASONS[reason] ?? "again";
}
