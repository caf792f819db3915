/** 100 000 instances, and 1000 changes per second: how long a page takes, and whether it stays smooth. */

import { live, open, sound } from "./browser.mjs";
import { standalone } from "./processes.mjs";
import { Client, many } from "./seed.mjs";

const SERVICES = Number(process.env.CONSOLE_SERVICES ?? 1000);
const EACH = Number(process.env.CONSOLE_INSTANCES ?? 100);
const RATE = 1000;
const SECONDS = 20;

export default async function run({ browser, step }) {
  const { server } = await standalone("load");
  const client = new Client(server);
  let ids;
  await step(`${SERVICES} services with ${EACH} instances each are registered`, async () => {
    ids = await many(client, SERVICES, EACH);
  });
  const page = await open(browser);
  const total = new Intl.NumberFormat("en-GB").format(SERVICES * EACH + 1);

  await step("the first picture of all of them", async () => {
    await page.goto(`${server}/console/#/services`);
    await page.getByText(`${total} instances`).waitFor({ timeout: 120_000 });
    const shown = await page.evaluate(() => performance.now());
    // A page that comes back has the files already, as a viewer's browser has.
    const began = Date.now();
    await page.reload();
    await page.getByText(`${total} instances`).waitFor({ timeout: 120_000 });
    return `${Math.round(shown)} ms, again ${Date.now() - began} ms`;
  });

  await step("find as you type", async () => {
    const times = [];
    for (const text of ["n", "node-7", "service-77 zone:zone-a", "stage=blue", "nothing at all", ""]) {
      times.push(
        await page.evaluate(async (value) => {
          const box = document.querySelector("input[type=search]");
          const began = performance.now();
          box.value = value;
          box.dispatchEvent(new InputEvent("input", { bubbles: true }));
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          return performance.now() - began;
        }, text),
      );
    }
    return `${times.map((time) => Math.round(time)).join(", ")} ms`;
  });

  for (const path of ["services", "", `service/${ids[0]}`]) {
    await step(`${RATE} changes per second under /${path.slice(0, 8)}`, async () => {
      await page.goto(`${server}/console/#/${path}`);
      await live(page);
      await page.evaluate(() => {
        window.gaps = [];
        window.tasks = [];
        new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((one) => one.duration))).observe({
          type: "longtask",
        });
        let last = performance.now();
        const frame = (now) => {
          window.gaps.push(now - last);
          last = now;
          requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
      });
      const sent = await change(client, ids);
      const { gaps, tasks } = await page.evaluate(() => ({ gaps: window.gaps, tasks: window.tasks }));
      gaps.sort((a, b) => a - b);
      const p95 = gaps[Math.floor(gaps.length * 0.95)] ?? 0;
      sound(page);
      return `${Math.round(sent / SECONDS)}/s made; pictures ${p95.toFixed(0)} ms apart at p95, ${tasks.length} long tasks, the longest ${Math.round(Math.max(0, ...tasks))} ms`;
    });
  }
}

/** Changes properties of instances for a while, as fast as wanted if the registry takes it. */
async function change(client, ids) {
  const own = [];
  for (const id of ids.slice(0, 20)) {
    const { instances } = await client.call("GET", `/v4/default/registry/microservices/${id}/instances`);
    own.push(...instances.map((one) => [id, one.instanceId]));
  }
  const end = Date.now() + SECONDS * 1000;
  const began = Date.now();
  let sent = 0;
  const work = async () => {
    while (Date.now() < end) {
      if (sent > ((Date.now() - began) * RATE) / 1000) {
        await new Promise((done) => setTimeout(done, 5));
        continue;
      }
      const [service, instance] = own[sent++ % own.length];
      const path = `/v4/default/registry/microservices/${service}/instances/${instance}/properties`;
      await client.call("PUT", path, { properties: { stage: "blue", step: `${sent}` } });
    }
  };
  await Promise.all(Array.from({ length: 32 }, work));
  return sent;
}
