/** What operators do in the registry, each act done in the page and looked at from outside. */

import assert from "node:assert/strict";

import { accessible, fits, live, open, sound } from "./browser.mjs";
import { standalone, until } from "./processes.mjs";
import { Client, shop } from "./seed.mjs";
import { Watcher } from "./watchers.mjs";

export default async function run({ browser, step }) {
  const { server, process: registry } = await standalone("acts");
  const client = new Client(server);
  const services = await shop(client);
  const { order, search } = services;
  const [instance] = order.instances;
  const seen = async (id = instance) =>
    (await client.call("GET", `/v4/default/registry/microservices/${order.id}/instances/${id}`)).instance;
  const page = await open(browser);
  const other = await open(browser);
  const panel = (on, title) => on.locator("section.panel").filter({ has: on.getByRole("heading", { name: title, exact: true }) });
  const goto = async (on, path) => {
    await on.goto(`${server}/console/#/${path}`);
    await live(on);
  };

  await step("an override is set on an instance, and stands beside what it reports", async () => {
    await goto(page, `instance/${order.id}/${instance}`);
    await goto(other, `instance/${order.id}/${instance}`);
    await panel(page, "Overrides").getByText("Clients see what the instance reports.").waitFor();
    await page.getByRole("button", { name: "Set override" }).click();
    const form = page.getByRole("dialog", { name: /^Override/ });
    // All that is missing is told at once, and nothing is sent.
    await form.getByLabel("Reason").fill(" ");
    await form.getByRole("button", { name: "Set override" }).click();
    for (const text of ["Choose what is to be different.", "Give a reason."]) await form.getByText(text).waitFor();
    await accessible(page, "the form of an override");
    await form.getByLabel("Status").selectOption("OUTOFSERVICE");
    await form.getByLabel("Weight").fill("30");
    await form.getByLabel(/^Properties/).fill("colour=dark red");
    await form.getByLabel("Reason").fill("the disk fails");
    await form.getByLabel("Ends").selectOption({ label: "after 4 hours" });
    const copied = await form.getByRole("button", { name: "Copy as command" }).getAttribute("title");
    assert.match(copied, /^muster override set --service \S+ --instance \S+ --status OUTOFSERVICE --weight 30 --metadata 'colour=dark red' --reason 'the disk fails' --for 14400s/);
    await form.getByRole("button", { name: "Set override" }).click();
    for (const each of [page, other]) {
      const beside = each.getByRole("group", { name: "Reported and seen" });
      await beside.getByRole("row", { name: /^Status UP OUTOFSERVICE anonymous: the disk fails/ }).waitFor();
      await beside.getByRole("row", { name: /^colour – dark red/ }).waitFor();
      await beside.getByRole("row", { name: /^weight – 30/ }).waitFor();
      await each.locator("dd .status.outofservice").waitFor();
    }
    await accessible(page, "an instance with an override");
    const { status, properties } = await seen();
    assert.deepEqual([status, properties.colour, properties.weight], ["OUTOFSERVICE", "dark red", "30"]);
    sound(page);
  });

  await step("an override is changed where it is listed, and is still one", async () => {
    await goto(page, `service/${order.id}?tab=overrides`);
    await page.getByText("the disk fails").waitFor();
    await page.getByText("Set by: anonymous").waitFor();
    await page.getByRole("button", { name: "Change", exact: true }).click();
    const form = page.getByRole("dialog");
    assert.equal(await form.getByLabel("Weight").inputValue(), "30");
    await form.getByLabel("Weight").fill("60");
    await form.getByRole("button", { name: "Set override" }).click();
    await page.getByText(/weight 60/).waitFor();
    const { overrides } = await client.call("GET", `/v4/default/registry/overrides?serviceId=${order.id}`);
    assert.equal(overrides.length, 1);
    assert.ok(overrides[0].until > overrides[0].since);
  });

  await step("a part of a service is overridden, and the whole is hidden from consumers", async () => {
    await page.getByRole("button", { name: "Set override" }).click();
    const form = page.getByRole("dialog");
    await form.getByLabel("Which instances").selectOption("some");
    await form.getByRole("textbox", { name: "Version" }).fill("1.0.0");
    await form.getByText("It takes 2 of the 2 instances").waitFor();
    await form.getByLabel("Weight").fill("5");
    await form.getByLabel("Reason").fill("a trial");
    await form.getByRole("button", { name: "Set override" }).click();
    await page.getByText("version 1.0.0").waitFor();
    await page.getByRole("button", { name: "Set override" }).click();
    await form.getByLabel(/^Hide the service/).fill("team=legacy\ntier=bronze");
    await form.getByLabel("Reason").fill("load of the old team");
    await form.getByRole("button", { name: "Set override" }).click();
    await page.getByText("hidden from team=legacy tier=bronze").waitFor();
    await accessible(page, "the overrides of a service");
    await fits(page, "the overrides of a service");
    // The narrower one wins.
    assert.equal((await seen()).properties.weight, "60");
    assert.equal((await seen(order.instances[1])).properties.weight, "5");
  });

  await step("what the registry refuses is said, and nothing that was written is lost", async () => {
    const gone = await client.instance(order.id, 77);
    await goto(page, `instance/${order.id}/${gone}`);
    await page.getByRole("button", { name: "Set override" }).click();
    const form = page.getByRole("dialog");
    await form.getByLabel("Weight").fill("1");
    await form.getByLabel("Reason").fill("x");
    await page.route("**/registry/overrides", (route) =>
      route.fulfill({ status: 403, body: JSON.stringify({ errorCode: "403205", errorMessage: "Forbidden", detail: "no right here" }) }),
    );
    await form.getByRole("button", { name: "Set override" }).click();
    await form.getByText("It was not done: Forbidden: no right here").waitFor();
    assert.equal(await form.getByLabel("Reason").inputValue(), "x");
    await page.unroute("**/registry/overrides");
    await page.keyboard.press("Escape");
    await client.call("DELETE", `/v4/default/registry/microservices/${order.id}/instances/${gone}`);
  });

  await step("all overrides are found on one page, and ended there", async () => {
    await goto(page, "overrides");
    await page.getByText(/of 5 overrides in force/).waitFor();
    await page.getByRole("searchbox").fill("order disk");
    await page.getByText("1 of 5 overrides in force").waitFor();
    await accessible(page, "all overrides");
    await goto(other, `instance/${order.id}/${instance}`);
    await page.getByRole("listitem").getByRole("button", { name: "End", exact: true }).click();
    await page.getByRole("dialog").getByText("Clients see again what the instances report").waitFor();
    await accessible(page, "the question before an override ends");
    await page.getByRole("button", { name: "Yes, do it" }).click();
    await page.getByText("0 of 4 overrides in force").waitFor();
    await other.getByRole("row", { name: /^weight – 5 anonymous: a trial/ }).waitFor();
    await other.locator("dd .status.up").waitFor();
    assert.equal((await seen()).status, "UP");
    sound(page);
    sound(other);
  });

  await step("an override outlives a new registration and a killed registry", async () => {
    const [first] = search.instances;
    await registry.stop("SIGKILL");
    registry.start();
    await until("the registry is back", async () => (await fetch(`${server}/ready`)).ok);
    await goto(page, `instance/${search.id}/${first}`);
    await page.getByRole("row", { name: /^weight – 20/ }).waitFor();
    sound(page);
  });

  const consumer = services.gateway.id;
  const watchers = [];
  const begin = async (on, deadline, then) => {
    await on.getByRole("button", { name: "Drain", exact: true }).click();
    const form = on.getByRole("dialog", { name: /^Drain / });
    await form.getByLabel("Wait at most").selectOption(String(deadline));
    if (then) await form.getByLabel("At the end").selectOption({ label: then });
    return form;
  };

  await step("a drain shows who is waiting, and is proven when the last one answers", async () => {
    for (let index = 0; index < 4; index += 1) {
      watchers.push(await Watcher.open(server, consumer, { awake: index > 0 }));
    }
    await goto(page, `instance/${order.id}/${instance}`);
    const form = await begin(page, 300);
    const copied = await form.getByRole("button", { name: "Copy as command" }).getAttribute("title");
    assert.match(copied, /^muster drain instance --service \S+ --instance \S+ --deadline 300s/);
    await accessible(page, "the terms of a drain");
    await form.getByRole("button", { name: "Begin the drain" }).click();
    await page.getByText("5 of 6 watchers know, 1 waiting").waitFor();
    await page.getByRole("group", { name: "Who is waiting" }).getByRole("row", { name: /gateway websocket 127\.0\.0\.1/i }).waitFor();
    await page.locator("dd .status.outofservice").waitFor();
    await accessible(page, "a drain");
    // The two pages are watchers too. The drain goes on while other pages are looked at.
    await page.evaluate(() => void (location.hash = "#/services"));
    await page.getByRole("heading", { name: "Services" }).waitFor();
    await page.goBack();
    await page.getByText("5 of 6 watchers know, 1 waiting").waitFor();
    assert.equal(await page.getByRole("progressbar").getAttribute("aria-valuenow"), "83");
    watchers[0].wake();
    // The registry was killed above, and for a minute nobody knows whom it had answered.
    const known = page.getByText(/^All clients are known to have been told, after .* It takes no traffic until .*\.$/);
    await known.waitFor({ timeout: 120_000 });
    await accessible(page, "a drain that is proven");
    await page.getByRole("button", { name: "Give back" }).first().click();
    await page.getByRole("button", { name: "Yes, do it" }).click();
    await page.locator("dd .status.up").waitFor();
    assert.equal((await seen()).status, "UP");
    await page.getByRole("button", { name: "Hide" }).click();
    await page.getByRole("progressbar").waitFor({ state: "detached" });
    sound(page);
  });

  await step("a drain whose deadline passes names who has not been told, and can unregister", async () => {
    watchers[1].awake = false;
    const form = await begin(page, 10);
    await form.getByRole("button", { name: "Begin the drain" }).click();
    await page.getByText(/^Not everybody is known to have been told within 10.* It takes no traffic until .*\.$/).waitFor();
    await page.getByRole("group", { name: "Who is waiting" }).waitFor();
    await fits(page, "a drain that is not proven");
    await page.getByRole("button", { name: "Unregister" }).click();
    await page.getByRole("dialog").getByText("It leaves the registry.").waitFor();
    await page.getByRole("button", { name: "Yes, do it" }).click();
    await page.getByText("Its last state is shown.").waitFor();
    await page.getByText("It is unregistered.").waitFor();
    await assert.rejects(seen(), /400017/);
    watchers[1].wake();
    sound(page);
  });

  await step("all of a service is drained and given back", async () => {
    await goto(page, `service/${order.id}`);
    const form = await begin(page, 30, "give it back");
    await form.getByText("all 1 instances").waitFor();
    await form.getByRole("button", { name: "Begin the drain" }).click();
    await page.getByText(/^All clients are known.*It is given back\.$/).waitFor();
    assert.equal((await seen(order.instances[1])).status, "UP");
    sound(page);
  });

  await step("a drain that is stopped leaves the instance out, until it is given back", async () => {
    watchers[2].awake = false;
    await goto(page, `instance/${order.id}/${order.instances[1]}`);
    const form = await begin(page, 3600);
    await form.getByRole("button", { name: "Begin the drain" }).click();
    await page.getByText("5 of 6 watchers know, 1 waiting").waitFor();
    await page.getByRole("button", { name: "Stop waiting" }).click();
    await page.getByText("You have stopped waiting.").waitFor();
    await page.locator("dd .status.outofservice").waitFor();
    // An operator's override of the same instance leaves the drain in place, and is there when it ends.
    const wish = { serviceId: order.id, instanceId: order.instances[1], status: "TESTING", reason: "by hand" };
    await client.call("PUT", "/v4/default/registry/overrides", wish);
    await page.getByText("by hand").first().waitFor();
    await page.locator("dd .status.outofservice").waitFor();
    await accessible(page, "a drain beside an override");
    await page.locator("ul.overrides").getByRole("button", { name: "Give back" }).click();
    await page.getByRole("button", { name: "Yes, do it" }).click();
    await page.locator("dd .status.testing").waitFor();
    sound(page);
  });

  await step("the watchers of a service are counted at each gateway, and the one that does not answer is named", async () => {
    await goto(page, `service/${order.id}?tab=watchers`);
    await page.getByText(/^5 of 6 watchers are known to have everything/).waitFor();
    await page.getByRole("group", { name: "Gateway" }).getByRole("row", { name: /127\.0\.0\.1:\d+ 6 5 of 6/ }).waitFor();
    await page.getByRole("group", { name: "Who is waiting" }).getByText("websocket").waitFor();
    await accessible(page, "the watchers of a service");
    watchers[2].wake();
    await page.getByText(/^All 6 watchers have everything up to revision/).waitFor();
    for (const watcher of watchers) watcher.close();
    sound(page);
  });

  await step("a timeline tells each change with its cause, in the viewer's zone", async () => {
    const traveller = await open(browser, { timezoneId: "Pacific/Auckland" });
    await goto(traveller, `service/${order.id}?tab=timeline`);
    const list = traveller.getByRole("list", { name: "Timeline" });
    for (const text of [/override.*OUTOFSERVICE.*by anonymous \(by hand\)/, /drain.*UP → ?OUTOFSERVICE/, /unregistered/]) {
      await list.getByRole("listitem").filter({ hasText: text }).first().waitFor();
    }
    await traveller.getByText("Times in Pacific/Auckland.").waitFor();
    const iso = await list.locator("time").first().getAttribute("datetime");
    const shown = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium", timeZone: "Pacific/Auckland" });
    assert.equal(await list.locator("time").first().innerText(), shown.format(new Date(iso)));
    await accessible(traveller, "a timeline");
    // An instance whose heartbeats stay away, while its page is looked at.
    const check = { mode: "push", interval: 1, times: 1 };
    const lost = await client.call("POST", `/v4/default/registry/microservices/${services.user.id}/instances`, {
      instance: { hostName: "n", endpoints: ["rest://10.9.9.9:1"], healthCheck: check },
    });
    await goto(traveller, `instance/${services.user.id}/${lost.instanceId}`);
    await list.getByText("heartbeats stayed away").waitFor();
    // It is told after the instance has gone, too.
    await traveller.reload();
    await list.getByText("heartbeats stayed away").waitFor();
    await accessible(traveller, "the timeline of an instance that has gone");
    sound(traveller);
    await traveller.context().close();
  });

  for (const each of [page, other]) await each.context().close();
  await registry.stop();
}
