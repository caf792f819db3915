import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { number, seconds, time } from "../core/format";
import type { Detail, Schema, Service as Record_ } from "../core/model";
import type { Entry, Provider } from "../core/registry";
import { link, replaceQuery, type Route } from "../core/route";
import { parse, searchEntries } from "../core/search";
import { allowed, api, registry, useRegistry } from "../core/state";
import { t, tag, type Word } from "../core/words";
import { Copy, CopyCommands, Empty, Facts, Flash, Loading, Panel, Rows, Status, useLoad } from "../ui/parts";
import { DrainButton, DrainPanel } from "../ui/drain";
import { ServiceOverrides } from "../ui/overrides";
import { Timeline } from "../ui/timeline";
import { Watchers } from "../ui/watchers";
import { ChangeLine } from "./overview";

const TABS: [string, Word][] = [
  ["instances", "instances"],
  ["dependencies", "dependencies"],
  ["schemas", "schemas"],
  ["rules", "rulesAndTags"],
  ["overrides", "overrides"],
  ["watchers", "watchers"],
  ["timeline", "timeline"],
];

export function Service({ id, route }: { id: string; route: Route }) {
  const version = useRegistry(200);
  const live = registry.byId.get(id);
  // The last state that was known, for a service that has gone while it was looked at.
  const last = useRef<Provider | undefined>(undefined);
  if (live) last.current = live;
  const provider = live ?? last.current;
  const loaded = useLoad(
    () => api.get<{ service: Detail }>(api.path(`/govern/microservices/${encodeURIComponent(id)}`)),
    `service ${id}`,
  );
  const { reload } = loaded;
  // Rules, tags and dependencies are not part of the watch.
  useEffect(() => {
    const timer = setInterval(reload, 15_000);
    return () => clearInterval(timer);
  }, [reload]);
  const detail = loaded.data?.service;
  const service = detail?.microService ?? provider?.service;
  const tab = route.query.get("tab") ?? "instances";
  const name = service?.serviceName ?? provider?.key.serviceName ?? id;
  return (
    <div class="full">
      <p class="crumbs">
        <a href={link(["services"])}>{t("services")}</a> /{" "}
        <a href={link(["services"], { q: `app:${service?.appId ?? provider?.key.appId ?? "default"}` })}>
          {service?.appId ?? provider?.key.appId ?? "default"}
        </a>
      </p>
      <h1>
        {name} <small>{service?.version ?? provider?.key.version}</small>
      </h1>
      {registry.loaded && !live && (
        <div class="notice" role="status">
          {t("serviceGone")} {provider && t("lastKnown")}
        </div>
      )}
      <Facts
        facts={[
          [t("environment"), service?.environment || t("defaultEnv")],
          [t("status"), service?.status && <Status status={service.status} />],
          [t("level"), service?.level],
          [t("framework"), [service?.framework?.name, service?.framework?.version].filter(Boolean).join(" ")],
          [t("registeredAt"), seconds(service?.timestamp) && time(seconds(service?.timestamp), tag())],
          [t("description"), service?.description],
          [t("id"), <span class="mono">{id}</span>],
        ]}
      />
      <div class="buttons small">
        <a class="button small" href={link(["map"], { focus: id })}>
          {t("showOnMap")}
        </a>
        <CopyCommands
          method="GET"
          path={api.path(`/govern/microservices/${id}`)}
          command={["instances", "--service", id]}
        />
        {live && <DrainButton provider={live} />}
      </div>
      <DrainPanel subject={{ serviceId: id }} provider={provider} />
      <div class="tabs" role="tablist">
        {TABS.map(([key, word]) => (
          <a
            key={key}
            role="tab"
            aria-selected={tab === key}
            href={link(route.path, { tab: key === "instances" ? undefined : key })}
          >
            {t(word)}
            {key === "instances" && provider ? ` (${number(provider.instances.size, tag())})` : ""}
          </a>
        ))}
      </div>
      {tab === "instances" && <Instances provider={provider} route={route} version={version} />}
      {tab === "watchers" && <Watchers serviceId={id} />}
      {tab === "timeline" && (
        <div class="columns">
          <Panel title={t("seenHere")}>
            <Changes id={id} />
          </Panel>
          <Timeline serviceId={id} />
        </div>
      )}
      {tab === "overrides" && provider && <ServiceOverrides provider={provider} />}
      {["dependencies", "schemas", "rules"].includes(tab) && (
        <Loading loaded={loaded}>
          {({ service: data }) => (
            <>
              {tab === "dependencies" && <Dependencies detail={data} />}
              {tab === "schemas" && <Schemas id={id} schemas={data.schemaInfos ?? []} />}
              {tab === "rules" && <Rules detail={data} />}
            </>
          )}
        </Loading>
      )}
    </div>
  );
}

