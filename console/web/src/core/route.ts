/** The address of what is shown. It stands behind `#`, so it is sent to no server and stands in no log. */

import { useEffect, useState } from "preact/hooks";

export interface Route {
  path: string[];
  query: URLSearchParams;
}

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean);
  return { path: parts.map(decode), query: new URLSearchParams(query) };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function link(path: string[], query: Record<string, string | undefined> = {}): string {
  const set = Object.entries(query).filter((pair): pair is [string, string] => Boolean(pair[1]));
  const text = new URLSearchParams(set).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const listener = () => setHash(location.hash);
    addEventListener("hashchange", listener);
    return () => removeEventListener("hashchange", listener);
  }, []);
  return parseRoute(hash);
}

/** Changes the query without a new entry in the history: each letter of a search is no page. */
export function replaceQuery(route: Route, query: Record<string, string | undefined>): void {
  const merged = Object.fromEntries(route.query);
  history.replaceState(null, "", link(route.path, { ...merged, ...query }));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function go(to: string): void {
  location.hash = to.replace(/^#/, "");
}
