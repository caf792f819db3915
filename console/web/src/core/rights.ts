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
