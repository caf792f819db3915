/** Numbers, times and commands as people read and paste them. Pure. */

/** The registry's seconds since 1970, as decimal text. */
export function seconds(text: string | number | undefined): number | undefined {
  const value = Number(text);
  return text !== undefined && text !== "" && Number.isFinite(value) && value > 0 ? value * 1000 : undefined;
}

/** Keeps what `make` has made for a language. To make a formatter takes longer than to use it a hundred times. */
function once<T>(make: (language: string) => T): (language: string) => T {
  const made = new Map<string, T>();
  return (language) => {
    let known = made.get(language);
    if (known === undefined) made.set(language, (known = make(language)));
    return known;
  };
}

const numbers = once((language) => new Intl.NumberFormat(language));
const times = once((language) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" }));
const clocks = once((language) => new Intl.DateTimeFormat(language, { timeStyle: "medium" }));
const ages = once((language) => new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" }));

export function number(value: number, language: string): string {
  return numbers(language).format(value);
}

/** A time in the viewer's own zone. */
export function time(at: number | undefined, language: string): string {
  if (at === undefined) return "–";
  return times(language).format(at);
}

export function clock(at: number, language: string): string {
  return clocks(language).format(at);
}

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
  ["second", 1000],
];

export function ago(at: number | undefined, now: number, language: string): string {
  if (at === undefined) return "–";
  const past = at - now;
  const format = ages(language);
  for (const [unit, size] of UNITS) {
    if (Math.abs(past) >= size || unit === "second") return format.format(Math.trunc(past / size), unit);
  }
  return "";
}

/** A length of time, in its largest unit; seconds with a tenth while it is short. */
export function span(milliseconds: number, language: string): string {
  // "95 seconds" says more than "1 minute", and "1 hour" more than "60 minutes".
  const fits = ([, length]: [unknown, number]) =>
    milliseconds >= 2 * length || (length > 1000 && milliseconds > 0 && milliseconds % length === 0);
  const [unit, size] = UNITS.find(fits) ?? ["second", 1000];
  const digits = unit === "second" && milliseconds < 10_000 ? 1 : 0;
  const format = new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: digits });
  return format.format(digits > 0 ? milliseconds / size : Math.floor(milliseconds / size));
}

/** Quotes a word for a POSIX shell. */
export function quote(word: string): string {
  return /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export interface Command {
  method: string;
  url: string;
  headers?: Record<string, string>;
  body?: string | undefined;
  /** The request needs a token. The command names a variable: a token has no place in a history. */
  signedIn: boolean;
}

export function curl({ method, url, headers = {}, body, signedIn }: Command): string {
  const words = ["curl"];
  if (method !== "GET") words.push("-X", method);
  if (signedIn) words.push("-H", '"Authorization: Bearer $MUSTER_TOKEN"');
  for (const [name, value] of Object.entries(headers)) words.push("-H", quote(`${name}: ${value}`));
  if (body) words.push("-H", quote("Content-Type: application/json"), "-d", quote(body));
  words.push(quote(url));
  return words.join(" ");
}

export function cli(server: string, words: string[]): string {
  const at = server === "http://127.0.0.1:30100" ? [] : ["--server", server];
  return ["muster", ...words, ...at].map(quote).join(" ");
}