function Instances({ provider, route, version }: { provider: Provider | undefined; route: Route; version: number }) {
  const text = route.query.get("q") ?? "";
  const entries = useMemo(() => {
    if (!provider) return [];
    const all = searchEntries(provider, parse(text));
    return all.sort((a, b) => hostOf(a).localeCompare(hostOf(b)));
  }, [provider, text, version]);
  if (!provider || provider.instances.size === 0) {
    return <Empty>{registry.loaded ? t("noInstances") : t("loading")}</Empty>;
  }
  return (
    <>
      <div class="filters">
        <input
          type="search"
          class="grow"
          value={text}
          placeholder={t("filterInstances")}
          aria-label={t("filterInstances")}
          title={t("searchHint")}
          autoComplete="off"
          spellcheck={false}
          onInput={(event) => replaceQuery(route, { q: event.currentTarget.value })}
        />
      </div>
      {entries.length === 0 ? (
        <Empty>{t("noInstanceMatches")}</Empty>
      ) : (
        <Rows
          items={entries}
          height={52}
          label={t("instances")}
          idOf={(entry) => entry.instance.instanceId}
          row={(entry) => <InstanceLine entry={entry} />}
        />
      )}
    </>
  );
}

function hostOf(entry: Entry): string {
  return `${entry.instance.hostName ?? ""}\n${entry.instance.endpoints?.[0] ?? ""}\n${entry.instance.instanceId}`;
}

function InstanceLine({ entry }: { entry: Entry }) {
  const { instance, provider } = entry;
  const [first, ...others] = instance.endpoints ?? [];
  const place = instance.dataCenterInfo;
  const properties = Object.entries(instance.properties ?? {});
  return (
    <a class="line" href={link(["instance", provider.serviceId, instance.instanceId])}>
      <Flash at={entry.changedAt} />
      <span class="state">
        <Status status={instance.status} />
      </span>
      <span class="what">
        <b class="mono">{first ?? instance.hostName ?? instance.instanceId}</b>
        <span class="quiet">
          {[instance.hostName, place?.availableZone, others.length > 0 && `+${others.length}`].filter(Boolean).join(" · ")}
        </span>
      </span>
      <span class="properties quiet">{properties.map(([key, value]) => `${key}=${value}`).join("  ")}</span>
      <span class="mono quiet idcol">{instance.instanceId.slice(0, 12)}</span>
    </a>
  );
}

function Changes({ id }: { id: string }) {
  const changes = registry.changes.filter((change) => change.provider.serviceId === id).reverse();
  if (changes.length === 0) return <Empty>{t("noChanges")}</Empty>;
  return (
    <ol class="changes">
      {changes.slice(0, 200).map((change) => (
        <ChangeLine key={change.id} change={change} short />
      ))}
    </ol>
  );
}

function Dependencies({ detail }: { detail: Detail }) {
  return (
    <div class="columns even">
      <Partners title={t("consumers")} services={detail.consumers ?? []} none={t("noConsumers")} />
      <Partners title={t("providers")} services={detail.providers ?? []} none={t("noProviders")} />
    </div>
  );
}

