/** The last records of the audit log, on the page of people. */

import { useState } from "preact/hooks";

import { kindOf, occurring, recordsOf, type AuditAnswer, type AuditFilter, type AuditRecord } from "../core/audit";
import { number, time } from "../core/format";
import { allowed, api } from "../core/state";
import { t, tag } from "../core/words";
import { CopyCommands, Empty, Loading, Panel, permittedOr, Rows, Select, useLoad } from "../ui/parts";

const PATH = "/admin/audit";

export function Audit() {
  const permitted = allowed("get", "ops");
  const loaded = useLoad(() => permittedOr<AuditAnswer>(permitted, api.path(PATH)), "audit");
  const tools = permitted && (
    <button type="button" class="small" onClick={loaded.reload}>
      {t("auditAgain")}
    </button>
  );
  return (
    <Panel title={t("audit")} tools={tools}>
      {!permitted ? <Empty>{t("noRight")}</Empty> : <Loading loaded={loaded}>{(answer) => <Records {...answer} />}</Loading>}
    </Panel>
  );
}

/** The value of a choice that limits nothing. No account and no kind of act has this name. */
const ALL = "*";

function Records({ processes: parts = [], silent = 0 }: Partial<AuditAnswer>) {
  const [filter, setFilter] = useState<AuditFilter>({});
  const records = recordsOf(parts, filter);
  const choices = (all: string, values: string[], none: string): [string, string][] => [
    [ALL, all],
    ...values.map((value): [string, string] => [value, value || none]),
  ];
  const set = (name: keyof AuditFilter) => (value: string) =>
    setFilter({ ...filter, [name]: value === ALL ? undefined : value });
  return (
    <>
      <div class="filters">
        <Select
          label={t("auditAccount")}
          value={filter.account ?? ALL}
          options={choices(t("auditAllAccounts"), occurring(parts, ({ account }) => account ?? ""), t("auditNobody"))}
          onChange={set("account")}
        />
        <Select
          label={t("auditDecision")}
          value={filter.decision ?? ALL}
          options={[
            [ALL, t("auditAllDecisions")],
            ["allowed", t("auditAllowed")],
            ["denied", t("auditDenied")],
          ]}
          onChange={set("decision")}
        />
        <Select
          label={t("auditKind")}
          value={filter.kind ?? ALL}
          options={choices(t("auditAllKinds"), occurring(parts, kindOf), "–")}
          onChange={set("kind")}
        />
      </div>
      <p class="quiet count" role="status">
        {t("auditCount", number(records.length, tag()))}{" "}
        {t(parts.every(({ complete }) => complete) ? "auditComplete" : "auditLast")}{" "}
        {parts.map(({ process }) => process).join(", ")}
        {silent > 0 && ` – ${t("auditSilent", number(silent, tag()))}`}
      </p>
      {records.length === 0 ? (
        <Empty>{t("auditEmpty")}</Empty>
      ) : (
        <div class="audit">
          <Rows
            items={records.map((record, at) => ({ record, at }))}
            height={46}
            label={t("audit")}
            idOf={({ record, at }) => `${record.time} ${record.requestId ?? ""} ${at}`}
            row={({ record }) => <Line record={record} />}
          />
        </div>
      )}
      <CopyCommands method="GET" path={api.path(PATH)} />
    </>
  );
}

function Line({ record }: { record: AuditRecord }) {
  const denied = record.decision === "denied";
  return (
    <div class="record" title={[record.source, record.requestId].filter(Boolean).join(" · ")}>
      <span>
        <span class={`status ${denied ? "down" : "up"}`}>{t(denied ? "auditDenied" : "auditAllowed")}</span>{" "}
        <b>{record.account || record.means || t("auditNobody")}</b> {kindOf(record)}{" "}
        <span class="quiet">{record.status}</span>
      </span>
      <span class="quiet">
        {time(Date.parse(record.time), tag())} · <span class="mono">{record.target}</span>
      </span>
    </div>
  );
}
