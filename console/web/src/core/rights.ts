/** Roles in plain words, and the questions that the pages ask of them. Pure. */

import type { Permission } from "./model";

export interface Statement {
  verbs: string[];
  type: string;
  labels: [string, string][];
}

/** One statement for each resource of each permission; `*` stands for every verb. */
export function statements(permissions: Permission[] | undefined): Statement[] {
  const all: Statement[] = [];
  for (const { resources = [], verbs = [] } of permissions ?? []) {
    for (const { type = "", labels = {} } of resources) {
      all.push({ verbs: verbs.includes("*") ? ["*"] : verbs, type, labels: Object.entries(labels) });
    }
  }
  return all;
}

/** Whether a verb on a type is permitted everywhere, in some places, or nowhere. */
export function may(permissions: Permission[] | undefined, verb: string, type: string): "all" | "some" | "none" {
  if (permissions === undefined) return "all";
  let answer: "some" | "none" = "none";
  for (const { verbs, type: own, labels } of statements(permissions)) {
    if (own !== type || !(verbs.includes("*") || verbs.includes(verb))) continue;
    if (labels.length === 0) return "all";
    answer = "some";
  }
  return answer;
}

/** The labels of a service, which a role may be limited to. */
export interface Labels {
  environment?: string;
  appId?: string;
  serviceName?: string;
}

/** Whether a verb on a type is permitted for what has these labels. */
export function mayAt(permissions: Permission[] | undefined, verb: string, type: string, of: Labels): boolean {
  if (permissions === undefined) return true;
  return statements(permissions).some(
    ({ verbs, type: own, labels }) =>
      own === type &&
      (verbs.includes("*") || verbs.includes(verb)) &&
      labels.every(([key, pattern]) => {
        if (key === "environment" || key === "appId" || key === "serviceName") return glob(pattern, of[key] ?? "");
        // A label that no service has: only "it has none" is true of it.
        return pattern === "";
      }),
  );
}

/** `*` stands for anything, as in the registry. */
export function glob(pattern: string, text: string): boolean {
  const [first = "", ...parts] = pattern.split("*");
  if (!text.startsWith(first)) return false;
  let rest = text.slice(first.length);
  const last = parts.pop();
  if (last === undefined) return rest === "";
  for (const part of parts) {
    const place = rest.indexOf(part);
    if (place < 0) return false;
    rest = rest.slice(place + part.length);
  }
  return rest.endsWith(last);
}

/** The account in a token, which the page shows. It decides nothing by it. */
export function accountOf(token: string): string {
  try {
    const part = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { account?: string };
    return claims.account ?? "";
  } catch {
    return "";
  }
}
