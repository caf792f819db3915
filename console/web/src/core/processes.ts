/** The processes of the fleet as any gateway tells of them. Pure. */

export interface Stage {
  stage: string;
  count: number;
  p50Ms?: number;
  p99Ms?: number;
}

/** A dialect that has been used since the process began. */
export interface Dialect {
  dialect: string;
  /** Open streams. Absent for a dialect of single questions. */
  clients?: number;
  answersPerSecond?: number;
}

/** A process. Figures that it does not have are absent; of an older version all of them are. */
export interface Process {
  process: string;
  address: string;
  role: string;
  release?: string;
  /** Seconds since it told this. */
  age: number;
  /** Seconds that rates and stages are about. */
  seconds?: number;
  connections?: number;
  watchers?: number;
  pushesPerSecond?: number;
  requestsPerSecond?: number;
  pending?: number;
  revision?: number;
  staleSeconds?: number;
  divergences?: number;
  cores?: number;
  memoryMib?: number;
  stages?: Stage[];
  dialects?: Dialect[];
}

export interface Processes {
  processes?: Process[];
  silent?: number;
}

/** The stages of a change on its way to a watcher, in their order, and that of a request through a gateway. */
export const STAGES = ["commit", "publish", "bus", "write", "total", "forward"] as const;

/** The dialects, in the order of their columns. */
export const DIALECTS = ["xds", "sse", "dns", "http_sd", "eureka"] as const;

/** The publisher first, then the other control planes, then gateways; those of one role by address. */
export function arrange(processes: readonly Process[]): Process[] {
  const order = ["publisher", "both", "control", "edge"];
  const rank = ({ role }: Process) => (order.indexOf(role) + order.length + 1) % (order.length + 1);
  return [...processes].sort((a, b) => rank(a) - rank(b) || a.address.localeCompare(b.address));
}

/** The latency of a stage: its median and its 99th percentile in milliseconds. Beyond ten seconds there is no figure. */
export function latency({ stages = [] }: Process, stage: string, plain: (value: number) => string): string {
  const known = stages.find((one) => one.stage === stage);
  if (!known) return "–";
  const [median, last] = [known.p50Ms, known.p99Ms].map((value) => (value === undefined ? `> ${plain(10_000)}` : plain(value)));
  return `${median} / ${last}`;
}

/** The use of a dialect: its open streams and its answers a second, as far as it has them. */
export function use({ dialects = [] }: Process, dialect: string, plain: (value: number) => string): string {
  const known = dialects.find((one) => one.dialect === dialect);
  if (!known) return "–";
  const { clients, answersPerSecond } = known;
  const rate = answersPerSecond === undefined ? "" : `${plain(Number(answersPerSecond.toFixed(1)))}/s`;
  return [clients === undefined ? "" : plain(clients), rate].filter(Boolean).join(" · ") || "–";
}

/** The releases that are in use. More than one is an upgrade under way, or one that was forgotten. */
export function releases(processes: readonly Process[]): string[] {
  return [...new Set(processes.map(({ release }) => release ?? "?"))].sort();
}
