/**
 * The registry as the page knows it: messages of a resumable watch come in, services and instances come out.
 * Pure: it neither reads a clock nor touches the network, so that tests drive it message by message.
 */

import type { Detail, Frame, Instance, Service, ServiceKey } from "./model";

export interface Entry {
  instance: Instance;
  provider: Provider;
  /** The revision of the last change, 0 if only a state was seen. */
  rev: number;
  /** When the page learned of the last change, 0 for the state at the beginning. */
  changedAt: number;
  /** Everything that a search looks at, in lower case. Made when it is first needed. */
  text: string | undefined;
}

export interface Provider {
  name: string;
  key: ServiceKey;
  serviceId: string;
  service: Service | undefined;
  instances: Map<string, Entry>;
  byStatus: Map<string, number>;
  changedAt: number;
  text: string | undefined;
  /** True while it is not known whether the state still holds. */
  stale: boolean;
}

export type Kind = "registered" | "changed" | "left" | "status";

export interface Change {
  id: number;
  at: number;
  kind: Kind;
  provider: Provider;
  instanceId: string;
  from: string;
  to: string;
  rev: number;
}

/** The changes that are kept for the pages. */
const KEPT = 1000;
/** Seconds. */
const MINUTE = 60;

export function nameOf(key: ServiceKey | Service): string {
  return [key.environment ?? "", key.appId || "default", key.serviceName ?? "", key.version ?? ""].join("/");
}

export class Registry {
  readonly providers = new Map<string, Provider>();
  readonly byId = new Map<string, Provider>();
  readonly byStatus = new Map<string, number>();
  readonly changes: Change[] = [];
  instances = 0;
  /** The highest confirmed revision: a watch that is opened again begins here. */
  confirmed = 0;
  /** The highest revision in any message. */
  rev = 0;
  /** Everything that existed at the beginning has arrived. */
  loaded = false;
  /** Counts every change of anything here. */
  version = 0;
  /** Counts the changes of instances, for rates. */
  changed = 0;
  /** The changes of each of the last seconds. */
  private readonly seconds = new Map<number, number>();
  /** Changes since the last bookmark: they may come again, with the same revision. */
  private readonly recent = new Map<string, number>();

  apply(frame: Frame, now: number): void {
    const rev = frame.rev ?? 0;
    switch (frame.action) {
      case "BOOKMARK":
        this.bookmark(rev);
        break;
      case "RESET":
        this.reset(frame, rev, now);
        break;
      case "CREATE":
      case "UPDATE":
      case "DELETE":
        this.event(frame, rev, now);
        break;
      default:
        return;
    }
    this.version += 1;
  }

  /** The state must be sent whole again. What is known stays readable until then. */
  forgetPosition(): void {
    for (const provider of this.providers.values()) provider.stale = true;
    this.recent.clear();
    this.confirmed = 0;
    this.version += 1;
  }

  /** Nothing is there. A watch over nothing is told so only with the next regular bookmark. */
  isEmpty(): void {
    this.loaded = true;
    this.version += 1;
  }

  /** Forgets everything: another tenant, or another account. */
  clear(): void {
    this.providers.clear();
    this.byId.clear();
    this.byStatus.clear();
    this.changes.length = 0;
    this.seconds.clear();
    this.recent.clear();
    this.instances = 0;
    this.confirmed = 0;
    this.rev = 0;
    this.loaded = false;
    this.version += 1;
  }

  /** Takes the records of all services, which the watch does not tell of. */
  setServices(services: Service[]): void {
    const listed = new Set<string>();
    for (const service of services) {
      const name = nameOf(service);
      listed.add(name);
      const provider = this.provider(service, service.serviceId);
      provider.service = service;
      provider.text = undefined;
    }
    // A service that is gone has lost its instances before, by events of the watch.
    for (const [name, provider] of this.providers) {
      if (!listed.has(name) && provider.instances.size === 0) this.remove(name, provider);
      else if (!listed.has(name)) provider.service = undefined;
    }
    this.version += 1;
  }

  /** Takes the whole state at once, where there is no watch. */
  setAll(details: Detail[], now: number): void {
    const services = details.flatMap((detail) => detail.microService ?? []);
    const seen = new Set<string>();
    for (const detail of details) {
      if (!detail.microService) continue;
      const provider = this.provider(detail.microService, detail.microService.serviceId);
      seen.add(provider.name);
      this.replace(provider, detail.instances ?? [], 0, now);
    }
    for (const [name, provider] of this.providers) {
      if (!seen.has(name)) this.replace(provider, [], 0, now);
    }
    this.setServices(services);
    this.loaded = true;
  }

  /** The number of changes in the last minute, also of those that are not kept. */
  lastMinute(now: number): number {
    const begin = Math.floor(now / 1000) - MINUTE;
    let sum = 0;
    for (const [second, count] of this.seconds) if (second > begin) sum += count;
    return sum;
  }

  private bookmark(rev: number): void {
    this.rev = Math.max(this.rev, rev);
    this.confirmed = Math.max(this.confirmed, rev);
    for (const [id, seen] of this.recent) if (seen <= rev) this.recent.delete(id);
    if (this.loaded && ![...this.providers.values()].some((provider) => provider.stale)) return;
    this.loaded = true;
    for (const provider of this.providers.values()) {
      // Its state was not among those that were sent, so it has none.
      if (provider.stale) this.replace(provider, [], rev, 0);
      provider.stale = false;
    }
  }

