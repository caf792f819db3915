/** When and how a watch that has ended is opened again. Pure. */

/** Milliseconds to wait after so many failures. `random` is between 0 and 1, so that pages do not come all at once. */
export function backoff(failures: number, random: number): number {
  return Math.min(15_000, 400 * 2 ** Math.min(failures, 6)) * (0.5 + random / 2);
}

/** The meaning of a watch's end for whoever wants to watch again. */
export function afterClose(code: number): "again" | "from-start" | "sign-in" | "denied" {
  if (code === 4106) return "from-start";
  if (code === 4105) return "denied";
  return code >= 4101 && code <= 4107 ? "sign-in" : "again";
}
