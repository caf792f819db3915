import { useEffect, useRef } from "preact/hooks";

import { ago, number, seconds } from "../core/format";
import type { Alarm, Instance, Protected } from "../core/model";
import { link } from "../core/route";
import { allowed, api, live, registry, useNow, useRegistry } from "../core/state";
import { t, tag } from "../core/words";
import { ask, Empty, Facts, Loading, Panel, permittedOr, Status, useLoad } from "../ui/parts";

interface Version {
  version?: string;
  buildTag?: string;
  os?: string;
  arch?: string;
}

export function Fleet() {
  useRegistry(500);
  const now = useNow();
  const round = Math.floor(now / 10_000);
  const rate = useRate(now);
  const planes = useLoad(() => api.get<{ instances?: Instance[] }>("/health"), "health");
  const version = useLoad(() => api.get<Version>("/version"), "version");
  const { reload } = planes;
  useEffect(() => reload(), [round, reload]);
  return (
    <>
      <h1>{t("fleet")}</h1>
      <div class="columns even">
        <div>
          <Panel title={t("controlPlanes")}>
            <Loading loaded={planes}>
              {({ instances = [] }) => (
                <div class="scroll" tabIndex={0} role="group" aria-label={t("controlPlanes")}>
                  <table>
                    <thead>
                      <tr>
                        <th>{t("address")}</th>
                        <th>{t("host")}</th>
                        <th>{t("status")}</th>
                        <th>{t("release")}</th>
                        <th>{t("upSince")}</th>
                      </tr>
                    </thead>
                    <tbody>
                      {instances.map((one) => (
                        <tr key={one.instanceId}>
                          <td class="mono">{one.endpoints?.join(" ")}</td>
                          <td>{one.hostName}</td>
                          <td>
                            <Status status={one.status} />
                          </td>
                          <td>{one.version}</td>
                          <td>{ago(seconds(one.timestamp), now, tag())}</td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              )}
            </Loading>
            <p class="quiet">{t("fleetRest")}</p>
          </Panel>
          <Store />
        </div>
        <div>
          <Panel title={t("thisPage")}>
            <Facts
              facts={[
                [t("servedBy"), <span class="mono">{api.url("")}</span>],
                [t("connection"), t(live.mode === "polling" ? "isPolling" : live.mode === "live" ? "isLive" : "isLost")],
                [t("lastHeard"), live.heardAt ? ago(live.heardAt, now, tag()) : "–"],
                [t("revision"), number(registry.rev, tag())],
                [t("confirmedRev"), number(registry.confirmed, tag())],
                [t("changesPerSecond"), number(rate, tag())],
                [t("release"), [version.data?.version, version.data?.buildTag].filter(Boolean).join(" ")],
                ["", [version.data?.os, version.data?.arch].filter(Boolean).join(" / ")],
              ]}
            />
          </Panel>
          <Alarms />
          <Held />
        </div>
      </div>
    </>
  );
}

/** Changes per second, over the last ten. */
function useRate(now: number): number {
  const samples = useRef<[number, number][]>([]);
  const second = Math.floor(now / 1000);
  if (samples.current.at(-1)?.[0] !== second) samples.current.push([second, registry.changed]);
  while ((samples.current[0]?.[0] ?? second) < second - 10) samples.current.shift();
  const [first, count] = samples.current[0] ?? [second, registry.changed];
  return second > first ? (registry.changed - count) / (second - first) : 0;
}

function Store() {
  const permitted = allowed("get", "ops");
  const loaded = useLoad(
    () => permittedOr<{ clusters?: Record<string, string[]> }>(permitted, api.path("/admin/clusters")),
    "clusters",
  );
  return (
    <Panel title={t("storeAddresses")}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>
          {({ clusters = {} }) => (
            <ul class="plain-list mono">
              {Object.values(clusters)
                .flat()
                .map((address) => (
                  <li key={address}>{address}</li>
                ))}
            </ul>
          )}
        </Loading>
      )}
    </Panel>
  );
}

function Alarms() {
  const permitted = allowed("get", "ops");
  const loaded = useLoad(
    () => permittedOr<{ alarms?: Alarm[] }>(permitted, api.path("/admin/alarms")),
    "alarms",
  );
  const tools = allowed("delete", "ops") && (loaded.data?.alarms?.length ?? 0) > 0 && (
    <button
      type="button"
      class="small"
      disabled={!live.planes}
      onClick={() =>
        ask({
          question: t("clearAlarms"),
          detail: [t("clearAlarmsSure")],
          method: "DELETE",
          path: api.path("/admin/alarms"),
          done: loaded.reload,
        })
      }
    >
      {t("clearAlarms")}
    </button>
  );
  return (
    <Panel title={t("alarms")} tools={tools}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>
          {({ alarms = [] }) =>
            alarms.length === 0 ? (
              <Empty>{t("noAlarms")}</Empty>
            ) : (
              <>
                {alarms.map((alarm) => (
                  <p key={alarm.id} class={alarm.status === "ACTIVATED" ? "notice bad" : "notice"}>
                    <b>{alarm.id}</b> {alarm.status} {alarm.fields?.detail}
                  </p>
                ))}
              </>
            )
          }
        </Loading>
      )}
    </Panel>
  );
}

function Held() {
  const permitted = allowed("get", "ops");
  const loaded = useLoad(
    () => permittedOr<{ protections?: Protected[] }>(permitted, api.path("/admin/protections")),
    "protections",
  );
  return (
    <Panel title={t("heldInstances")}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>
          {({ protections = [] }) =>
            protections.length === 0 ? (
              <Empty>{t("noHeld")}</Empty>
            ) : (
              <ul class="plain-list">
                {protections.map((one) => (
                  <li key={one.serviceId}>
                    <a href={link(["service", one.serviceId])}>
                      <b>{one.serviceName}</b>
                    </a>{" "}
                    {t("ofLiving", one.living, one.size, one.held.length)}{" "}
                    {allowed("delete", "ops") && (
                      <button
                        type="button"
                        class="small"
                        disabled={!live.planes}
                        onClick={() =>
                          ask({
                            question: t("releaseHeldSure", one.serviceName),
                            method: "DELETE",
                            path: api.path(`/admin/protections/${encodeURIComponent(one.serviceId)}`),
                            done: loaded.reload,
                          })
                        }
                      >
                        {t("releaseHeld")}
                      </button>
                    )}
                  </li>
                ))}
              </ul>
            )
          }
        </Loading>
      )}
    </Panel>
  );
}
