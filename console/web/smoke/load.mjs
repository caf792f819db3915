/**
 * 100 000 instances, and 1000 changes per second: how long a page takes, and whether it stays smooth.
 *
 * The watch is played inside the browser, because this is about the page alone. What a registry and a network add, the
 * benches measure. The figures are those of a machine that does nothing else. Each stands beside its goal, and none fails
 * the run: another machine may be slower, or busy.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { open, sound } from "./browser.mjs";
import { standalone } from "./processes.mjs";

const SIZE = { services: 1000, each: 100 };
const RATE = 1000;
const SECONDS = 15;
/** What is typed, letter by letter, and a box that is emptied at once. */
const TYPED = ["node-7", "service-77 zone:zone-1", "stage=blue", "nothing at all"];
const GOALS = { bundle: 250, picture: 1500, find: 100, task: 50 };

const at = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
const rounded = (values) => values.map((value) => Math.round(value)).join(", ");

/** Types the texts into the box of the page, and tells for each letter the time until its picture is drawn, in ms. */
async function type(page, texts) {
  return page.evaluate(async (all) => {
    const box = document.querySelector("input[type=search]");
    const times = [];
    for (const text of all) {
      for (let length = 1; length <= text.length + 1; length += 1) {
        const began = performance.now();
        box.value = length > text.length ? "" : text.slice(0, length);
        box.dispatchEvent(new InputEvent("input", { bubbles: true }));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - began);
      }
    }
    return times.sort((a, b) => a - b);
  }, texts);
}

const found = (times) =>
  `${times.length} letters: median ${Math.round(at(times, 0.5))} ms, p95 ${Math.round(at(times, 0.95))} ms, ` +
  `longest ${Math.round(times.at(-1))} ms (goal: ${GOALS.find} ms)`;

/** The bytes of the bundle as a gateway sends them to a browser that takes gzip, in KB. */
function compressed() {
  const bundle = join(import.meta.dirname, "../../bundle");
  const bytes = readdirSync(bundle).map((name) => gzipSync(readFileSync(join(bundle, name))).length);
  return bytes.reduce((sum, some) => sum + some, 0) / 1000;
}

/** Runs in the page, before its scripts: a WebSocket that makes up what a gateway would send. */
function play({ services, each }) {
  const key = (service) => ({
    tenant: "default/default",
    environment: "production",
    appId: `app-${service % 40}`,
    serviceName: `service-${service}`,
    version: "1.0.0",
  });
  const instance = (service, number, step = 0) => ({
    instanceId: `${service.toString(16).padStart(8, "0")}${number.toString(16).padStart(24, "0")}`,
    serviceId: `s-${service}`,
    endpoints: [`rest://10.${service % 250}.${number}.1:8080`],
    hostName: `node-${number}`,
    status: number % 50 ? "UP" : "DOWN",
    properties: { stage: number % 2 ? "blue" : "green", step: `${step}` },
    healthCheck: { mode: "push", interval: 30, times: 3 },
    timestamp: "1795858845",
    modTimestamp: "1795858845",
    dataCenterInfo: { name: "dc1", region: "north", availableZone: `zone-${number % 3}` },
    version: "1.0.0",
  });
  const all = Array.from({ length: services }, (_, service) =>
    JSON.stringify({
      action: "RESET",
      key: key(service),
      instances: Array.from({ length: each }, (__, number) => instance(service, number)),
      rev: 100,
      since: 0,
    }),
  );
  let rev = 100;
  window.madeBy = performance.now();
  window.services = Array.from({ length: services }, (_, service) => ({ ...key(service), serviceId: `s-${service}` }));
  window.changes = (rate, seconds) =>
    new Promise((done) => {
      const began = performance.now();
      let sent = 0;
      const timer = setInterval(() => {
        const past = performance.now() - began;
        while (sent < (past * rate) / 1000) {
          rev += 1;
          sent += 1;
          const service = sent % 50;
          const body = { action: "UPDATE", key: key(service), instance: instance(service, sent % each, sent), rev, since: rev - 1 };
          window.played.onmessage({ data: JSON.stringify(body) });
        }
        if (past > seconds * 1000) {
          clearInterval(timer);
          done(sent);
        }
      }, 4);
    });
  window.WebSocket = class {
    constructor() {
      window.played = this;
      setTimeout(() => {
        this.onopen();
        const frames = [...all, JSON.stringify({ action: "BOOKMARK", rev: 100 })];
        // In pieces, as messages come from a network.
        const next = () => {
          for (const frame of frames.splice(0, 20)) this.onmessage({ data: frame });
          if (frames.length > 0) setTimeout(next);
        };
        next();
      });
    }
    close() {}
  };
}

