/** The timeline of a service or an instance: its last changes, each with its cause. */

import { number, time } from "../core/format";
import { link } from "../core/route";
import { api, registry } from "../core/state";
import { causeWord, isEnd, shown, type Shown, type Timeline as Known } from "../core/timeline";
import { t, tag } from "../core/words";
import { useReload } from "./overrides";
import { CopyCommands, Empty, Loading, Panel, Status, useLoad } from "./parts";

interface Props {
  serviceId: string;
  /** Only this instance, which may be gone. */
  instanceId?: string;
}

export function Timeline({ serviceId, instanceId }: Props) {
  const service = `/registry/microservices/${encodeURIComponent(serviceId)}`;
  const path = api.path(`${instanceId ? `${service}/instances/${encodeURIComponent(instanceId)}` : service}/timeline`);
  const loaded = useLoad(() => api.get<{ timeline: Known }>(path), path);
  const provider = registry.byId.get(serviceId);
  const changedAt = instanceId ? provider?.instances.get(instanceId)?.changedAt : provider?.changedAt;
  useReload(loaded.reload, changedAt);
  const command = ["timeline", "--service", serviceId, ...(instanceId ? ["--instance", instanceId] : [])];
  const zone = new Intl.DateTimeFormat().resolvedOptions().timeZone;
  return (
    <Panel title={t("timeline")} tools={<CopyCommands method="GET" path={path} command={command} />}>
      <Loading loaded={loaded}>
        {({ timeline }) => {
          const changes = shown(timeline);
          return (
            <>
              {changes.length === 0 ? (
                <Empty>{t("timelineEmpty")}</Empty>
              ) : (
                <ol class="changes timeline" tabIndex={0} aria-label={t("timeline")}>
                  {changes.map((change) => (
                    <Line key={change.key} change={change} serviceId={serviceId} short={instanceId !== undefined} />
                  ))}
                </ol>
              )}
              <p class="quiet">
                {t("timelineSince", number(timeline.since, tag()))} {t("timelineZone", zone)}
              </p>
            </>
          );
        }}
      </Loading>
    </Panel>
  );
}

function Line({ change, serviceId, short }: { change: Shown; serviceId: string; short: boolean }) {
  const { cause, from, status, by, reason, instanceId } = change;
  const word = causeWord(cause);
  const moved = from !== undefined && from !== status;
  return (
    <li>
      <time dateTime={new Date(change.time).toISOString()} title={`${t("revision")} ${change.revision}`}>
        {time(change.time, tag())}
      </time>
      <span class={`cause ${isEnd(cause) ? "left" : cause.startsWith("registered") ? "registered" : ""}`}>
        {word ? t(word) : cause}
      </span>
      <span class="grow">
        {moved && (
          <>
            <Status status={from} /> →{" "}
          </>
        )}
        <Status status={status} />
        {!short && (
          <>
            {" "}
            <a class="mono" href={link(["instance", serviceId, instanceId])}>
              {instanceId.slice(0, 12)}
            </a>
          </>
        )}
        {by && <> {t("causeBy", by)}</>}
        {reason && <span class="quiet"> {t("causeReason", reason)}</span>}
      </span>
    </li>
  );
}
