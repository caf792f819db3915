import { useRef } from "preact/hooks";

import { ago, seconds, time } from "../core/format";
import { STATUSES } from "../core/model";
import type { Entry } from "../core/registry";
import { link } from "../core/route";
import { allowedAt, api, live, registry, useNow, useRegistry } from "../core/state";
import { t, tag } from "../core/words";
import { ask, Copy, CopyCommands, Empty, Facts, Flash, Panel, Status } from "../ui/parts";
import { DrainButton, DrainPanel } from "../ui/drain";
import { InstanceOverrides } from "../ui/overrides";
import { Timeline } from "../ui/timeline";
import { ProviderLink } from "./overview";

export function Instance({ service, id }: { service: string; id: string }) {
  useRegistry(100);
  const now = useNow(5000);
  const current = registry.byId.get(service)?.instances.get(id);
  // The last state that was known, for an instance that leaves while it is looked at.
  const last = useRef<Entry | undefined>(undefined);
  if (current) last.current = current;
  const entry = current ?? last.current;
  if (!entry) {
    return (
      <>
        <Empty>
          <h1 class="mono">{id}</h1>
          <p>{registry.loaded ? t("instanceGone") : t("loading")}</p>
          <a href={link(["service", service])}>{t("service")}</a>
        </Empty>
        {/* What happened to it is known for a while after it has gone. */}
        {registry.loaded && <Timeline serviceId={service} instanceId={id} />}
      </>
    );
  }
  const { instance, provider } = entry;
  const check = instance.healthCheck;
  const place = instance.dataCenterInfo;
  const properties = Object.entries(instance.properties ?? {});
  const at = (text: string | undefined) => {
    const value = seconds(text);
    return value && `${time(value, tag())} (${ago(value, now, tag())})`;
  };
  return (
    <>
      <p class="crumbs">
        <a href={link(["services"])}>{t("services")}</a> / <ProviderLink provider={provider} />
      </p>
      <h1 class="mono">{instance.endpoints?.[0] ?? id}</h1>
      {!current && (
        <div class="notice" role="status">
          {t("instanceGone")} {t("lastKnown")}
        </div>
      )}
      <div class="columns even">
        <div>
          <Panel title={t("instance")}>
            <div class="over">
              <Flash at={entry.changedAt} />
              <Facts
                facts={[
                  [t("status"), <Status status={instance.status} />],
                  [t("host"), instance.hostName],
                  [t("endpoints"), instance.endpoints?.map((one) => <div class="mono" key={one}>{one}</div>)],
                  [t("version"), instance.version],
                  [t("dataCenter"), [place?.name, place?.region, place?.availableZone].filter(Boolean).join(" / ")],
                  [t("heartbeat"), check && t("heartbeatEvery", check.interval ?? 0, check.times ?? 0)],
                  [t("registeredAt"), at(instance.timestamp)],
                  [t("changedAt"), at(instance.modTimestamp)],
                  [t("revision"), entry.rev || undefined],
                  [t("id"), <span class="mono">{id}</span>],
                ]}
              />
            </div>
            <SetStatus entry={entry} gone={!current} />
            {current && (
              <div class="buttons small">
                <DrainButton provider={provider} entry={current} />
              </div>
            )}
          </Panel>
          <DrainPanel subject={{ serviceId: provider.serviceId, instanceId: id }} provider={provider} />
          <InstanceOverrides entry={entry} gone={!current} />
          {properties.length > 0 && (
            <Panel title={t("properties")}>
              <Facts facts={properties} />
            </Panel>
          )}
          <Timeline serviceId={provider.serviceId} instanceId={id} />
        </div>
        <Panel
          title={t("rawJson")}
          tools={
            <span class="buttons small">
              <Copy text={JSON.stringify(instance, null, 2)} />
              <CopyCommands
                method="GET"
                path={api.path(`/registry/microservices/${provider.serviceId}/instances/${id}`)}
                command={["instances", "--service", provider.serviceId]}
              />
            </span>
          }
        >
          <pre tabIndex={0}>{JSON.stringify(instance, null, 2)}</pre>
        </Panel>
      </div>
    </>
  );
}

function SetStatus({ entry, gone }: { entry: Entry; gone: boolean }) {
  const { instance, provider } = entry;
  const permitted = allowedAt("update", "service", provider.key);
  const name = instance.endpoints?.[0] ?? instance.instanceId;
  const set = (status: string) => {
    const effect = status === "UP" ? t("statusUp") : status === "OUTOFSERVICE" ? t("statusOut") : t("statusOther");
    ask({
      question: t("setStatusOf", name, status),
      detail: [effect, t("statusLasts")],
      method: "PUT",
      path: api.path(
        `/registry/microservices/${encodeURIComponent(provider.serviceId)}/instances/${encodeURIComponent(instance.instanceId)}/status?value=${status}`,
      ),
      command: ["status", "--service", provider.serviceId, "--instance", instance.instanceId, "--set", status],
    });
  };
  return (
    <>
      <h3>{t("setStatus")}</h3>
      {permitted && (
        <div class="buttons small" role="group" aria-label={t("setStatus")}>
          {STATUSES.map((status) => (
            <button
              key={status}
              type="button"
              class="small"
              disabled={gone || !live.planes || instance.status === status}
              onClick={() => set(status)}
            >
              {status}
            </button>
          ))}
        </div>
      )}
      {permitted ? <p class="quiet">{t("overrideStays")}</p> : <p class="quiet">{t("mayNot")}</p>}
    </>
  );
}
