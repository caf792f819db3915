/** Search over services and instances: the text of the box comes in, a list comes out. Pure. */

import type { Entry, Provider } from "./registry";

export interface Query {
  words: string[];
  app: string | undefined;
  env: string | undefined;
  service: string | undefined;
  version: string | undefined;
  status: string | undefined;
  host: string | undefined;
  zone: string | undefined;
  properties: [string, string][];
}

export interface Found {
  provider: Provider;
  /** The instances that match. */
  matching: number;
}

const FIELDS = ["app", "env", "service", "version", "status", "host", "zone"] as const;
type Field = (typeof FIELDS)[number];

/** Reads `order app:shop status:up stage=blue`. Quotation marks hold words together. */
export function parse(text: string): Query {
  const query: Query = {
    words: [],
    app: undefined,
    env: undefined,
    service: undefined,
    version: undefined,
    status: undefined,
    host: undefined,
    zone: undefined,
    properties: [],
  };
  for (const match of text.toLowerCase().matchAll(/(?:[^\s"]|"[^"]*"?)+/g)) {
    const word = match[0].replaceAll('"', "");
    const colon = word.indexOf(":");
    const equals = word.indexOf("=");
    const field = colon > 0 ? word.slice(0, colon) : "";
    if (isField(field)) query[field] = word.slice(colon + 1);
    else if (equals > 0) query.properties.push([word.slice(0, equals), word.slice(equals + 1)]);
    else if (word) query.words.push(word);
  }
  return query;
}

function isField(word: string): word is Field {
  return (FIELDS as readonly string[]).includes(word);
}

/** Writes a query with one of its fields set, or without it. */
export function withField(text: string, field: Field, value: string | undefined): string {
  const parts = [...text.matchAll(/(?:[^\s"]|"[^"]*"?)+/g)].map((match) => match[0]);
  const kept = parts.filter((part) => !part.toLowerCase().startsWith(`${field}:`));
  if (value !== undefined) kept.push(/\s/.test(value) ? `${field}:"${value}"` : `${field}:${value}`);
  return kept.join(" ");
}

function textOfProvider(provider: Provider): string {
  provider.text ??= [
    provider.key.serviceName,
    provider.key.appId,
    provider.key.environment,
    provider.key.version,
    provider.serviceId,
    provider.service?.alias,
    provider.service?.description,
    ...Object.entries(provider.service?.properties ?? {}).flat(),
  ]
    .join("\n")
    .toLowerCase();
  return provider.text;
}

function textOfEntry(entry: Entry): string {
  const { instance } = entry;
  entry.text ??= [
    instance.instanceId,
    instance.hostName,
    ...(instance.endpoints ?? []),
    ...Object.entries(instance.properties ?? {}).flat(),
    instance.dataCenterInfo?.availableZone,
    instance.dataCenterInfo?.region,
  ]
    .join("\n")
    .toLowerCase();
  return entry.text;
}

/** Makes the texts that a search looks at, one with each step, so that the first search need not. */
export function* warming(providers: Iterable<Provider>): Generator<void> {
  for (const provider of providers) {
    textOfProvider(provider);
    for (const entry of provider.instances.values()) {
      textOfEntry(entry);
      yield;
    }
  }
}

function isPart(wanted: string | undefined, value: string | undefined): boolean {
  return wanted === undefined || (value ?? "").toLowerCase().includes(wanted);
}

function isExactly(wanted: string | undefined, value: string | undefined): boolean {
  return wanted === undefined || (value ?? "").toLowerCase() === wanted;
}

/** Case does not count. Most instances are decided without making a text of each property: there are many of them. */
function hasProperty(entry: Entry, key: string, value: string): boolean {
  const own = entry.instance.properties;
  if (!own) return false;
  const text = textOfEntry(entry);
  if (!text.includes(value) || !text.includes(key)) return false;
  if (Object.hasOwn(own, key) && own[key]?.includes(value)) return true;
  return Object.entries(own).some(([name, text]) => name.toLowerCase() === key && text.toLowerCase().includes(value));
}

function takesEntry(query: Query, words: string[], entry: Entry): boolean {
  const { instance } = entry;
  if (!isExactly(query.status, instance.status) || !isPart(query.host, instance.hostName)) return false;
  if (query.zone !== undefined) {
    const place = instance.dataCenterInfo;
    if (!isPart(query.zone, place?.availableZone) && !isPart(query.zone, place?.region)) return false;
  }
  if (!query.properties.every(([key, value]) => hasProperty(entry, key, value))) return false;
  return words.length === 0 || words.every((word) => textOfEntry(entry).includes(word));
}

/** The services that match, each with the number of its matching instances. */
export function search(providers: Iterable<Provider>, query: Query): Found[] {
  const found: Found[] = [];
  const ofInstances =
    query.status !== undefined ||
    query.host !== undefined ||
    query.zone !== undefined ||
    query.properties.length > 0;
  for (const provider of providers) {
    const { key } = provider;
    if (!isExactly(query.app, key.appId) || !isExactly(query.env, key.environment)) continue;
    if (!isPart(query.service, key.serviceName) || !isExactly(query.version, key.version)) continue;
    // A word may stand in the service or in its instances.
    const words = query.words.filter((word) => !textOfProvider(provider).includes(word));
    if (words.length === 0 && !ofInstances) {
      found.push({ provider, matching: provider.instances.size });
      continue;
    }
    let matching = 0;
    for (const entry of provider.instances.values()) if (takesEntry(query, words, entry)) matching += 1;
    if (matching > 0) found.push({ provider, matching });
  }
  return found;
}

/** The instances of one service that match. */
export function searchEntries(provider: Provider, query: Query): Entry[] {
  const found: Entry[] = [];
  for (const entry of provider.instances.values()) {
    const words = query.words.filter((word) => !textOfEntry(entry).includes(word));
    if (takesEntry(query, words, entry)) found.push(entry);
  }
  return found;
}

export type Order = "name" | "instances" | "changed";

const collator = new Intl.Collator(undefined, { numeric: true });

export function sort(found: Found[], order: Order): Found[] {
  const byName = (a: Found, b: Found) =>
    collator.compare(a.provider.key.serviceName ?? "", b.provider.key.serviceName ?? "") ||
    collator.compare(a.provider.name, b.provider.name);
  if (order === "instances") return found.sort((a, b) => b.matching - a.matching || byName(a, b));
  if (order === "changed") {
    return found.sort((a, b) => b.provider.changedAt - a.provider.changedAt || byName(a, b));
  }
  return found.sort(byName);
}
