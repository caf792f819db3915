/** An open registry on this machine: every page, what people do there, and what happens under an open page. */

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";

import { accessible, fits, live, open, sound } from "./browser.mjs";
import { standalone, until } from "./processes.mjs";
import { Client, shop } from "./seed.mjs";

const PICTURES = resolve(import.meta.dirname, "../../../docs/console");

export default async function run({ browser, step, screenshots }) {
  const { server, process: registry } = await standalone();
  const client = new Client(server);
  const page = await open(browser);

  await step("an empty registry says what to do next", async () => {
    await page.goto(server);
    assert.equal(new URL(page.url()).pathname, "/console/");
    await live(page);
    await page.getByRole("link", { name: "Services", exact: true }).first().click();
    await page.getByText("SERVICECENTER").waitFor();
    sound(page);
  });

  const services = await shop(client);
  const order = services.order;
  const instance = order.instances[0];
  const pages = {
    overview: "",
    services: "services",
    service: `service/${order.id}`,
    dependencies: `service/${order.id}?tab=dependencies`,
    schemas: `service/${order.id}?tab=schemas`,
    rules: `service/${order.id}?tab=rules`,
    "service-overrides": `service/${services.search.id}?tab=overrides`,
    timeline: `service/${services.search.id}?tab=timeline`,
    watchers: `service/${services.search.id}?tab=watchers`,
    overrides: "overrides",
    instance: `instance/${order.id}/${instance}`,
    overridden: `instance/${services.search.id}/${services.search.instances[0]}`,
    map: "map",
    neighbourhood: `map?focus=${order.id}&steps=2`,
    fleet: "fleet",
    people: "people",
    "try-it": "api?op=GetServices",
    nowhere: "nowhere",
  };
  // The fleet page shows the dialects in use.
  await fetch(`${server}/prometheus/v1/targets`);
  for (const theme of ["light", "dark"]) {
    const themed = await open(browser, { colorScheme: theme });
    await themed.goto(`${server}/console/`);
    await live(themed);
    // Something to see among the changes.
    await client.setStatus(services.cart.id, services.cart.instances[0], "DOWN");
    await client.setStatus(services.cart.id, services.cart.instances[0], "UP");
    for (const [name, path] of Object.entries(pages)) {
      await step(`${name} (${theme}) loads, is accessible and has no error`, async () => {
        await themed.evaluate((hash) => void (location.hash = hash), `#/${path}`);
        await settled(themed);
        await accessible(themed, name);
        await fits(themed, name);
        sound(themed);
        if (screenshots && name === "fleet") {
          await themed.getByText("Rates and latencies need two looks").waitFor({ state: "detached" });
          await themed.getByRole("columnheader", { name: "http_sd" }).waitFor();
        }
        if (screenshots && name !== "nowhere") {
          mkdirSync(PICTURES, { recursive: true });
          const picture = `${PICTURES}/${name}-${theme}.webp`;
          await webp(themed, picture);
        }
      }, { goOn: true });
    }
    await themed.context().close();
  }

  await step("every page fits a phone, in Chinese too", async () => {
    for (const locale of ["en-GB", "zh-CN"]) {
      const phone = await open(browser, { viewport: { width: 360, height: 740 }, locale });
      for (const [name, path] of Object.entries(pages)) {
        await phone.goto(`${server}/console/#/${path}`);
        await settled(phone);
        await fits(phone, `${name} in ${locale}`);
      }
      assert.equal(await phone.evaluate(() => document.documentElement.lang), locale.slice(0, 2));
      await accessible(phone, "the phone");
      sound(phone);
      await phone.context().close();
    }
  });

  const other = await open(browser);
  await step("two browsers see each other's change", async () => {
    await other.goto(`${server}/console/#/instance/${order.id}/${instance}`);
    await live(other);
    await page.goto(`${server}/console/#/instance/${order.id}/${instance}`);
    await live(page);
    await page.getByRole("group", { name: "Set status" }).getByRole("button", { name: "OUTOFSERVICE" }).click();
    await page.getByRole("dialog").getByText("Clients stop sending requests").waitFor();
    await accessible(page, "the question");
    await page.getByRole("button", { name: "Yes, do it" }).click();
    for (const each of [page, other]) await each.locator("dd .status.outofservice").waitFor();
    await other.getByRole("group", { name: "Set status" }).getByRole("button", { name: "UP", exact: true }).click();
    await other.getByRole("button", { name: "Yes, do it" }).click();
    for (const each of [page, other]) await each.locator("dd .status.up").waitFor();
    const { instance: stored } = await client.call("GET", `/v4/default/registry/microservices/${order.id}/instances/${instance}`);
    assert.equal(stored.status, "UP");
  });

  await step("a command can be copied", async () => {
    const [line] = await page.getByRole("button", { name: "Copy as curl" }).evaluateAll((all) => all.map((one) => one.title));
    assert.match(line, /^curl http:\/\/127\.0\.0\.1:\d+\/v4\/default\/registry\/microservices\//);
    await page.getByRole("button", { name: "Copy as curl" }).first().click();
    await page.getByText("Copied").waitFor();
  });

  await step("the keyboard finds, helps and goes", async () => {
    await page.keyboard.press("/");
    await page.getByRole("searchbox").and(page.locator(":focus")).waitFor();
    await page.keyboard.type("zone-a app:shop");
    await until("the address has the search", () => page.url().includes("q=zone-a"));
    await page.reload();
    await live(page);
    assert.equal(await page.getByRole("searchbox").inputValue(), "zone-a app:shop");
    await page.getByRole("searchbox").blur();
    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keyboard" }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    await page.keyboard.press("3");
    await page.getByRole("heading", { name: "Map" }).waitFor();
  });

  await step("what clients register stays text", async () => {
    const evil = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>';
    const id = await client.instance(services.mail.id, 1, "UP", { note: evil });
    await page.goto(`${server}/console/#/instance/${services.mail.id}/${id}`);
    await page.getByText(evil, { exact: true }).waitFor();
    await page.goto(`${server}/console/#/service/${services.mail.id}?q=onerror`);
    await page.getByText("note=<img").waitFor();
    assert.equal(await page.evaluate(() => window.owned), undefined);
    sound(page);
  });

  await step("a call can be tried, and one that changes asks first", async () => {
    await page.goto(`${server}/console/#/api?op=GetVersion`);
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByText("Answer: 200").waitFor();
    await page.goto(`${server}/console/#/api?op=UnregisterInstance`);
    await page.getByLabel("serviceId").fill(services.mail.id);
    await page.getByLabel("instanceId").fill("nothing");
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByRole("button", { name: "Yes, do it" }).click();
    await page.getByText("Answer: 400").waitFor();
    await page.getByText("400017").waitFor();
  });

  await step("a service that goes while it is looked at stays readable", async () => {
    const id = await client.service("short-lived", "shop");
    const gone = await client.instance(id, 3);
    await page.goto(`${server}/console/#/instance/${id}/${gone}`);
    await page.getByRole("heading", { name: "rest://10.1.3.4:8080" }).waitFor();
    await client.call("DELETE", `/v4/default/registry/microservices/${id}?force=true`);
    await page.getByText("Its last state is shown.").waitFor();
    await page.getByText("node-3").first().waitFor();
  });

  await step("a registry that is killed under an open page comes back", async () => {
    await page.goto(`${server}/console/#/services`);
    await live(page);
    await registry.stop();
    await page.getByText("The connection is lost").waitFor();
    await page.getByText("payment").first().waitFor();
    await accessible(page, "the lost connection");
    registry.start();
    await live(page);
    await client.service("after-restart", "shop").then((id) => client.instance(id, 1));
    await page.getByText("after-restart").waitFor();
    sound(page);
  });

  await step("another project has its own services", async () => {
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Project").fill("other");
    await accessible(page, "the settings");
    await page.getByRole("button", { name: "Change" }).click();
    await page.getByText("No service is registered yet.").waitFor();
    await accessible(page, "no services");
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Project").fill("default");
    await page.getByLabel("Domain").fill("elsewhere");
    await page.getByRole("button", { name: "Change" }).click();
    await page.getByText("No service is registered yet.").waitFor();
    await live(page);
    const service = { serviceName: "far", appId: "away", version: "1.0.0" };
    const headers = { "Content-Type": "application/json", "X-Domain-Name": "elsewhere" };
    const post = (path, body) => fetch(`${server}/v4/default/registry${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    const { serviceId } = await (await post("/microservices", { service })).json();
    await post(`/microservices/${serviceId}/instances`, { instance: { hostName: "h", endpoints: ["rest://10.9.9.9:1"] } });
    await page.getByText("far").first().waitFor();
    await page.locator(".line .status.up").first().waitFor();
  });

  await step("where no WebSocket gets through, events are streamed", async () => {
    const barred = await open(browser);
    await barred.addInitScript(() => {
      window.WebSocket = class extends EventTarget {
        constructor() {
          super();
          setTimeout(() => this.onclose?.({ code: 1006, reason: "" }));
        }
        close() {}
      };
    });
    await barred.goto(`${server}/console/#/services`);
    await live(barred);
    await client.service("by-stream", "shop").then((id) => client.instance(id, 1));
    await barred.getByText("by-stream").waitFor();
    await registry.stop();
    await barred.getByText("The connection is lost").waitFor();
    registry.start();
    await live(barred);
    sound(barred);
  });

  await registry.stop();
}

/** Everything that the page asked for has come, and the watch is live. */
async function settled(page) {
  await page.locator(".mode.live").waitFor();
  await page.locator("main h1").first().waitFor();
  await until("nothing is loading", async () => (await page.getByText(/^(Loading…|正在加载…)$/).count()) === 0);
}

/** A picture in a form that is small: the browser itself makes it. */
async function webp(page, path) {
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 70 });
  const { writeFileSync } = await import("node:fs");
  writeFileSync(path, Buffer.from(data, "base64"));
}
