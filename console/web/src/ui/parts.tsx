/** The parts that every page uses. */

import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";

import { STATUSES } from "../core/model";
import { api, changed, live, session } from "../core/state";
import { cli, curl } from "../core/format";
import { t } from "../core/words";

type Children = { children?: ComponentChildren };

export function Status({ status }: { status: string | undefined }) {
  const known = (STATUSES as readonly string[]).includes(status ?? "");
  return <span class={`status ${known ? (status ?? "").toLowerCase() : "other"}`}>{status || "–"}</span>;
}

export function Empty({ children }: Children) {
  return <div class="empty">{children}</div>;
}

export function Panel({ title, tools, children }: Children & { title: ComponentChildren; tools?: ComponentChildren }) {
  return (
    <section class="panel">
      <header>
        <h2>{title}</h2>
        {tools}
      </header>
      {children}
    </section>
  );
}

/** A list of names and values. Values that are absent take no line. */
export function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
  const shown = facts.filter(([, value]) => value !== undefined && value !== "" && value !== null);
  return (
    <dl class="facts">
      {shown.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export interface Loaded<T> {
  data: T | undefined;
  error: string;
  reload: () => void;
}

/** Something that is loaded. What was loaded before stays while it is loaded again, and when that fails. */
export function useLoad<T>(load: () => Promise<T>, key: string): Loaded<T> {
  const [state, setState] = useState<{ key: string; data: T | undefined; error: string }>({
    key,
    data: undefined,
    error: "",
  });
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    let wanted = true;
    latest.current().then(
      (data) => wanted && setState({ key, data, error: "" }),
      (error: unknown) =>
        wanted &&
        setState((before) => ({
          key,
          data: before.key === key ? before.data : undefined,
          error: error instanceof Error ? error.message : String(error),
        })),
    );
    return () => {
      wanted = false;
    };
  }, [key, round]);
  const reload = useCallback(() => setRound((before) => before + 1), []);
  const isSame = state.key === key;
  return { data: isSame ? state.data : undefined, error: isSame ? state.error : "", reload };
}

/** What the viewer may see; what would be refused is not asked for. */
export async function permittedOr<T extends object>(permitted: boolean, path: string): Promise<Partial<T>> {
  return permitted ? api.get<T>(path) : {};
}

export function Loading<T>({ loaded, children }: { loaded: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {loaded.error && (
        <div class="notice bad" role="alert">
          <span>{t("failed", loaded.error)}</span>
          <button type="button" onClick={loaded.reload}>
            {t("again")}
          </button>
        </div>
      )}
      {loaded.data !== undefined ? children(loaded.data) : !loaded.error && <p class="quiet">{t("loading")}</p>}
    </>
  );
}

/** A window over the page. It closes with Escape, and gives the focus back. */
export function Dialog({ title, onClose, children }: Children & { title: string; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useLayoutEffect(() => {
    const { current } = dialog;
    if (current && !current.open) current.showModal();
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={heading} onClose={onClose}>
      <h2 id={heading}>{title}</h2>
      {children}
    </dialog>
  );
}

interface Act {
  question: string;
  detail?: string[];
  /** What is sent when the viewer says yes. */
  method: string;
  path: string;
  body?: unknown;
  /** Further calls after the first, each with its method and path. */
  more?: [string, string][];
  /** The same as words of `muster`, where there are such. */
  command?: string[];
  done?: () => void;
}

const asked: { act: Act | undefined; said: string } = { act: undefined, said: "" };

/** Asks before something is changed, and says what came of it. */
export function ask(act: Act): void {
  asked.act = act;
  changed();
}

/** Says something to the viewer, and to screen readers. */
export function say(text: string): void {
  asked.said = text;
  changed();
}

export function Asking() {
  const { act, said } = asked;
  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => say(""), 5000);
    return () => clearTimeout(timer);
  }, [said]);
  return (
    <>
      {act && <Confirm key={act.question} act={act} />}
      <div class={said ? "toast shown" : "toast"} role="status">
        {said}
      </div>
    </>
  );
}

