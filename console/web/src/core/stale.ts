/** Answers that are not of now, because no control plane could be asked. Pure. */

/** The seconds by which an answer is old that a gateway has given because no control plane could. */
export function staleAge(headers: Headers): number | undefined {
  if (!/^\s*110\b/.test(headers.get("Warning") ?? "")) return undefined;
  const age = Number(headers.get("Age") ?? "");
  return Number.isFinite(age) && age >= 0 ? age : 0;
}
