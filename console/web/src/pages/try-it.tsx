import { useState } from "preact/hooks";

import { ago, curl } from "../core/format";
import { example, matches, operations, target, type Document_, type Operation, type Parameter } from "../core/openapi";
import { link, replaceQuery, type Route } from "../core/route";
import { staleAge } from "../core/stale";
import { api, live, session } from "../core/state";
import { t, tag } from "../core/words";
import { Copy, Dialog, Empty, Loading, Panel, useLoad } from "../ui/parts";

interface Answer {
  status: number;
  took: number;
  /** The time of which it was right; 0 for an answer of now. */
  staleAt: number;
  headers: string;
  body: string;
}

export function TryIt({ route }: { route: Route }) {
  const loaded = useLoad(() => api.get<Document_>("/openapi.json"), "openapi");
  const text = route.query.get("q") ?? "";
  const chosen = route.query.get("op") ?? "";
  return (
    <>
      <h1>{t("tryIt")}</h1>
      <p class="quiet">
        {t("apiLead")} <a href={api.url("openapi.json")}>openapi.json</a>
      </p>
      <Loading loaded={loaded}>
        {(document) => {
          const all = operations(document);
          const shown = all.filter((operation) => matches(operation, text));
          const operation = all.find((one) => one.operationId === chosen);
          return (
            <div class="columns side wide">
              <div>
                <input
                  type="search"
                  value={text}
                  placeholder={t("filterCalls")}
                  aria-label={t("filterCalls")}
                  onInput={(event) => replaceQuery(route, { q: event.currentTarget.value })}
                />
                <Calls operations={shown} chosen={chosen} text={text} />
              </div>
              {operation ? (
                <Call key={operation.operationId} operation={operation} document={document} />
              ) : (
                <Empty>{t("chooseCall")}</Empty>
              )}
            </div>
          );
        }}
      </Loading>
    </>
  );
}

/** The order of the groups; others come after these. */
const GROUPS = ["Registry", "Govern", "Admin", "Access", "About", "Version 3"];

function Calls({ operations: all, chosen, text }: { operations: Operation[]; chosen: string; text: string }) {
  const groups = new Map<string, Operation[]>(GROUPS.map((tag) => [tag, []]));
  for (const one of all) {
    const tag = one.tags[0] ?? "";
    groups.set(tag, [...(groups.get(tag) ?? []), one]);
  }
  return (
    <div class="calls" tabIndex={0} role="group" aria-label={t("tryIt")}>
      {[...groups].filter(([, group]) => group.length > 0).map(([tag, group]) => (
        <div key={tag}>
          <h2>{tag}</h2>
          <ul class="plain-list">
            {group.map((one) => (
              <li key={one.operationId}>
                <a
                  class={one.operationId === chosen ? "call chosen" : "call"}
                  aria-current={one.operationId === chosen ? "true" : undefined}
                  href={link(["api"], { op: one.operationId, q: text })}
                >
                  <b class={`verb ${one.method.toLowerCase()}`}>{one.method}</b> <span class="mono">{one.path}</span>
                  <span class="quiet">{one.summary}</span>
                </a>
              </li>
            ))}
          </ul>
        </div>
      ))}
    </div>
  );
}

function begin(parameter: Parameter): string {
  if (parameter.name === "project") return api.tenant.project;
  return parameter.name === "X-Domain-Name" && api.tenant.domain !== "default" ? api.tenant.domain : "";
}

function Call({ operation, document }: { operation: Operation; document: Document_ }) {
  const parameters = operation.parameters ?? [];
  const schema = operation.requestBody?.content["application/json"]?.schema;
  const [values, setValues] = useState<Record<string, string>>(() =>
    Object.fromEntries(parameters.map((parameter) => [parameter.name, begin(parameter)])),
  );
  const [body, setBody] = useState(() =>
    schema ? JSON.stringify(example(schema, document.components.schemas), null, 2) : "",
  );
  const [answer, setAnswer] = useState<Answer>();
  const [error, setError] = useState("");
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState(false);
  const path = target(operation, values);
  const headers: Record<string, string> = {};
  for (const { name, in: place } of parameters) {
    const value = values[name];
    if (place === "header" && value) headers[name] = value;
  }
  const sent = schema ? body : undefined;
  const run = async () => {
    setAsking(false);
    setBusy(true);
    setError("");
    const began = performance.now();
    try {
      const response = await api.send(operation.method, path, { body: sent, headers });
      const text = await response.text();
      const age = staleAge(response.headers);
      setAnswer({
        status: response.status,
        took: Math.round(performance.now() - began),
        staleAt: age === undefined ? 0 : Date.now() - age * 1000,
        headers: [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n"),
        body: pretty(text),
      });
    } catch (failure) {
      setError(failure instanceof Error ? failure.message : String(failure));
    } finally {
      setBusy(false);
    }
  };
  const line = curl({
    method: operation.method,
    url: api.url(path),
    headers: { ...api.headers(), ...headers },
    body: sent,
    signedIn: session.access !== "open",
  });
  return (
    <Panel
      title={
        <>
          <b class={`verb ${operation.method.toLowerCase()}`}>{operation.method}</b>{" "}
          <span class="mono">{operation.path}</span>
        </>
      }
      tools={<Copy label={t("copyCurl")} text={line} />}
    >
      <p>{operation.summary}</p>
      <form
        class="form"
        onSubmit={(event) => {
          event.preventDefault();
          if (operation.method === "GET") void run();
          else setAsking(true);
        }}
      >
        {parameters.map((parameter) => (
          <label key={`${parameter.in} ${parameter.name}`}>
            <span>
              <b>{parameter.name}</b> <span class="quiet">({parameter.in})</span> {parameter.description}
            </span>
            <input
              value={values[parameter.name] ?? ""}
              required={parameter.required ?? false}
              spellcheck={false}
              autoComplete="off"
              onInput={(event) => setValues({ ...values, [parameter.name]: event.currentTarget.value })}
            />
          </label>
        ))}
        {schema && (
          <label>
            {t("body")}
            <textarea
              class="mono"
              rows={12}
              spellcheck={false}
              value={body}
              onInput={(event) => setBody(event.currentTarget.value)}
            />
          </label>
        )}
        <div class="buttons">
          <button class="main" disabled={busy}>
            {t("send")}
          </button>
        </div>
      </form>
      {error && (
        <p class="notice bad" role="alert">
          {t("failed", error)}
        </p>
      )}
      {answer && (
        <>
          <h3>
            <span role="status">
              {t("answer")}: {answer.status} <span class="quiet">{t("tookMs", answer.took)}</span>
            </span>
          </h3>
          {answer.staleAt > 0 && <p class="notice">{t("staleMark", ago(answer.staleAt, Date.now(), tag()))}</p>}
          <pre tabIndex={0}>{answer.body || t("emptyBody")}</pre>
          <details>
            <summary>{t("headers")}</summary>
            <pre tabIndex={0}>{answer.headers}</pre>
          </details>
        </>
      )}
      {asking && (
        <Dialog title={t("sendSure")} onClose={() => setAsking(false)}>
          <pre>
            {operation.method} {path}
          </pre>
          {!live.planes && <p class="notice bad">{t("needsPlane")}</p>}
          <div class="buttons">
            <button type="button" class="main" disabled={!live.planes} onClick={() => void run()}>
              {t("doIt")}
            </button>
            <button type="button" onClick={() => setAsking(false)}>
              {t("cancel")}
            </button>
          </div>
        </Dialog>
      )}
    </Panel>
  );
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
