/** Overrides: what a form says becomes a request, and what is in force becomes words. Pure. */

import type { Instance } from "./model";
import { t, type Word } from "./words";

type Pairs = Record<string, string>;

export interface Target {
  instanceId?: string;
  version?: string;
  zone?: string;
  properties?: Pairs;
  /** The mark of a drain, beside an override of the same instance. */
  drain?: boolean;
}

export interface Wish {
  status?: string;
  weight?: number;
  metadata?: Pairs;
  hiddenFrom?: Pairs;
}

/** An override in force. Times are seconds since 1970. */
export interface Override extends Target, Wish {
  overrideId: string;
  serviceId: string;
  owner?: string;
  reason?: string;
  since?: number;
  until?: number;
}

/** The body that sets an override. */
export interface NewOverride extends Target, Wish {
  serviceId: string;
  reason: string;
  seconds?: number;
}

/** An instance as it reports itself and as clients see it; the first of the overrides wins. */
export interface Overridden {
  instance: Instance;
  reported: Instance;
  overrides?: Override[];
}

/** The longest time after which an override ends. */
const LONGEST = 366 * 24 * 3600;

/** What the viewer has filled in. Everything is text, as the fields have it. */
export interface Form {
  instanceId: string;
  some: boolean;
  version: string;
  zone: string;
  properties: string;
  status: string;
  weight: string;
  metadata: string;
  hiddenFrom: string;
  reason: string;
  /** Seconds; empty for never, and `at` for the time in `endsAt`. */
  ends: string;
  /** As a field for a local date and time has it. */
  endsAt: string;
}

export function emptyForm(instanceId = ""): Form {
  const texts = { version: "", zone: "", properties: "", status: "", weight: "", metadata: "", hiddenFrom: "", reason: "" };
  return { instanceId, some: false, ...texts, ends: "", endsAt: "" };
}

/** The form that shows an override as it is. */
export function formOf(one: Override): Form {
  return {
    instanceId: one.instanceId ?? "",
    some: Boolean(one.version || one.zone || one.properties),
    version: one.version ?? "",
    zone: one.zone ?? "",
    properties: linesOf(one.properties),
    status: one.status ?? "",
    weight: one.weight === undefined ? "" : String(one.weight),
    metadata: linesOf(one.metadata),
    hiddenFrom: linesOf(one.hiddenFrom),
    reason: one.reason ?? "",
    ends: one.until ? "at" : "",
    endsAt: one.until ? localTime(one.until * 1000) : "",
  };
}