  private reset(frame: Frame, rev: number, now: number): void {
    if (!frame.key) {
      this.forgetPosition();
      this.rev = rev;
      return;
    }
    if (this.confirmed > 0 && rev < this.confirmed) {
      // The store was set back to a backup: numbers begin again, and nothing that was known is certain.
      this.forgetPosition();
      this.rev = 0;
    }
    const instances = frame.instances ?? [];
    const provider = this.provider(frame.key, instances[0]?.serviceId ?? "");
    this.replace(provider, instances, rev, this.loaded ? now : 0);
    provider.stale = false;
    this.rev = Math.max(this.rev, rev);
  }

  private event(frame: Frame, rev: number, now: number): void {
    const { instance } = frame;
    if (!instance || !frame.key) return;
    this.rev = Math.max(this.rev, rev);
    this.confirmed = Math.max(this.confirmed, frame.since ?? rev);
    const id = `${instance.serviceId ?? ""}/${instance.instanceId}`;
    const seen = this.recent.get(id);
    if (seen !== undefined && rev <= seen) return;
    this.recent.set(id, rev);
    const provider = this.provider(frame.key, instance.serviceId ?? "");
    if (frame.action === "DELETE") this.drop(provider, instance.instanceId, rev, now);
    else this.put(provider, instance, rev, now);
  }

  private provider(key: ServiceKey | Service, serviceId: string): Provider {
    const name = nameOf(key);
    let provider = this.providers.get(name);
    if (!provider) {
      provider = {
        name,
        key: {
          environment: key.environment ?? "",
          appId: key.appId || "default",
          serviceName: key.serviceName ?? "",
          version: key.version ?? "",
        },
        serviceId,
        service: undefined,
        instances: new Map(),
        byStatus: new Map(),
        changedAt: 0,
        text: undefined,
        stale: false,
      };
      this.providers.set(name, provider);
    }
    if (serviceId && provider.serviceId !== serviceId) {
      // The same name with another id: it was deleted and registered again.
      this.byId.delete(provider.serviceId);
      provider.serviceId = serviceId;
      provider.text = undefined;
    }
    if (serviceId) this.byId.set(serviceId, provider);
    return provider;
  }

  private remove(name: string, provider: Provider): void {
    this.providers.delete(name);
    if (this.byId.get(provider.serviceId) === provider) this.byId.delete(provider.serviceId);
  }

  private replace(provider: Provider, instances: Instance[], rev: number, now: number): void {
    const kept = new Set(instances.map((instance) => instance.instanceId));
    for (const id of [...provider.instances.keys()]) if (!kept.has(id)) this.drop(provider, id, rev, now);
    for (const instance of instances) {
      const known = provider.instances.get(instance.instanceId);
      if (known && same(known.instance, instance)) continue;
      this.put(provider, instance, rev, now);
    }
  }

  private put(provider: Provider, instance: Instance, rev: number, now: number): void {
    const known = provider.instances.get(instance.instanceId);
    const from = known?.instance.status ?? "";
    const to = instance.status ?? "";
    if (known) {
      known.instance = instance;
      known.rev = rev;
      known.changedAt = now;
      known.text = undefined;
    } else {
      provider.instances.set(instance.instanceId, { instance, provider, rev, changedAt: now, text: undefined });
      this.instances += 1;
    }
    if (known) this.count(provider, from, -1);
    this.count(provider, to, 1);
    const kind: Kind = !known ? "registered" : from !== to ? "status" : "changed";
    this.note(provider, kind, instance.instanceId, from, to, rev, now);
  }

  private drop(provider: Provider, instanceId: string, rev: number, now: number): void {
    const known = provider.instances.get(instanceId);
    if (!known) return;
    provider.instances.delete(instanceId);
    this.instances -= 1;
    const from = known.instance.status ?? "";
    this.count(provider, from, -1);
    this.note(provider, "left", instanceId, from, "", rev, now);
  }

  private count(provider: Provider, status: string, by: number): void {
    for (const counts of [provider.byStatus, this.byStatus]) {
      const now = (counts.get(status) ?? 0) + by;
      if (now > 0) counts.set(status, now);
      else counts.delete(status);
    }
  }

  private note(
    provider: Provider,
    kind: Kind,
    instanceId: string,
    from: string,
    to: string,
    rev: number,
    at: number,
  ): void {
    // The state at the beginning is no change.
    if (at === 0) return;
    provider.changedAt = at;
    this.changed += 1;
    const second = Math.floor(at / 1000);
    this.seconds.set(second, (this.seconds.get(second) ?? 0) + 1);
    // In the order of their beginning.
    for (const old of this.seconds.keys()) {
      if (old > second - MINUTE) break;
      this.seconds.delete(old);
    }
    this.changes.push({ id: this.changed, at, kind, provider, instanceId, from, to, rev });
    if (this.changes.length > KEPT * 2) this.changes.splice(0, this.changes.length - KEPT);
  }
}

/** Equal in everything, whatever the order of members. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || !a || !b) return false;
  const left = a as Record<string, unknown>;
  const right = b as Record<string, unknown>;
  const keys = Object.keys(left);
  return keys.length === Object.keys(right).length && keys.every((key) => key in right && same(left[key], right[key]));
}
