import { useEffect } from "preact/hooks";

import { clock, number } from "../core/format";
import type { Alarm, Protected } from "../core/model";
import type { Change, Provider } from "../core/registry";
import { link } from "../core/route";
import { allowed, api, registry, useNow, useRegistry } from "../core/state";
import { t, tag } from "../core/words";
import { Empty, Flash, Loading, Panel, Status, useLoad } from "../ui/parts";

const SHOWN = 40;

export function Overview() {
  useRegistry(250);
  const now = useNow();
  const apps = new Set<string>();
  const environments = new Set<string>();
  const alone: Provider[] = [];
  for (const provider of registry.providers.values()) {
    apps.add(provider.key.appId ?? "");
    environments.add(provider.key.environment ?? "");
    if (provider.instances.size === 0) alone.push(provider);
  }
  const recent = registry.changes.slice(-SHOWN).reverse();
  // Where the whole list is new at each look, nothing is told by lines that light up, and it costs a picture each.
  const busy = recent.length === SHOWN && now - (recent[SHOWN - 1]?.at ?? 0) < 2000;
  const figure = (value: number) => (registry.loaded ? number(value, tag()) : "…");
  return (
    <>
      <h1>{t("overview")}</h1>
      <ul class="figures">
        <Figure name={t("services")} value={figure(registry.providers.size)} to={link(["services"])} />
        <Figure
          name={t("instances")}
          value={figure(registry.instances)}
          to={link(["services"], { sort: "instances" })}
        />
        <Figure name={t("applications")} value={figure(apps.size)} />
        <Figure name={t("environments")} value={figure(environments.size)} />
        <Figure name={t("lastMinute")} value={figure(registry.lastMinute(now))} to={link(["services"], { sort: "changed" })} />
        <Figure name={t("revision")} value={figure(registry.rev)} />
      </ul>
      <div class="columns">
        <div>
          <Panel title={t("byStatus")}>
            <Statuses />
          </Panel>
          <Watchful />
          {alone.length > 0 && (
            <Panel title={`${t("withoutInstances")} (${number(alone.length, tag())})`}>
              <ul class="plain-list">
                {alone.slice(0, 12).map((provider) => (
                  <li key={provider.name}>
                    <ProviderLink provider={provider} />
                  </li>
                ))}
                {alone.length > 12 && <li class="quiet">{t("more", number(alone.length - 12, tag()))}</li>}
              </ul>
            </Panel>
          )}
        </div>
        <Panel title={t("recent")}>
          {registry.changes.length === 0 ? (
            <Empty>{t("noChanges")}</Empty>
          ) : (
            <ol class="changes">
              {recent.map((change, place) => (
                <ChangeLine key={busy ? place : change.id} change={change} busy={busy} />
              ))}
            </ol>
          )}
        </Panel>
      </div>
    </>
  );
}

function Figure({ name, value, to }: { name: string; value: string; to?: string }) {
  const inside = (
    <>
      <b>{value}</b>
      <span>{name}</span>
    </>
  );
  return <li>{to ? <a href={to}>{inside}</a> : <div>{inside}</div>}</li>;
}

function Statuses() {
  const all = [...registry.byStatus].sort((a, b) => b[1] - a[1]);
  if (all.length === 0) return <Empty>{t("noInstances")}</Empty>;
  return (
    <ul class="bars">
      {all.map(([status, count]) => (
        <li key={status}>
          <a href={link(["services"], { q: `status:${status}` })}>
            <Status status={status} />
            <span class={`bar ${status.toLowerCase()}`} aria-hidden="true">
              <span style={{ width: `${(100 * count) / Math.max(1, registry.instances)}%` }} />
            </span>
            <b>{number(count, tag())}</b>
          </a>
        </li>
      ))}
    </ul>
  );
}

/** Alarms and held instances, for those who may see them. */
function Watchful() {
  const minute = Math.floor(useNow(15_000) / 15_000);
  const permitted = allowed("get", "ops");
  const loaded = useLoad(async () => {
    if (!permitted) return undefined;
    const alarms = await api.get<{ alarms?: Alarm[] }>(api.path("/admin/alarms"));
    const held = await api.get<{ protections?: Protected[] }>(api.path("/admin/protections"));
    return { alarms: alarms.alarms ?? [], held: held.protections ?? [] };
  }, "alarms");
  const { reload } = loaded;
  useEffect(() => reload(), [minute, reload]);
  if (!permitted) return null;
  return (
    <Panel title={`${t("alarms")} · ${t("heldInstances")}`}>
      <Loading loaded={loaded}>
        {(data) => {
          const active = data?.alarms.filter((alarm) => alarm.status === "ACTIVATED") ?? [];
          const held = data?.held ?? [];
          return (
            <>
              {active.length === 0 && <p class="quiet">{t("noAlarms")}</p>}
              {active.map((alarm) => (
                <p key={alarm.id} class="notice bad">
                  <b>{alarm.id}</b> {alarm.fields?.detail}
                </p>
              ))}
              {held.length === 0 && <p class="quiet">{t("noHeld")}</p>}
              {held.map((one) => (
                <p key={one.serviceId} class="notice">
                  <a href={link(["service", one.serviceId])}>{one.serviceName}</a>{" "}
                  {t("ofLiving", one.living, one.size, one.held.length)}
                </p>
              ))}
            </>
          );
        }}
      </Loading>
    </Panel>
  );
}

export function ProviderLink({ provider }: { provider: Provider }) {
  const { serviceName, version, appId, environment } = provider.key;
  const text = (
    <>
      <b>{serviceName}</b> <span class="quiet">{[version, appId, environment].filter(Boolean).join(" · ")}</span>
    </>
  );
  return provider.serviceId ? <a href={link(["service", provider.serviceId])}>{text}</a> : <span>{text}</span>;
}

export function ChangeLine({ change, short = false, busy = false }: { change: Change; short?: boolean; busy?: boolean }) {
  const { provider, instanceId } = change;
  const word =
    change.kind === "status" ? t("statusTo", change.from || "–", change.to || "–") : t(change.kind);
  return (
    <li>
      {!busy && <Flash at={change.at} />}
      <time>{clock(change.at, tag())}</time>
      <span class={`kind ${change.kind}`}>{word}</span>
      <span class="grow">
        {!short && <ProviderLink provider={provider} />}{" "}
        <a class="mono quiet" href={link(["instance", provider.serviceId, instanceId])}>
          {instanceId.slice(0, 12)}
        </a>
      </span>
    </li>
  );
}
