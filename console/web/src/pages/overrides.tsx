/** All overrides of the tenant that are in force. */

import { targetWords, wishWords, type Override } from "../core/overrides";
import { ago, number, seconds, time } from "../core/format";
import { link, replaceQuery, type Route } from "../core/route";
import { api, registry, useNow, useRegistry } from "../core/state";
import { t, tag } from "../core/words";
import { CopyCommands, Empty, Loading, Rows } from "../ui/parts";
import { Tools, useOverrides } from "../ui/overrides";

export function Overrides({ route }: { route: Route }) {
  useRegistry(500);
  const text = route.query.get("q") ?? "";
  const loaded = useOverrides("", registry.changed);
  const { reload } = loaded;
  return (
    <div class="full">
      <h1>{t("overrides")}</h1>
      <p class="quiet">{t("overridesLead")}</p>
      <div class="filters">
        <input
          type="search"
          class="grow"
          value={text}
          placeholder={t("overrideFilter")}
          aria-label={t("overrideFilter")}
          autoComplete="off"
          spellcheck={false}
          onInput={(event) => replaceQuery(route, { q: event.currentTarget.value })}
        />
        <CopyCommands method="GET" path={api.path("/registry/overrides")} command={["override", "list"]} />
      </div>
      <Loading loaded={loaded}>
        {(all) => {
          const shown = search(all, text);
          if (all.length === 0) {
            return (
              <Empty>
                <p>{t("noOverrides")}</p>
                <a href={link(["services"])}>{t("noOverridesNext")}</a>
              </Empty>
            );
          }
          return (
            <>
              <p class="quiet count" role="status">
                {t("overridesShown", number(shown.length, tag()), number(all.length, tag()))}
              </p>
              <Rows
                items={shown}
                height={84}
                label={t("overrides")}
                idOf={(one) => one.overrideId}
                row={(one) => <Line one={one} reload={reload} />}
              />
            </>
          );
        }}
      </Loading>
    </div>
  );
}

/** The latest first. */
function search(all: Override[], text: string): Override[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (one: Override) => {
    const key = registry.byId.get(one.serviceId)?.key;
    const parts = [key?.serviceName, key?.appId, key?.version, one.serviceId, one.owner, one.reason, targetWords(one), wishWords(one)];
    const whole = parts.join(" ").toLowerCase();
    return words.every((word) => whole.includes(word));
  };
  return all.filter(has).sort((a, b) => (b.since ?? 0) - (a.since ?? 0));
}

function Line({ one, reload }: { one: Override; reload: () => void }) {
  const now = useNow(5000);
  const provider = registry.byId.get(one.serviceId);
  const until = seconds(one.until);
  const target = one.instanceId ? link(["instance", one.serviceId, one.instanceId]) : link(["service", one.serviceId], { tab: "overrides" });
  return (
    <div class="line">
      <span class="what">
        <a href={target}>
          <b>{provider?.key.serviceName ?? one.serviceId}</b> <span class="quiet">{provider?.key.version}</span>
        </a>
        <span class="quiet" title={targetWords(one)}>
          {targetWords(one)}
        </span>
        <b title={wishWords(one)}>{wishWords(one)}</b>
      </span>
      <span class="what">
        <span title={one.reason}>{one.reason}</span>
        <span class="quiet">
          {one.owner || "–"} · {time(seconds(one.since), tag())}
        </span>
        <span class="quiet">
          {t("overrideUntil")}: {until ? ago(until, now, tag()) : t("untilEnded")}
        </span>
      </span>
      <Tools one={one} provider={provider} reload={reload} />
    </div>
  );
}
