/** Overrides in force, what they do to an instance, and the way to set and end them. */

import { useEffect, useRef, useState } from "preact/hooks";

import { ago, seconds, time } from "../core/format";
import {
  differences,
  targetWords,
  wishWords,
  type Difference,
  type Overridden,
  type Override,
} from "../core/overrides";
import type { Entry, Provider } from "../core/registry";
import { link } from "../core/route";
import { allowedAt, api, live, registry, useNow } from "../core/state";
import { t, tag } from "../core/words";
import { OverrideForm } from "./override-form";
import { ask, Empty, Loading, Panel, Status, useLoad, type Loaded } from "./parts";

/** The time after which overrides are asked for again, where no change of an instance tells of one. */
const AGAIN = 15_000;
const PAUSE = 1000;

/** Asks for the overrides of a service, or of all, again and again. `changed` says that something has changed. */
export function useOverrides(serviceId: string, changed: unknown): Loaded<Override[]> {
  const query = serviceId && `?serviceId=${encodeURIComponent(serviceId)}`;
  const loaded = useLoad(
    async () => (await api.get<{ overrides?: Override[] }>(api.path(`/registry/overrides${query}`))).overrides ?? [],
    `overrides ${serviceId} ${api.tenant.domain}/${api.tenant.project}`,
  );
  useReload(loaded.reload, changed);
  return loaded;
}

/** Loads again after a change, at most once in a second, and now and then. */
export function useReload(reload: () => void, changed: unknown): void {
  const round = Math.floor(useNow(AGAIN) / AGAIN);
  const last = useRef(0);
  const wanted = `${round} ${String(changed)}`;
  const seen = useRef(wanted);
  useEffect(() => {
    // Nobody answers while the control planes are gone, and what is shown stays.
    if (!live.planes || seen.current === wanted) return;
    const load = () => {
      seen.current = wanted;
      last.current = Date.now();
      reload();
    };
    const timer = setTimeout(load, Math.max(0, last.current + PAUSE - Date.now()));
    return () => clearTimeout(timer);
  }, [wanted, live.planes, reload]);
}

/** Asks before it ends an override, or gives a drained instance back. */
export function endOverride(one: Override, name: string, done: () => void): void {
  ask({
    question: t(one.drain ? "giveBackSure" : "endOverrideSure", name),
    detail: [`${targetWords(one)}: ${wishWords(one)}`, t(one.drain ? "giveBackEffect" : "endOverrideEffect")],
    method: "DELETE",
    path: api.path(`/registry/overrides/${encodeURIComponent(one.overrideId)}`),
    command: one.drain
      ? ["drain", "give-back", "--service", one.serviceId, "--instance", one.instanceId ?? ""]
      : ["override", "end", one.overrideId],
    done,
  });
}

/** The account, the reason and the times of an override. */
function Behind({ one }: { one: Override }) {
  const now = useNow(5000);
  const since = seconds(one.since);
  const until = seconds(one.until);
  return (
    <>
      <div>
        {t("overrideReason")}: <b>{one.reason}</b>
      </div>
      <div class="quiet">
        {t("overrideWho")}: {one.owner || "–"} · {t("overrideSince")}: {time(since, tag())} · {t("overrideUntil")}:{" "}
        {until ? `${time(until, tag())} (${ago(until, now, tag())})` : t("untilEnded")}
      </div>
    </>
  );
}

/** What those who may change the overrides of a service can do with one of them. */
export function Tools({ one, provider, reload }: { one: Override; provider: Provider | undefined; reload: () => void }) {
  const [changing, setChanging] = useState(false);
  const name = provider?.key.serviceName ?? one.serviceId;
  if (!provider || !allowedAt("update", "service", provider.key)) return null;
  const instances = [...provider.instances.values()].map((entry) => entry.instance);
  return (
    <span class="buttons small">
      {!one.drain && (
        <button type="button" class="small" disabled={!live.planes} onClick={() => setChanging(true)}>
          {t("changeOverride")}
        </button>
      )}
      <button type="button" class="small" disabled={!live.planes} onClick={() => endOverride(one, name, reload)}>
        {t(one.drain ? "giveBack" : "endOverride")}
      </button>
      {changing && (
        <OverrideForm
          serviceId={one.serviceId}
          name={name}
          instances={instances}
          before={one}
          inForce={[]}
          onClose={() => setChanging(false)}
          done={reload}
        />
      )}
    </span>
  );
}

