/** Drains: the window that begins one, and the panel that shows how far it is. */

import { useState } from "preact/hooks";

import { callsToGiveBack, callsToUnregister, drainOf, forget, startDrain, stop, type Drain } from "../core/drains";
import { commandOf, pathOf, queryOf, readers, words, type Progress, type Subject, type Then, type Waiting } from "../core/drain";
import { number, span } from "../core/format";
import type { Entry, Provider } from "../core/registry";
import { link } from "../core/route";
import { allowedAt, api, live, registry, useNow } from "../core/state";
import { t, tag, type Word } from "../core/words";
import { ask, CopyCommands, Dialog, Panel } from "./parts";

/** The deadlines that are offered, in seconds. */
const DEADLINES = [10, 30, 70, 300, 900, 3600];
/** The registry's own. */
const USUAL = 70;
const ENDS: [Then, Word][] = [
  ["keep", "thenKeep"],
  ["unregister", "thenUnregister"],
  ["give-back", "thenGiveBack"],
];

function nameOf(provider: Provider, entry: Entry | undefined): string {
  return entry ? (entry.instance.endpoints?.[0] ?? entry.instance.instanceId) : (provider.key.serviceName ?? "");
}

function subjectOf(provider: Provider, entry: Entry | undefined): Subject {
  return { serviceId: provider.serviceId, ...(entry ? { instanceId: entry.instance.instanceId } : {}) };
}

/** The button that opens the window. Nobody without the right sees it. */
export function DrainButton({ provider, entry }: { provider: Provider; entry?: Entry }) {
  const [open, setOpen] = useState(false);
  const subject = subjectOf(provider, entry);
  if (!allowedAt("update", "service", provider.key)) return null;
  const isRunning = drainOf(subject)?.state === "running";
  return (
    <>
      <button
        type="button"
        class="small"
        disabled={!live.planes || isRunning || provider.instances.size === 0}
        title={live.planes ? t("drainLead") : t("needsPlane")}
        onClick={() => setOpen(true)}
      >
        {t("drain")}
      </button>
      {open && <Begin provider={provider} entry={entry} subject={subject} onClose={() => setOpen(false)} />}
    </>
  );
}

function Begin({
  provider,
  entry,
  subject,
  onClose,
}: {
  provider: Provider;
  entry: Entry | undefined;
  subject: Subject;
  onClose: () => void;
}) {
  const [deadline, setDeadline] = useState(USUAL);
  const [then, setThen] = useState<Then>("keep");
  const [reason, setReason] = useState("");
  const name = nameOf(provider, entry);
  const entries = entry ? [entry] : [...provider.instances.values()];
  const terms = { deadline, then, reason: reason.trim() };
  // Unregistering is a right of its own, which the last step needs.
  const ends = ENDS.filter(([end]) => end !== "unregister" || allowedAt("delete", "service", provider.key));
  const begin = () => {
    startDrain(subject, name, terms, entries.map(({ instance }) => instance.instanceId));
    onClose();
  };
  return (
    <Dialog title={t("drainOf", name)} onClose={onClose}>
      <p>{entry ? t("drainLead") : t("drainLeadService", number(entries.length, tag()))}</p>
      <p class="quiet">{t("drainGoesOn")}</p>
      <div class="form columns even">
        <label>
          {t("drainDeadline")}
          <select value={String(deadline)} onChange={(event) => setDeadline(Number(event.currentTarget.value))}>
            {DEADLINES.map((seconds) => (
              <option key={seconds} value={String(seconds)}>
                {span(seconds * 1000, tag())}
              </option>
            ))}
          </select>
        </label>
        <label>
          {t("drainThen")}
          <select value={then} onChange={(event) => setThen(event.currentTarget.value as Then)}>
            {ends.map(([end, word]) => (
              <option key={end} value={end}>
                {t(word)}
              </option>
            ))}
          </select>
        </label>
        <label>
          {t("fieldReason")}
          <input value={reason} maxLength={256} onInput={(event) => setReason(event.currentTarget.value)} />
        </label>
      </div>
      <CopyCommands method="POST" path={api.path(pathOf(subject) + queryOf(terms))} command={commandOf(subject, terms)} />
      {!live.planes && <p class="notice bad">{t("needsPlane")}</p>}
      <div class="buttons">
        <button type="button" class="main" disabled={!live.planes} onClick={begin}>
          {t("drainStart")}
        </button>
        <button type="button" onClick={onClose}>
          {t("cancel")}
        </button>
      </div>
    </Dialog>
  );
}

/** How far a drain is, while there is one. It stays when the instance goes. */
export function DrainPanel({ subject, provider }: { subject: Subject; provider: Provider | undefined }) {
  const drain = drainOf(subject);
  if (!drain) return null;
  return (
    <Panel
      title={t("drainOf", drain.name)}
      tools={
        drain.state === "running" ? (
          <button type="button" class="small" onClick={() => stop(drain)}>
            {t("stopWaiting")}
          </button>
        ) : (
          <button type="button" class="small" onClick={() => forget(drain)}>
            {t("hide")}
          </button>
        )
      }
    >
      <Proof drain={drain} />
      {drain.state !== "running" && <Afterwards drain={drain} provider={provider} />}
    </Panel>
  );
}

