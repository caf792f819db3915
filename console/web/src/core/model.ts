/** The shapes of the registry's API, as far as the console reads them. Empty members are absent. */

export interface DataCenter {
  name?: string;
  region?: string;
  availableZone?: string;
}

export interface Instance {
  instanceId: string;
  serviceId?: string;
  endpoints?: string[];
  hostName?: string;
  status?: string;
  properties?: Record<string, string>;
  healthCheck?: { mode?: string; interval?: number; times?: number };
  timestamp?: string;
  modTimestamp?: string;
  dataCenterInfo?: DataCenter;
  version?: string;
}

export interface ServiceKey {
  tenant?: string;
  environment?: string;
  appId?: string;
  serviceName?: string;
  alias?: string;
  version?: string;
}

export interface Service {
  serviceId: string;
  appId?: string;
  serviceName?: string;
  version?: string;
  environment?: string;
  alias?: string;
  description?: string;
  level?: string;
  status?: string;
  schemas?: string[];
  properties?: Record<string, string>;
  framework?: { name?: string; version?: string };
  registerBy?: string;
  timestamp?: string;
  modTimestamp?: string;
}

export interface Schema {
  schemaId: string;
  summary?: string;
  schema?: string;
}

export interface Rule {
  ruleId: string;
  ruleType?: string;
  attribute?: string;
  pattern?: string;
  description?: string;
}

export interface Detail {
  microService?: Service;
  instances?: Instance[];
  schemaInfos?: Schema[];
  rules?: Rule[];
  providers?: Service[];
  consumers?: Service[];
  tags?: Record<string, string>;
  microServiceVersions?: string[];
}

/** A message of a resumable watch. */
export interface Frame {
  action: string;
  key?: ServiceKey;
  instance?: Instance;
  instances?: Instance[];
  rev?: number;
  since?: number;
  errorCode?: string;
  errorMessage?: string;
}

export const STATUSES = ["UP", "STARTING", "TESTING", "OUTOFSERVICE", "DOWN"] as const;

export interface Permission {
  resources?: { type?: string; labels?: Record<string, string> }[];
  verbs?: string[];
}

export interface Role {
  name: string;
  perms?: Permission[];
  createTime?: string;
  updateTime?: string;
}

export interface Account {
  name: string;
  roles?: string[];
  status?: string;
  tenants?: string[];
  createTime?: string;
  updateTime?: string;
}

export interface Lock {
  key: string;
  status?: string;
  releaseAt?: number;
}

export interface TokenRecord {
  id: string;
  description?: string;
  createTime?: string;
  exp?: number;
}

export interface Alarm {
  status: string;
  id: string;
  fields?: Record<string, string>;
}

export interface Protected {
  serviceId: string;
  serviceName: string;
  size: number;
  living: number;
  held: { instanceId: string; since: number }[];
}
