/** The window in which an override is set. */

import { useState } from "preact/hooks";

import { STATUSES, type Instance } from "../core/model";
import {
  commandOf,
  emptyForm,
  formOf,
  isWhole,
  localTime,
  readForm,
  sameTarget,
  takes,
  targetWords,
  type Form,
  type Override,
} from "../core/overrides";
import { number } from "../core/format";
import { api, live } from "../core/state";
import { t, tag, type Word } from "../core/words";
import { CopyCommands, Dialog, say } from "./parts";

/** The ends that are offered, in seconds. */
const ENDS = [900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600];

interface Props {
  serviceId: string;
  /** The name of the thing that is overridden. */
  name: string;
  /** Only this instance; empty for a part of the service or all of it. */
  instanceId?: string;
  /** The instances of the service, as far as they are known. */
  instances: Instance[];
  /** An override in force, which is to be changed. */
  before?: Override | undefined;
  /** The overrides of the service that are in force. */
  inForce: Override[];
  onClose: () => void;
  done: () => void;
}

export function OverrideForm({ serviceId, name, instanceId = "", instances, before, inForce, onClose, done }: Props) {
  const [form, setForm] = useState<Form>(() => (before ? formOf(before) : emptyForm(instanceId)));
  const [tried, setTried] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const { body, problems } = readForm(serviceId, form, Date.now());
  const change = (part: Partial<Form>) => setForm({ ...form, ...part });
  const taken = instances.filter((instance) => takes(body, instance)).length;
  // Another override may show other properties than are reported, and the reported ones decide.
  const isCounted = !form.instanceId && !body.properties;
  const replaced = inForce.some((one) => one.overrideId !== before?.overrideId && sameTarget(one, body));
  const isOut = isWhole(body) && (body.weight === 0 || (body.status !== undefined && body.status !== "UP"));
  const send = async () => {
    setTried(true);
    if (problems.length > 0) return;
    setBusy(true);
    try {
      await api.call("PUT", api.path("/registry/overrides"), body);
      onClose();
      say(t("done", t("setOverride")));
      done();
    } catch (failure) {
      // The window stays, so nothing that was written is lost.
      setError(failure instanceof Error ? failure.message : String(failure));
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={t("overrideOf", name)} onClose={onClose}>
      <form
        class="form"
        onSubmit={(event) => {
          event.preventDefault();
          void send();
        }}
      >
        {form.instanceId ? (
          <p class="quiet">{targetWords(body)}</p>
        ) : (
          <Which form={form} change={change} fixed={before !== undefined} />
        )}
        {isCounted && <p class="quiet">{t("takesNow", number(taken, tag()), number(instances.length, tag()))}</p>}
        <div class="columns even">
          <label>
            {t("fieldStatus")}
            <select value={form.status} onChange={(event) => change({ status: event.currentTarget.value })}>
              <option value="">{t("leaveIt")}</option>
              {STATUSES.map((status) => (
                <option key={status} value={status}>
                  {status}
                </option>
              ))}
            </select>
          </label>
          <label>
            {t("fieldWeight")}
            <input
              inputMode="numeric"
              value={form.weight}
              autoComplete="off"
              onInput={(event) => change({ weight: event.currentTarget.value })}
            />
          </label>
        </div>
        <Lines label="fieldMetadata" value={form.metadata} change={(metadata) => change({ metadata })} />
        {!form.instanceId && !form.some && (
          <Lines label="fieldHidden" value={form.hiddenFrom} change={(hiddenFrom) => change({ hiddenFrom })} />
        )}
        <label>
          {t("fieldReason")}
          <input
            value={form.reason}
            maxLength={256}
            required
            autoComplete="off"
            onInput={(event) => change({ reason: event.currentTarget.value })}
          />
        </label>
        <Ends form={form} change={change} />
        {isOut && <p class="notice bad">{t("allOut")}</p>}
        {replaced && <p class="notice">{t("replaces")}</p>}
        {tried && problems.length > 0 && (
          <div class="notice bad" role="alert">
            <ul class="plain-list">
              {problems.map(({ word, about }) => (
                <li key={`${word} ${about ?? ""}`}>{t(word, about ? t(about) : "")}</li>
              ))}
            </ul>
          </div>
        )}
        {error && (
          <p class="notice bad" role="alert">
            {t("actFailed", error)}
          </p>
        )}
        {problems.length === 0 && (
          <CopyCommands
            method="PUT"
            path={api.path("/registry/overrides")}
            body={JSON.stringify(body)}
            command={commandOf(body)}
          />
        )}
        {!live.planes && <p class="notice bad">{t("needsPlane")}</p>}
        <div class="buttons">
          <button class="main" disabled={busy || !live.planes}>
            {t("setOverride")}
          </button>
          <button type="button" onClick={onClose}>
            {t("cancel")}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

type Change = (part: Partial<Form>) => void;

function Which({ form, change, fixed }: { form: Form; change: Change; fixed: boolean }) {
  return (
    <>
      <label>
        {t("takes")}
        <select
          value={form.some ? "some" : "whole"}
          // Another target would be another override beside the one that is being changed.
          disabled={fixed}
          onChange={(event) => change({ some: event.currentTarget.value === "some" })}
        >
          <option value="whole">{t("takesWhole")}</option>
          <option value="some">{t("takesSome")}</option>
        </select>
      </label>
      {form.some && (
        <>
          <div class="columns even">
            {(["version", "zone"] as const).map((key) => (
              <label key={key}>
                {t(key === "zone" ? "fieldZone" : "fieldVersion")}
                <input
                  value={form[key]}
                  disabled={fixed}
                  autoComplete="off"
                  onInput={(event) => change({ [key]: event.currentTarget.value })}
                />
              </label>
            ))}
          </div>
          <Lines label="fieldProperties" value={form.properties} disabled={fixed} change={(properties) => change({ properties })} />
        </>
      )}
    </>
  );
}

function Lines({
  label,
  value,
  change,
  disabled = false,
}: {
  label: Word;
  value: string;
  change: (text: string) => void;
  disabled?: boolean;
}) {
  return (
    <label>
      {t(label)}
      <textarea
        class="mono"
        rows={2}
        value={value}
        disabled={disabled}
        spellcheck={false}
        onInput={(event) => change(event.currentTarget.value)}
      />
    </label>
  );
}

function Ends({ form, change }: { form: Form; change: Change }) {
  const choose = (ends: string) =>
    change({ ends, endsAt: ends === "at" && !form.endsAt ? localTime(Date.now() + 3_600_000) : form.endsAt });
  return (
    <div class="columns even">
      <label>
        {t("fieldEnds")}
        <select value={form.ends} onChange={(event) => choose(event.currentTarget.value)}>
          <option value="">{t("endsNever")}</option>
          {ENDS.map((seconds) => (
            <option key={seconds} value={String(seconds)}>
              {t("endsAfter", lasting(seconds))}
            </option>
          ))}
          <option value="at">{t("endsAt")}</option>
        </select>
      </label>
      {form.ends === "at" && (
        <label>
          {t("fieldEndsAt")}
          <input
            type="datetime-local"
            value={form.endsAt}
            onInput={(event) => change({ endsAt: event.currentTarget.value })}
          />
        </label>
      )}
    </div>
  );
}

function lasting(seconds: number): string {
  const [value, unit] = seconds < 3600 ? [seconds / 60, "minute"] : seconds < 86_400 ? [seconds / 3600, "hour"] : [seconds / 86_400, "day"];
  return new Intl.NumberFormat(tag(), { style: "unit", unit: unit as string, unitDisplay: "long" }).format(value as number);
}
