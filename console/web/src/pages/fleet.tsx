import { useEffect, useRef } from "preact/hooks";

import { ago, number, seconds } from "../core/format";
import type { Alarm, Instance, Protected } from "../core/model";
import { arrange, DIALECTS, latency, releases, STAGES, use, type Process, type Processes } from "../core/processes";
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
      <ProcessesPanel now={now} round={round} />
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

const ROLES = ["publisher", "control", "edge", "both"] as const;

/** Every process that is known, with its figures. */
function ProcessesPanel({ now, round }: { now: number; round: number }) {
  const permitted = allowed("get", "ops");
  const loaded = useLoad(() => permittedOr<Processes>(permitted, api.path("/admin/processes")), "processes");
  const { reload } = loaded;
  useEffect(() => reload(), [round, reload]);
  return (
    <Panel title={t("processes")}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>{({ processes = [], silent = 0 }) => <ProcessTables {...{ processes, silent, now }} />}</Loading>
      )}
    </Panel>
  );
}

function ProcessTables({ processes, silent, now }: { processes: Process[]; silent: number; now: number }) {
  const figure = (value: number | undefined, digits = 0) =>
    value === undefined ? "–" : number(Number(value.toFixed(digits)), tag());
  const plain = (value: number) => number(value, tag());
  const arranged = arrange(processes);
  const inUse = releases(processes);
  const speakers = arranged.filter(({ dialects = [] }) => dialects.length > 0);
  const roleOf = (one: Process) => {
    const role = ROLES.find((known) => known === one.role);
    return role ? t(`role_${role}`) : one.role;
  };
  const heads = [
    "release",
    "connections",
    "watchers",
    "pushesPerSecond",
    "requestsPerSecond",
    "revision",
    "stale",
    "divergences",
    "cores",
    "memory",
    "toldBefore",
  ] as const;
  return (
    <>
      {silent > 0 && <p class="notice bad">{t("silentPlanes", silent)}</p>}
      {inUse.length > 1 && <p class="notice">{t("manyReleases", inUse.join(", "))}</p>}
      <div class="scroll" tabIndex={0} role="group" aria-label={t("processes")}>
        <table>
          <thead>
            <tr>
              <th>{t("address")}</th>
              <th>{t("role")}</th>
              {heads.map((head) => (
                <th key={head} class={head === "release" ? "" : "right"} title={head === "divergences" ? t("divergencesMean") : undefined}>
                  {t(head)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {arranged.map((one) => (
              <tr key={`${one.address} ${one.process}`}>
                <td class="mono" title={one.process}>
                  {one.address}
                </td>
                <td>{roleOf(one)}</td>
                <td>{one.release}</td>
                <td class="right">{figure(one.connections)}</td>
                <td class="right">{figure(one.watchers)}</td>
                <td class="right">{figure(one.pushesPerSecond, 1)}</td>
                <td class="right">{figure(one.requestsPerSecond, 1)}</td>
                <td class="right">{figure(one.revision)}</td>
                <td class="right">{one.staleSeconds === undefined ? "–" : ago(now - one.staleSeconds * 1000, now, tag())}</td>
                <td class="right">{figure(one.divergences)}</td>
                <td class="right">{figure(one.cores, 2)}</td>
                <td class="right">{figure(one.memoryMib)}</td>
                <td class="right">{ago(now - one.age * 1000, now, tag())}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Grid
        title={t("latencies")}
        processes={arranged}
        columns={STAGES.map((stage) => ({ head: t(`stage_${stage}`), cell: (one) => latency(one, stage, plain) }))}
      />
      {speakers.length > 0 && (
        <Grid
          title={t("dialects")}
          processes={speakers}
          columns={DIALECTS.map((dialect) => ({ head: t(`dialect_${dialect}`), cell: (one) => use(one, dialect, plain) }))}
        />
      )}
      {arranged.every(({ seconds }) => seconds === undefined) && <p class="quiet">{t("noRates")}</p>}
    </>
  );
}

interface Column {
  head: string;
  cell: (process: Process) => string;
}

/** A table of figures of processes under a title of its own. */
function Grid({ title, processes, columns }: { title: string; processes: Process[]; columns: Column[] }) {
  return (
    <>
      <h3>{title}</h3>
      <div class="scroll" tabIndex={0} role="group" aria-label={title}>
        <table>
          <thead>
            <tr>
              <th>{t("address")}</th>
              {columns.map(({ head }) => (
                <th key={head} class="right">
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {processes.map((one) => (
              <tr key={`${one.address} ${one.process}`}>
                <td class="mono">{one.address}</td>
                {columns.map(({ head, cell }) => (
                  <td key={head} class="right">
                    {cell(one)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
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