/** A time as a field for a local date and time takes it. */
export function localTime(at: number): string {
  const date = new Date(at);
  return new Date(at - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

export interface Problem {
  word: Word;
  about?: Word;
}

/** The request of a form, or everything that is wrong with it. */
export function readForm(serviceId: string, form: Form, now: number): { body: NewOverride; problems: Problem[] } {
  const body: NewOverride = { serviceId, reason: form.reason.trim() };
  const problems: Problem[] = [];
  const pairs = (text: string, about: Word): Pairs | undefined => {
    const read = readPairs(text);
    if (read === undefined) problems.push({ word: "needPairs", about });
    return read && Object.keys(read).length > 0 ? read : undefined;
  };
  if (form.instanceId) body.instanceId = form.instanceId;
  if (form.some) {
    if (form.version.trim()) body.version = form.version.trim();
    if (form.zone.trim()) body.zone = form.zone.trim();
    set(body, "properties", pairs(form.properties, "fieldProperties"));
    if (isWhole(body) && problems.length === 0) problems.push({ word: "needTarget" });
  }
  if (form.status) body.status = form.status;
  const weight = form.weight.trim();
  if (weight !== "") {
    if (/^\d{1,3}$/.test(weight) && Number(weight) <= 100) body.weight = Number(weight);
    else problems.push({ word: "needWeight" });
  }
  set(body, "metadata", pairs(form.metadata, "fieldMetadata"));
  if (body.metadata && "weight" in body.metadata) problems.push({ word: "needNoWeight" });
  // A part of a service cannot be hidden, so what was written for the whole does not count.
  if (!form.instanceId && !form.some) set(body, "hiddenFrom", pairs(form.hiddenFrom, "fieldHidden"));
  const hasWish = body.status || body.weight !== undefined || body.metadata || body.hiddenFrom;
  if (!hasWish && problems.length === 0) problems.push({ word: "needWish" });
  if (!body.reason) problems.push({ word: "needReason" });
  if (form.ends) {
    const seconds = form.ends === "at" ? Math.ceil((Date.parse(form.endsAt) - now) / 1000) : Number(form.ends);
    if (seconds >= 1 && seconds <= LONGEST) body.seconds = seconds;
    else problems.push({ word: "needEnd" });
  }
  return { body, problems };
}

function set<K extends "properties" | "metadata" | "hiddenFrom">(body: NewOverride, key: K, value: Pairs | undefined) {
  if (value) body[key] = value;
}

/** The pairs in lines of `name=value`; `undefined` if one is none. */
export function readPairs(text: string): Pairs | undefined {
  // Not a plain object: a name such as `__proto__` is a name like any other.
  const read = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    const at = line.indexOf("=");
    const name = line.slice(0, at).trim();
    if (at < 0 || !name) return undefined;
    read.set(name, line.slice(at + 1).trim());
  }
  return Object.fromEntries(read);
}

function linesOf(pairs: Pairs | undefined): string {
  return listOf(pairs).join("\n");
}

function listOf(pairs: Pairs | undefined): string[] {
  return Object.entries(pairs ?? {}).map(([name, value]) => `${name}=${value}`);
}

export function isWhole(target: Target): boolean {
  return !target.instanceId && !target.version && !target.zone && Object.keys(target.properties ?? {}).length === 0;
}

/** True if two overrides are of the same instances: there is one for each target. */
export function sameTarget(a: Target, b: Target): boolean {
  const text = (one: Target) =>
    JSON.stringify([one.instanceId ?? "", one.version ?? "", one.zone ?? "", listOf(one.properties).sort(), one.drain ?? false]);
  return text(a) === text(b);
}

/** True for an instance as it is reported. */
export function takes(target: Target, reported: Instance): boolean {
  return (
    (!target.instanceId || target.instanceId === reported.instanceId) &&
    (!target.version || target.version === reported.version) &&
    (!target.zone || target.zone === reported.dataCenterInfo?.availableZone) &&
    Object.entries(target.properties ?? {}).every(([name, value]) => reported.properties?.[name] === value)
  );
}

export function targetWords(target: Target): string {
  const words = [
    target.instanceId && t("targetInstance", target.instanceId),
    target.version && t("targetVersion", target.version),
    target.zone && t("targetZone", target.zone),
    ...listOf(target.properties),
  ].filter(Boolean);
  return words.length > 0 ? words.join(" · ") : t("targetAll");
}

export function wishWords(wish: Wish & Target): string {
  if (wish.drain) return t("wishDrain");
  return [
    wish.status && t("wishStatus", wish.status),
    wish.weight !== undefined && t("wishWeight", wish.weight),
    ...listOf(wish.metadata),
    wish.hiddenFrom && t("wishHidden", listOf(wish.hiddenFrom).join(" ")),
  ]
    .filter(Boolean)
    .join(" · ");
}

/** The same as words of `muster`. */
export function commandOf(body: NewOverride): string[] {
  const words = ["override", "set", "--service", body.serviceId];
  const add = (flag: string, value: string | number | undefined) => {
    if (value !== undefined && value !== "") words.push(`--${flag}`, String(value));
  };
  add("instance", body.instanceId);
  add("version", body.version);
  add("zone", body.zone);
  for (const pair of listOf(body.properties)) add("property", pair);
  add("status", body.status);
  add("weight", body.weight);
  for (const pair of listOf(body.metadata)) add("metadata", pair);
  for (const pair of listOf(body.hiddenFrom)) add("hide-from", pair);
  add("reason", body.reason);
  if (body.seconds !== undefined) add("for", `${body.seconds}s`);
  return words;
}

/** A field that may differ between what is reported and what is seen. */
export interface Difference {
  /** Empty for the status, or the name of a property. */
  property: string;
  reported: string | undefined;
  seen: string | undefined;
  /** The override that says so; the first that has the field wins. */
  by: Override | undefined;
}

/** The fields that overrides have something to say about, the status first. */
export function differences({ instance, reported, overrides = [] }: Overridden): Difference[] {
  const rows: Difference[] = [];
  const status = overrides.find((one) => one.status);
  if (status || instance.status !== reported.status) {
    rows.push({ property: "", reported: reported.status, seen: instance.status, by: status });
  }
  const names = new Set<string>();
  for (const one of overrides) {
    for (const name of Object.keys(one.metadata ?? {})) names.add(name);
    if (one.weight !== undefined) names.add("weight");
  }
  for (const name of [...names].sort()) {
    const says = (one: Override) => (name === "weight" ? one.weight !== undefined : name in (one.metadata ?? {}));
    rows.push({
      property: name,
      reported: reported.properties?.[name],
      seen: instance.properties?.[name],
      by: overrides.find(says),
    });
  }
  return rows;
}
