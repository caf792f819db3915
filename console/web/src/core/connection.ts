/** One open watch: over a WebSocket, or as server-sent events where there is no way for a WebSocket. */

import type { Api } from "./api";
import { EventParser, type ServerEvent } from "./events";
import { afterClose, afterReason, type Next } from "./resume";

export interface Ended {
  next: Next;
  problem: string;
  didOpen: boolean;
}

export interface Handlers {
  opened: () => void;
  text: (text: string) => void;
  /** A sign of life that says nothing. */
  alive: () => void;
  ended: (how: Ended) => void;
}

export interface Connection {
  close: () => void;
}

export function openSocket(api: Api, rev: number, handlers: Handlers): Connection {
  const url = new URL(api.url(api.path("/registry/watcher")));
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = `?all&rev=${rev}`;
  // Browsers send no header of ours with a WebSocket, so the gateway takes the token from here.
  const offers = api.token ? ["muster.watch", `muster.bearer.${api.token}`] : [];
  const socket = new WebSocket(url.href, offers);
  let didOpen = false;
  let closed = false;
  let said = "";
  socket.onopen = () => {
    didOpen = true;
    if (!closed) handlers.opened();
  };
  socket.onmessage = ({ data }: MessageEvent<string>) => {
    if (closed) return;
    // A text that is no JSON is the reason why the watch ends.
    if (data.startsWith("{")) handlers.text(data);
    else said = data.slice(0, 200);
  };
  socket.onclose = ({ code, reason }) => {
    if (!closed) handlers.ended({ next: afterClose(code), problem: reason || said, didOpen });
  };
  return {
    close: () => {
      closed = true;
      socket.close();
    },
  };
}

/** With `fetch` and not with `EventSource`, which has no headers: the token and the domain stand in them. */
export function openStream(api: Api, rev: number, handlers: Handlers): Connection {
  const abort = new AbortController();
  const read = async (): Promise<Ended> => {
    const path = api.path(`/registry/events?all&rev=${rev}`);
    const response = await api.send("GET", path, { signal: abort.signal });
    if (!response.ok || !response.body) {
      const next = { 401: "sign-in", 403: "denied", 404: "none", 405: "none" }[response.status] as Next | undefined;
      return { next: next ?? "again", problem: (await response.text()).slice(0, 200), didOpen: false };
    }
    handlers.opened();
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { next: "again", problem: "", didOpen: true };
      handlers.alive();
      for (const event of parser.push(value)) {
        if (event.name === "end") return { ...endOf(event), didOpen: true };
        handlers.text(event.data);
      }
    }
  };
  read().then(
    (how) => abort.signal.aborted || handlers.ended(how),
    (error: unknown) => {
      if (abort.signal.aborted) return;
      handlers.ended({ next: "again", problem: error instanceof Error ? error.message : "", didOpen: false });
    },
  );
  return { close: () => abort.abort() };
}

function endOf(event: ServerEvent): { next: Next; problem: string } {
  try {
    const { reason = "", detail = "" } = JSON.parse(event.data) as Record<string, string>;
    return { next: afterReason(reason), problem: detail };
  } catch {
    return { next: "again", problem: "" };
  }
}