function Proof({ drain }: { drain: Drain }) {
  const now = useNow(500);
  const { progress, state } = drain;
  const figure = (value: number) => number(value, tag());
  const { all, known } = readers(progress);
  const part = all > 0 ? known / all : progress?.proven ? 1 : 0;
  return (
    <>
      <div
        class={`bar drain ${progress?.proven ? "up" : state === "running" ? "" : "down"}`}
        role="progressbar"
        aria-label={t("drain")}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.floor(part * 100)}
      >
        <span style={{ width: `${part * 100}%` }} />
      </div>
      <p role="status">
        <b>{progress ? words(progress, figure) : state === "running" ? t("drainAsking") : ""}</b>
      </p>
      <p class="quiet">
        {[
          state === "running" && t("drainLeft", span(Math.max(0, drain.until - now), tag())),
          progress && t("drainOnGateways", figure(progress.gateways ?? 0)),
          drain.again > 0 && t("drainAgain"),
        ]
          .filter(Boolean)
          .join(" · ")}
      </p>
      <Outcome drain={drain} />
      <Missing progress={progress} />
    </>
  );
}

const DONE: Record<string, Word> = {
  kept: "drainKept",
  unregistered: "drainUnregistered",
  "given back": "drainGivenBack",
};

function Outcome({ drain }: { drain: Drain }) {
  const { state, progress, problem } = drain;
  if (state === "running") return problem ? <p class="notice">{problem}</p> : null;
  if (state === "stopped") return <p class="notice">{t("drainStopped")}</p>;
  if (state === "failed") {
    // A control plane's own port does not know the path at all.
    const text = live.mode === "polling" && /40[045]|not found/i.test(problem) ? t("drainNeedsGateway") : problem;
    return (
      <p class="notice bad" role="alert">
        {t("drainNothing", text)}
      </p>
    );
  }
  const took = span(progress?.elapsedMs ?? 0, tag());
  const then = DONE[progress?.then ?? ""];
  return (
    <p class={progress?.proven ? "notice good" : "notice bad"} role="alert">
      {[
        progress?.proven ? t("drainProven", took) : t("drainUnproven", took),
        then && t(then),
        progress?.stillOut && t("drainStillOut", number(progress.stillOut, tag())),
      ]
        .filter(Boolean)
        .join(" ")}
    </p>
  );
}

/** The watchers and gateways that stand between the drain and its proof. */
export function Missing({ progress }: { progress: Progress | undefined }) {
  const { waiting = [], silent = [], gone = [] } = progress ?? {};
  const { all, known } = readers(progress);
  return (
    <>
      {silent.map(({ gateway, silentMs = 0 }) => (
        <p key={`silent ${gateway}`} class="quiet">
          {t("gatewaySilent", gateway || t("gatewayOld"), span(silentMs, tag()))}
        </p>
      ))}
      {gone.map((gateway) => (
        <p key={`gone ${gateway}`} class="quiet">
          {t("gatewayGone", gateway)}
        </p>
      ))}
      {waiting.length > 0 && (
        <>
          {all - known > waiting.length && <p class="quiet">{t("waitingMore", number(waiting.length, tag()))}</p>}
          <div class="scroll waiting" tabIndex={0} role="group" aria-label={t("waitingWho")}>
            <table>
              <thead>
                <tr>
                  {(["consumer", "waitTransport", "waitClient", "waitGateway", "waitState", "waitFor"] as Word[]).map((word) => (
                    <th key={word} scope="col">
                      {t(word)}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {waiting.map((watcher, index) => (
                  <WaitingRow key={`${watcher.peer} ${watcher.consumer} ${index}`} watcher={watcher} />
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </>
  );
}

function WaitingRow({ watcher }: { watcher: Waiting }) {
  const { consumer = "", transport, peer, gateway, state, forMs = 0 } = watcher;
  // The first part of a reference is the tenant.
  const id = consumer.split("/").at(-1) ?? "";
  const known = registry.byId.get(id);
  return (
    <tr>
      <td>{known ? <a href={link(["service", id])}>{known.key.serviceName}</a> : consumer || "–"}</td>
      <td>{transport}</td>
      <td class="mono">{peer ?? "–"}</td>
      <td>{gateway}</td>
      <td>{state}</td>
      <td>{span(forMs, tag())}</td>
    </tr>
  );
}

/** The last step, for those who have left it open. */
function Afterwards({ drain, provider }: { drain: Drain; provider: Provider | undefined }) {
  const then = drain.progress?.then;
  const isOpen = drain.state === "stopped" || (drain.state === "failed" && drain.progress !== undefined) || then === "kept";
  if (!isOpen || !provider) return null;
  const { instanceId, serviceId } = drain.subject;
  const one = instanceId && ["--service", serviceId, "--instance", instanceId];
  return (
    <div class="buttons small">
      {allowedAt("delete", "service", provider.key) && (
        <LastStep
          drain={drain}
          word="unregister"
          question={t("unregisterSure", drain.name)}
          effect={t("unregisterEffect")}
          calls={callsToUnregister(drain)}
          command={one ? ["unregister", ...one] : undefined}
          then="unregistered"
        />
      )}
      {allowedAt("update", "service", provider.key) && (
        <LastStep
          drain={drain}
          word="giveBack"
          question={t("giveBackSure", drain.name)}
          effect={t("giveBackEffect")}
          calls={callsToGiveBack(drain)}
          command={one ? ["drain", "give-back", ...one] : undefined}
          then="given back"
        />
      )}
    </div>
  );
}

interface Step {
  drain: Drain;
  word: Word;
  question: string;
  effect: string;
  calls: [string, string][];
  command: string[] | undefined;
  /** The word of a gateway that has done the same at the end of a drain. */
  then: string;
}

function LastStep({ drain, word, question, effect, calls, command, then }: Step) {
  const [first, ...more] = calls;
  if (!first) return null;
  const done = () => {
    if (drain.progress) drain.progress = { ...drain.progress, then };
    else forget(drain);
  };
  const act = () =>
    ask({ question, detail: [effect], method: first[0], path: first[1], more, done, ...(command ? { command } : {}) });
  return (
    <button type="button" class="small" disabled={!live.planes} onClick={act}>
      {t(word)}
    </button>
  );
}