export function OverrideList({ overrides, reload }: { overrides: Override[]; reload: () => void }) {
  return (
    <ul class="plain-list overrides">
      {overrides.map((one) => (
        <li key={one.overrideId}>
          <div class="spread">
            <span>
              {one.instanceId ? (
                <a href={link(["instance", one.serviceId, one.instanceId])}>{targetWords(one)}</a>
              ) : (
                targetWords(one)
              )}
              : <b>{wishWords(one)}</b>
            </span>
            <Tools one={one} provider={registry.byId.get(one.serviceId)} reload={reload} />
          </div>
          <Behind one={one} />
        </li>
      ))}
    </ul>
  );
}

/** The button that opens the form, or the reason why there is none. */
export function SetOverride({
  provider,
  entry,
  inForce,
  reload,
}: {
  provider: Provider;
  entry?: Entry;
  inForce: Override[];
  reload: () => void;
}) {
  const [open, setOpen] = useState(false);
  if (!allowedAt("update", "service", provider.key)) return <span class="quiet">{t("mayNot")}</span>;
  const name = entry ? (entry.instance.endpoints?.[0] ?? entry.instance.instanceId) : (provider.key.serviceName ?? "");
  return (
    <>
      <button
        type="button"
        class="small"
        disabled={!live.planes}
        title={live.planes ? "" : t("needsPlane")}
        onClick={() => setOpen(true)}
      >
        {t("setOverride")}
      </button>
      {open && (
        <OverrideForm
          serviceId={provider.serviceId}
          name={name}
          instanceId={entry?.instance.instanceId ?? ""}
          instances={[...provider.instances.values()].map((one) => one.instance)}
          inForce={inForce}
          onClose={() => setOpen(false)}
          done={reload}
        />
      )}
    </>
  );
}

/** The overrides of a service. */
export function ServiceOverrides({ provider }: { provider: Provider }) {
  const loaded = useOverrides(provider.serviceId, provider.changedAt);
  return (
    <Panel
      title={t("overrides")}
      tools={<SetOverride provider={provider} inForce={loaded.data ?? []} reload={loaded.reload} />}
    >
      <p class="quiet">{t("overridesLead")}</p>
      <Loading loaded={loaded}>
        {(overrides) =>
          overrides.length === 0 ? (
            <Empty>{t("noOverrides")}</Empty>
          ) : (
            <OverrideList overrides={overrides} reload={loaded.reload} />
          )
        }
      </Loading>
    </Panel>
  );
}

/** What an instance reports and what clients see, side by side, with the overrides between the two. */
export function InstanceOverrides({ entry, gone }: { entry: Entry; gone: boolean }) {
  const { instance, provider } = entry;
  const path = `/registry/microservices/${encodeURIComponent(provider.serviceId)}/instances/${encodeURIComponent(instance.instanceId)}/overrides`;
  const loaded = useLoad(() => api.get<Overridden>(api.path(path)), `overridden ${provider.serviceId} ${instance.instanceId}`);
  useReload(loaded.reload, entry.changedAt);
  const overrides = loaded.data?.overrides ?? [];
  if (gone) return null;
  return (
    <Panel
      title={t("overrides")}
      tools={<SetOverride provider={provider} entry={entry} inForce={overrides} reload={loaded.reload} />}
    >
      <Loading loaded={loaded}>
        {(data) => (
          <>
            <Beside rows={differences(data)} status={data.instance.status} />
            {overrides.length > 0 && <OverrideList overrides={overrides} reload={loaded.reload} />}
          </>
        )}
      </Loading>
    </Panel>
  );
}

function Beside({ rows, status }: { rows: Difference[]; status: string | undefined }) {
  if (rows.length === 0) {
    return (
      <p class="quiet">
        {t("seenAsReported")} <Status status={status} />
      </p>
    );
  }
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={t("sideBySide")}>
      <table class="beside">
        <thead>
          <tr>
            <th scope="col">{t("sideBySide")}</th>
            <th scope="col">{t("reports")}</th>
            <th scope="col">{t("clientsSee")}</th>
            <th scope="col">{t("because")}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ property, reported, seen, by }) => (
            <tr key={property}>
              <th scope="row">{property || t("status")}</th>
              <td>{property ? (reported ?? "–") : <Status status={reported} />}</td>
              <td>{property ? (seen ?? "–") : <Status status={seen} />}</td>
              <td>{by ? `${by.owner || "–"}: ${by.reason ?? ""}` : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