function Partners({ title, services, none }: { title: string; services: Record_[]; none: string }) {
  return (
    <Panel title={title}>
      {services.length === 0 ? (
        <Empty>{none}</Empty>
      ) : (
        <ul class="plain-list">
          {services.map((service) => (
            <li key={service.serviceId}>
              <a href={link(["service", service.serviceId])}>
                <b>{service.serviceName}</b>{" "}
                <span class="quiet">{[service.version, service.appId, service.environment].filter(Boolean).join(" · ")}</span>
              </a>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

function Schemas({ id, schemas }: { id: string; schemas: Schema[] }) {
  const [shown, setShown] = useState<string>();
  if (!allowed("get", "schema")) return <Empty>{t("noRight")}</Empty>;
  if (schemas.length === 0) return <Empty>{t("noSchemas")}</Empty>;
  const chosen = schemas.find((schema) => schema.schemaId === shown) ?? schemas[0];
  return (
    <div class="columns side">
      <ul class="plain-list">
        {schemas.map((schema) => (
          <li key={schema.schemaId}>
            <button
              type="button"
              class={schema === chosen ? "plain chosen" : "plain"}
              aria-pressed={schema === chosen}
              onClick={() => setShown(schema.schemaId)}
            >
              {schema.schemaId}
            </button>
          </li>
        ))}
      </ul>
      {chosen && (
        <Panel
          title={chosen.schemaId}
          tools={
            <span class="buttons small">
              <Copy text={chosen.schema ?? ""} />
              <button type="button" class="small" onClick={() => download(`${chosen.schemaId}.yaml`, chosen.schema ?? "")}>
                {t("download")}
              </button>
              <CopyCommands method="GET" path={api.path(`/registry/microservices/${id}/schemas/${chosen.schemaId}`)} />
            </span>
          }
        >
          <pre tabIndex={0}>{chosen.schema || "–"}</pre>
        </Panel>
      )}
    </div>
  );
}

function download(name: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function Rules({ detail }: { detail: Detail }) {
  const rules = detail.rules ?? [];
  const tags = Object.entries(detail.tags ?? {});
  const properties = Object.entries(detail.microService?.properties ?? {});
  const versions = detail.microServiceVersions ?? [];
  return (
    <div class="columns even">
      <div>
        <Panel title={t("rules")}>
          {rules.length === 0 && <Empty>{t("noRules")}</Empty>}
          <ul class="plain-list">
            {rules.map((rule) => (
              <li key={rule.ruleId}>
                {t(rule.ruleType === "WHITE" ? "allows" : "denies", rule.attribute ?? "", rule.pattern ?? "")}{" "}
                <span class="quiet">{rule.description}</span>
              </li>
            ))}
          </ul>
        </Panel>
        <Panel title={t("versions")}>
          <ul class="plain-list">
            {versions.map((one) => (
              <li key={one}>
                <VersionLink detail={detail} version={one} />
              </li>
            ))}
          </ul>
        </Panel>
      </div>
      <div>
        <Panel title={t("tags")}>
          {tags.length === 0 ? <Empty>{t("noTags")}</Empty> : <Facts facts={tags} />}
        </Panel>
        {properties.length > 0 && (
          <Panel title={t("properties")}>
            <Facts facts={properties} />
          </Panel>
        )}
      </div>
    </div>
  );
}

function VersionLink({ detail, version }: { detail: Detail; version: string }) {
  const service = detail.microService;
  const name = [service?.environment ?? "", service?.appId || "default", service?.serviceName ?? "", version].join("/");
  const other = registry.providers.get(name);
  if (!other?.serviceId || version === service?.version) return <b>{version}</b>;
  return <a href={link(["service", other.serviceId])}>{version}</a>;
}