function Confirm({ act }: { act: Act }) {
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const close = () => {
    asked.act = undefined;
    changed();
  };
  const run = async () => {
    setBusy(true);
    try {
      await api.call(act.method, act.path, act.body);
      for (const [method, path] of act.more ?? []) await api.call(method, path);
      close();
      say(t("done", act.question));
      act.done?.();
    } catch (failure) {
      // The window stays, so nothing that was chosen is lost.
      setError(failure instanceof Error ? failure.message : String(failure));
    } finally {
      setBusy(false);
    }
  };
  const body = act.body === undefined ? undefined : JSON.stringify(act.body);
  return (
    <Dialog title={act.question} onClose={close}>
      {act.detail?.map((line) => <p key={line}>{line}</p>)}
      <CopyCommands method={act.method} path={act.path} body={body} command={act.command} more={act.more} />
      {error && (
        <p class="notice bad" role="alert">
          {t("actFailed", error)}
        </p>
      )}
      {!live.planes && <p class="notice bad">{t("needsPlane")}</p>}
      <div class="buttons">
        <button type="button" class="main" disabled={busy || !live.planes} onClick={() => void run()}>
          {t("doIt")}
        </button>
        <button type="button" onClick={close}>
          {t("cancel")}
        </button>
      </div>
    </Dialog>
  );
}

/** The same call as lines for a shell. A token never stands in them. */
export function CopyCommands({
  method,
  path,
  body,
  command,
  more = [],
}: {
  method: string;
  path: string;
  body?: string | undefined;
  command?: string[] | undefined;
  more?: [string, string][] | undefined;
}) {
  const server = api.url("").replace(/\/$/, "");
  const common = { headers: api.headers(), signedIn: session.access !== "open" };
  const lines = [curl({ ...common, method, url: api.url(path), body })];
  for (const [verb, next] of more) lines.push(curl({ ...common, method: verb, url: api.url(next) }));
  return (
    <div class="buttons small">
      <Copy label={t("copyCurl")} text={lines.join("\n")} />
      {command && <Copy label={t("copyCli")} text={cli(server, command)} />}
    </div>
  );
}

export function Copy({ text, label = t("copy") }: { text: string; label?: string }) {
  const copy = () => {
    // Browsers have it on secure addresses and on this machine only.
    const writing = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("no clipboard"));
    writing.then(
      () => say(t("copied")),
      () => say(copyByHand(text) ? t("copied") : t("copyFailed")),
    );
  };
  return (
    <button type="button" class="small" title={text} onClick={copy}>
      {label}
    </button>
  );
}

function copyByHand(text: string): boolean {
  const field = document.createElement("textarea");
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

/** A list of any length: only the rows that can be seen exist. */
export function Rows<T>({
  items,
  height,
  label,
  row,
  idOf,
}: {
  items: T[];
  height: number;
  label: string;
  row: (item: T) => ComponentChildren;
  idOf: (item: T) => string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [room, setRoom] = useState(800);
  useLayoutEffect(() => {
    const { current } = box;
    if (!current) return;
    const measure = new ResizeObserver(() => setRoom(current.clientHeight));
    measure.observe(current);
    return () => measure.disconnect();
  }, []);
  const first = Math.max(0, Math.min(Math.floor(top / height) - 4, items.length - 1));
  const shown = items.slice(first, first + Math.ceil(room / height) + 8);
  return (
    <div
      class="rows"
      ref={box}
      tabIndex={0}
      role="list"
      aria-label={label}
      onScroll={(event) => setTop(event.currentTarget.scrollTop)}
    >
      <div role="presentation" class="space" style={{ height: `${items.length * height}px` }}>
        <div role="presentation" style={{ transform: `translateY(${first * height}px)` }}>
          {shown.map((item, index) => (
            <div
              key={idOf(item)}
              role="listitem"
              aria-setsize={items.length}
              aria-posinset={first + index + 1}
              class="row"
              style={{ height: `${height}px` }}
            >
              {row(item)}
            </div>
          ))}
        </div>
      </div>
    </div>
  );
}

/** Lights up for a moment when something has changed. */
export function Flash({ at }: { at: number }) {
  return at > 0 && Date.now() - at < 2000 ? <span key={at} class="flash" aria-hidden="true" /> : null;
}

export function Select({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: string;
  options: [string, string][];
  onChange: (value: string) => void;
}) {
  return (
    <select aria-label={label} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
      {options.map(([key, text]) => (
        <option key={key} value={key}>
          {text}
        </option>
      ))}
    </select>
  );
}
