import { useMemo } from "preact/hooks";

import { ago, number } from "../core/format";
import { link, replaceQuery, type Route } from "../core/route";
import { parse, search, sort, withField, type Found, type Order } from "../core/search";
import { STATUSES } from "../core/model";
import { api, registry, session, useNow, useRegistry } from "../core/state";
import { t, tag } from "../core/words";
import { Copy, Empty, Flash, Rows, Select, Status } from "../ui/parts";
import { cli } from "../core/format";

export function Services({ route }: { route: Route }) {
  // A large registry is searched anew less often while it changes; a letter of the box counts at once.
  const version = useRegistry(registry.instances > 20_000 ? 1000 : 250);
  const text = route.query.get("q") ?? "";
  const order = (route.query.get("sort") ?? "name") as Order;
  const found = useMemo(
    () => sort(search(registry.providers.values(), parse(text)), order),
    [text, order, version, registry.loaded],
  );
  const query = parse(text);
  const set = (q: string) => replaceQuery(route, { q });
  const instances = found.reduce((sum, one) => sum + one.matching, 0);
  return (
    <div class="full">
      <h1>{t("services")}</h1>
      <div class="filters">
        <input
          type="search"
          class="grow"
          value={text}
          placeholder={t("searchServices")}
          aria-label={t("searchServices")}
          title={t("searchHint")}
          autoComplete="off"
          spellcheck={false}
          onInput={(event) => set(event.currentTarget.value)}
        />
        <Select
          label={t("application")}
          value={query.app ?? "*"}
          options={options(t("allApps"), (key) => key.appId ?? "")}
          onChange={(app) => set(withField(text, "app", app === "*" ? undefined : app))}
        />
        <Select
          label={t("environment")}
          value={query.env ?? "*"}
          options={options(t("allEnvs"), (key) => key.environment ?? "")}
          onChange={(env) => set(withField(text, "env", env === "*" ? undefined : env))}
        />
        <Select
          label={t("status")}
          value={query.status?.toUpperCase() ?? "*"}
          options={[["*", t("allStatuses")], ...STATUSES.map((one): [string, string] => [one, one])]}
          onChange={(status) => set(withField(text, "status", status === "*" ? undefined : status))}
        />
        <Select
          label={t("sortBy")}
          value={order}
          options={[
            ["name", t("sortName")],
            ["instances", t("sortInstances")],
            ["changed", t("sortChanged")],
          ]}
          onChange={(by) => replaceQuery(route, { sort: by === "name" ? undefined : by })}
        />
      </div>
      <p class="quiet count" role="status">
        {registry.loaded ? t("foundServices", number(found.length, tag()), number(instances, tag())) : t("loading")}
      </p>
      {found.length > 0 ? (
        <Rows
          items={found}
          height={52}
          label={t("services")}
          idOf={(one) => one.provider.name}
          row={(one) => <Line found={one} />}
        />
      ) : (
        registry.loaded && <Nothing searched={text !== ""} />
      )}
    </div>
  );
}

function options(all: string, of: (key: { appId?: string; environment?: string }) => string): [string, string][] {
  const values = new Set<string>();
  for (const provider of registry.providers.values()) values.add(of(provider.key));
  const sorted = [...values].sort().map((value): [string, string] => [value.toLowerCase(), value || t("defaultEnv")]);
  return [["*", all], ...sorted];
}

function Nothing({ searched }: { searched: boolean }) {
  if (searched) return <Empty>{t("nothingFound")}</Empty>;
  const server = api.url("").replace(/\/$/, "");
  const line = cli(server, ["register", "--name", "order", "--endpoint", "rest://127.0.0.1:8080"]);
  return (
    <Empty>
      <p>
        {t("noServices")} {t("noServicesNext")}
      </p>
      <pre>{session.access === "open" ? line : `muster login && ${line}`}</pre>
      <Copy text={line} />
    </Empty>
  );
}

function Line({ found }: { found: Found }) {
  const now = useNow(10_000);
  const { provider, matching } = found;
  const { serviceName, version, appId, environment } = provider.key;
  const statuses = [...provider.byStatus].sort((a, b) => b[1] - a[1]);
  return (
    <a class="line" href={link(["service", provider.serviceId])}>
      <Flash at={provider.changedAt} />
      <span class="what">
        <b>{serviceName}</b>
        <span class="quiet">{[appId, environment || t("defaultEnv")].join(" · ")}</span>
      </span>
      <span class="version">{version}</span>
      <span class="statuses">
        {statuses.slice(0, 3).map(([status, count]) => (
          <span key={status}>
            <Status status={status} /> {number(count, tag())}
          </span>
        ))}
        {statuses.length === 0 && <span class="quiet">0</span>}
      </span>
      <span class="numbers">
        {matching !== provider.instances.size && `${number(matching, tag())} / `}
        {number(provider.instances.size, tag())}
      </span>
      <span class="when quiet">{provider.changedAt ? ago(provider.changedAt, now, tag()) : ""}</span>
    </a>
  );
}
