/** The watchers of a service at each gateway, and how far they are. */

import { useEffect } from "preact/hooks";

import { ApiError } from "../core/api";
import { words, type Watchers as Found } from "../core/drain";
import { number } from "../core/format";
import { api, live, useNow } from "../core/state";
import { t, tag } from "../core/words";
import { Missing } from "./drain";
import { CopyCommands, Empty, Loading, Panel, useLoad } from "./parts";

/** Each question pings every watcher of the service, so it is not asked all the time. */
const AGAIN = 10_000;

export function Watchers({ serviceId }: { serviceId: string }) {
  const path = api.path(`/registry/microservices/${encodeURIComponent(serviceId)}/watchers`);
  const loaded = useLoad(async () => {
    try {
      return await api.get<Found>(path);
    } catch (error) {
      // A control plane's own port has no such path.
      if (error instanceof ApiError && error.status === 404) return undefined;
      throw error;
    }
  }, path);
  const { reload } = loaded;
  const round = Math.floor(useNow(AGAIN) / AGAIN);
  useEffect(() => {
    if (live.planes && round > 0) reload();
  }, [round, reload]);
  return (
    <Panel title={t("watchers")} tools={<CopyCommands method="GET" path={path} />}>
      <p class="quiet">{t("watchersLead")}</p>
      <Loading loaded={loaded}>{(found) => (found ? <Known found={found} /> : <Empty>{t("watchersNeedGateway")}</Empty>)}</Loading>
    </Panel>
  );
}

function Known({ found }: { found: Found }) {
  const figure = (value: number) => number(value, tag());
  const { watchers = 0, reached = 0, revision = 0, proven = false, at = [] } = found;
  const state = proven
    ? watchers > 0
      ? t("watchersAll", figure(watchers), figure(revision))
      : t("watchersNone")
    : t("watchersSome", figure(reached), figure(watchers), figure(revision));
  return (
    <>
      <p role="status">
        <b>{state}</b>
      </p>
      {!proven && <p class="quiet">{words(found, figure)}</p>}
      <div class="scroll" tabIndex={0} role="group" aria-label={t("gateway")}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t("gateway")}</th>
              <th scope="col">{t("watchers")}</th>
              <th scope="col">{t("upToDate")}</th>
            </tr>
          </thead>
          <tbody>
            {at.map((one) => (
              <tr key={one.gateway}>
                <td class="mono">{one.gateway || t("gatewayOld")}</td>
                <td>{figure(one.watchers ?? 0)}</td>
                <td>{one.behind ? t("isBehind") : t("ofNumber", figure(one.reached ?? 0), figure(one.watchers ?? 0))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Missing progress={found} />
    </>
  );
}