export default async function run({ browser, step }) {
  const { server } = await standalone("load");
  // Lines light up when something has changed, as they do for most people.
  const page = await open(browser, { reducedMotion: "no-preference" });
  await page.addInitScript(play, SIZE);
  await page.route(/\/registry\/microservices$/, async (route) =>
    route.fulfill({ json: { services: await page.evaluate(() => window.services) } }),
  );
  const total = new Intl.NumberFormat("en-GB").format(SIZE.services * SIZE.each);

  await step("the bundle", async () => `${compressed().toFixed(0)} KB compressed (goal: ${GOALS.bundle} KB)`);

  await step(`the first picture of ${total} instances`, async () => {
    const times = [];
    for (let round = 0; round < 3; round += 1) {
      await (round === 0 ? page.goto(`${server}/console/#/services`) : page.reload());
      await page.waitForFunction((text) => document.querySelector(".count")?.textContent.includes(text), total, {
        polling: 20,
      });
      times.push(await page.evaluate(() => performance.now() - window.madeBy));
    }
    return `${rounded(times)} ms (goal: ${GOALS.picture} ms)`;
  });

  await step("find as you type", async () => found(await type(page, TYPED)));

  await step(`find as you type, at ${RATE} changes per second`, async () => {
    const changes = page.evaluate(({ rate, seconds }) => window.changes(rate, seconds), { rate: RATE, seconds: 8 });
    const times = await type(page, TYPED);
    await changes;
    return found(times);
  });

  await step("a task of 60 ms is seen", async () => {
    const seen = await page.evaluate(
      () =>
        new Promise((done, failed) => {
          const observer = new PerformanceObserver((list) => done(list.getEntries()[0].duration));
          observer.observe({ type: "longtask" });
          setTimeout(() => {
            for (const end = performance.now() + 60; performance.now() < end; );
            setTimeout(() => failed(new Error("the browser tells of no long task")), 2000);
          });
        }),
    );
    return `${Math.round(seen)} ms`;
  });

  for (const path of ["services", "services?q=stage%3Dblue", "", "service/s-1"]) {
    await step(`${RATE} changes per second under /${path}`, async () => {
      await page.evaluate((hash) => void (location.hash = hash), `#/${path}`);
      const { sent, gaps, tasks } = await page.evaluate(
        async ({ rate, seconds }) => {
          await new Promise((done) => setTimeout(done, 1000));
          const gaps = [];
          const tasks = [];
          const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration)));
          observer.observe({ type: "longtask" });
          let last = performance.now();
          let going = true;
          const frame = (now) => {
            gaps.push(now - last);
            last = now;
            if (going) requestAnimationFrame(frame);
          };
          requestAnimationFrame(frame);
          const sent = await window.changes(rate, seconds);
          going = false;
          observer.disconnect();
          return { sent, gaps, tasks };
        },
        { rate: RATE, seconds: SECONDS },
      );
      gaps.sort((a, b) => a - b);
      sound(page);
      const longest = Math.max(0, ...tasks);
      return (
        `${Math.round(sent / SECONDS)}/s; pictures ${at(gaps, 0.95).toFixed(0)} ms apart at p95, ${at(gaps, 0.99).toFixed(0)} at ` +
        `p99, ${gaps.at(-1)?.toFixed(0)} at most (goal: ${GOALS.task} at p95); ${tasks.length} tasks above 50 ms, the longest ` +
        `${Math.round(longest)} ms`
      );
    });
  }
}
