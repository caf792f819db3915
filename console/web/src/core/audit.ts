/** The records of the audit log as the page shows them: of the processes that were asked, the newest first. Pure. */

export interface AuditRecord {
  time: string;
  plane: string;
  decision: "allowed" | "denied";
  account?: string;
  means?: string;
  method: string;
  route?: string;
  operation?: string;
  transport?: string;
  target: string;
  status: number;
  source?: string;
  requestId?: string;
}

/** The records of one process. */
export interface AuditPart {
  process: string;
  complete: boolean;
  records: AuditRecord[];
}

export interface AuditFilter {
  account?: string | undefined;
  decision?: string | undefined;
  kind?: string | undefined;
}

/** The answer of the registry. */
export interface AuditAnswer {
  processes: AuditPart[];
  /** Control planes that did not answer. */
  silent: number;
}

/** The kind of act, as the registry names it in its own filter. */
export function kindOf(record: AuditRecord): string {
  return record.operation || record.transport || record.route || "";
}

export function recordsOf(parts: AuditPart[], { account, decision, kind }: AuditFilter): AuditRecord[] {
  const wanted = (record: AuditRecord) =>
    (account === undefined || (record.account ?? "") === account) &&
    (decision === undefined || record.decision === decision) &&
    (kind === undefined || kindOf(record) === kind);
  const all = parts.flatMap(({ records }) => records.filter(wanted));
  // Times have one form and zone, so their text has their order. Those of one moment stay as they came.
  return parts.length > 1 ? all.sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0)) : all;
}

/** The values of one field that occur, in order. */
export function occurring(parts: AuditPart[], of: (record: AuditRecord) => string): string[] {
  return [...new Set(parts.flatMap(({ records }) => records.map(of)))].sort((a, b) => a.localeCompare(b));
}
