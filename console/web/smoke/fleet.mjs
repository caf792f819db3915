/** A fleet with access control: signing in, wrong rights, and processes that die under an open page. */

import assert from "node:assert/strict";

import { accessible, live, open, sound } from "./browser.mjs";
import { fleet, until } from "./processes.mjs";
import { Client, shop } from "./seed.mjs";
import { Watcher } from "./watchers.mjs";

const PASSWORD = "Correct-horse-1";

export default async function run({ browser, step }) {
  const { server, planes, controlPlanes, gateways, password, balancer } = await fleet();
  const page = await open(browser);
  const root = new Client(server);
  const signIn = async (on, name, word) => {
    await on.getByLabel("Name").fill(name);
    await on.getByLabel("Password").fill(word);
    await on.getByRole("button", { name: "Sign in" }).click();
  };
  let services;

  await step("nobody sees anything before signing in", async () => {
    await page.goto(`${server}/console/#/people`);
    await page.getByRole("dialog", { name: "Sign in" }).waitFor();
    assert.equal((await page.locator("main").innerText()).trim(), "");
    await accessible(page, "signing in");
    await page.keyboard.press("Escape");
    await page.getByRole("dialog", { name: "Sign in" }).waitFor();
  });

  await step("a wrong password is refused, and the right one lets in", async () => {
    await until("the account exists", async () => {
      root.token = (await root.call("POST", "/v4/token", { name: "root", password })).token;
      return true;
    });
    await signIn(page, "root", "wrong");
    await page.getByRole("alert").getByText("Signing in failed").waitFor();
    await signIn(page, "root", password);
    await page.getByText("You: root").waitFor();
    await live(page);
    services = await shop(root);
    await root.call("POST", "/v4/roles", { name: "viewer", perms: [{ resources: [{ type: "service" }, { type: "schema" }], verbs: ["get"] }] });
    await root.call("POST", "/v4/roles", {
      name: "platform-viewer",
      perms: [{ resources: [{ type: "service", labels: { appId: "platform" } }], verbs: ["get"] }],
    });
    await root.call("POST", "/v4/accounts", { name: "vera", password: PASSWORD, roles: ["viewer"] });
    await root.call("POST", "/v4/roles", {
      name: "platform-editor",
      perms: [
        { resources: [{ type: "service" }], verbs: ["get"] },
        { resources: [{ type: "service", labels: { appId: "plat*" } }], verbs: ["update"] },
      ],
    });
    await root.call("POST", "/v4/accounts", { name: "otto", password: PASSWORD, roles: ["platform-editor"] });
    await root.call("POST", "/v4/accounts", { name: "paul", password: PASSWORD, roles: ["platform-viewer"] });
  });

  await step("people: roles in plain words, accounts, their tokens and locks", async () => {
    await page.reload();
    await live(page);
    await page.getByText("platform-viewer").first().waitFor();
    await page.locator("summary", { hasText: "platform-viewer" }).first().click();
    await page.getByText("read services and instances where the application is platform").waitFor();
    await page.locator("summary", { hasText: "vera" }).click();
    await page.getByText("Long-lived tokens").waitFor();
    await accessible(page, "people");
  });

  await step("people: the audit log tells who did what, and what was refused", async () => {
    const audit = page.locator("section.panel", { has: page.getByRole("heading", { name: "Audit" }) });
    await audit.locator(".record", { hasText: "CreateAccount" }).first().waitFor();
    // The wrong password of the step before.
    await audit.getByLabel("Decision").selectOption("denied");
    await audit.locator(".record", { hasText: "refused" }).first().waitFor();
    assert.equal(await audit.locator(".record", { hasText: "CreateAccount" }).count(), 0);
    await audit.getByLabel("Decision").selectOption("*");
    await audit.getByLabel("Account").selectOption("root");
    await audit.getByLabel("Kind of act").selectOption("CreateAccount");
    await audit.locator(".record", { hasText: "/v4/accounts/vera" }).first().waitFor();
    const text = await audit.innerText();
    assert.ok(!text.includes(PASSWORD) && !text.includes(root.token), "no secret is shown");
    const { processes, silent } = await root.call("GET", "/v4/default/admin/audit?kind=CreateAccount&account=root");
    assert.equal(silent, 0);
    // Each control plane, and the gateway that was asked.
    assert.equal(new Set(processes.map(({ process }) => process)).size, controlPlanes.length + 1);
    assert.equal(processes.flatMap(({ records }) => records).length, 3);
    await accessible(page, "audit");
    for (const path of ["", "services", "fleet", "map", "overrides", "api?op=GetServices"]) {
      await page.goto(`${server}/console/#/${path}`);
      await page.locator("main h1").first().waitFor();
      await accessible(page, path || "overview");
    }
    await page.getByText("GET /v4/{project}/registry/microservices", { exact: false }).first().waitFor();
    sound(page);
  });

  await step("fleet: every process with its rates and the latency of its stages", async () => {
    await page.goto(`${server}/console/#/fleet`);
    const table = page.getByRole("group", { name: "Processes" });
    await table.getByText("Control plane, publishes").waitFor();
    assert.equal(await table.locator("tbody tr").count(), controlPlanes.length + gateways.length);
    assert.equal(await table.getByText("Gateway", { exact: true }).count(), gateways.length);
    const stages = page.getByRole("group", { name: "Latency by stage" });
    await stages.getByText("Bus → gateway").waitFor();
    assert.equal(await stages.locator("tbody tr").count(), controlPlanes.length + gateways.length);
    await root.call("GET", "/prometheus/v1/targets");
    const dialects = page.getByRole("group", { name: "Dialects in use" });
    await dialects.getByRole("columnheader", { name: "http_sd" }).waitFor();
    assert.equal(await dialects.locator("tbody tr").count(), 1);
    await accessible(page, "the processes of the fleet");
    sound(page);
  });

  const order = () => services.order;
  const viewer = await open(browser);
  await step("wrong rights are refused in the page and by the API", async () => {
    await viewer.goto(`${server}/console/#/instance/${order().id}/${order().instances[0]}`);
    await signIn(viewer, "vera", PASSWORD);
    await live(viewer);
    await viewer.getByText("Your roles do not permit this.").first().waitFor();
    for (const name of ["Set override", "OUTOFSERVICE", "Drain"]) assert.equal(await viewer.getByRole("button", { name }).count(), 0, name);
    await viewer.getByText("Clients see what the instance reports.").waitFor();
    await viewer.goto(`${server}/console/#/overrides`);
    await viewer.getByText("the cache is warming up").waitFor();
    for (const name of ["Change", "End"]) assert.equal(await viewer.getByRole("button", { name, exact: true }).count(), 0, name);
    const vera = new Client(server, await viewer.evaluate(() => sessionStorage.getItem("muster.token")));
    await assert.rejects(vera.setStatus(order().id, order().instances[0], "DOWN"), /403.*403205/);
    await assert.rejects(vera.call("GET", "/v4/accounts"), /403/);
    await assert.rejects(vera.call("GET", "/v4/default/admin/audit"), /403/);
    const wish = { serviceId: order().id, weight: 1, reason: "r" };
    await assert.rejects(vera.call("PUT", "/v4/default/registry/overrides", wish), /403.*403205/);
    await assert.rejects(vera.call("POST", `/v4/default/registry/microservices/${order().id}/drain`), /403.*403205/);
    // The page that sends any call gets the same answer, and shows it.
    await viewer.goto(`${server}/console/#/api?op=PutInstanceStatus`);
    await viewer.getByLabel("serviceId").fill(order().id);
    await viewer.getByLabel("instanceId").fill(order().instances[0]);
    await viewer.getByLabel("value").fill("DOWN");
    await viewer.getByRole("button", { name: "Send" }).click();
    await viewer.getByRole("button", { name: "Yes, do it" }).click();
    await viewer.getByText("Answer: 403").waitFor();
    await viewer.goto(`${server}/console/#/people`);
    await viewer.getByText("Your roles do not permit to see this.").first().waitFor();
    await accessible(viewer, "people without rights");
    sound(viewer);
  });

  await step("an account that may change a part is offered that part", async () => {
    const editor = await open(browser);
    await editor.goto(`${server}/console/#/service/${services.mail.id}?tab=overrides`);
    await signIn(editor, "otto", PASSWORD);
    await live(editor);
    await editor.getByRole("button", { name: "Set override" }).click();
    const form = editor.getByRole("dialog", { name: "Override mail" });
    await form.getByLabel("Weight").fill("10");
    await form.getByLabel("Reason").fill("a trial of otto");
    await form.getByRole("button", { name: "Set override" }).click();
    await editor.getByText("Set by: otto").waitFor();
    await editor.goto(`${server}/console/#/service/${order().id}?tab=overrides`);
    await editor.getByText("Your roles do not permit this.").waitFor();
    assert.equal(await editor.getByRole("button", { name: "Set override" }).count(), 0);
    const otto = new Client(server, await editor.evaluate(() => sessionStorage.getItem("muster.token")));
    const wish = { serviceId: order().id, weight: 1, reason: "r" };
    await assert.rejects(otto.call("PUT", "/v4/default/registry/overrides", wish), /403.*403205/);
    sound(editor);
    await editor.context().close();
  });

  await step("both gateways tell of their watchers, and a control plane's refusal is the answer", async () => {
    await page.goto(`${server}/console/#/service/${order().id}?tab=watchers`);
    await page.getByText(/watchers have everything up to revision/).waitFor();
    assert.equal(await page.getByRole("group", { name: "Gateway" }).locator("tbody tr").count(), 2);
    await accessible(page, "watchers at two gateways");
    const denied = await root.call("POST", "/v4/token", { name: "paul", password: PASSWORD });
    const paul = new Client(server, denied.token);
    await assert.rejects(paul.call("GET", `/v4/default/registry/microservices/${order().id}/watchers`), /403/);
    await paul.call("GET", `/v4/default/registry/microservices/${services.mail.id}/watchers`);
    await assert.rejects(root.call("GET", "/v4/default/registry/microservices/nobody/watchers"), /400012/);
    sound(page);
  });

  await step("an account that may see a part sees that part, by asking", async () => {
    const part = await open(browser);
    await part.goto(`${server}/console/#/services`);
    await signIn(part, "paul", PASSWORD);
    await part.getByText("Every few seconds").waitFor();
    await part.getByText("mail").first().waitFor();
    assert.equal(await part.getByText("payment").count(), 0);
    await root.setStatus(services.mail.id, services.mail.instances[0], "TESTING");
    await part.locator(".status.testing").first().waitFor();
    await part.context().close();
  });

  await step("a gateway that is killed under an open page costs nothing", async () => {
    await page.goto(`${server}/console/#/service/${order().id}?tab=timeline`);
    await live(page);
    const here = page.locator("section.panel").filter({ has: page.getByRole("heading", { name: "Seen by this page" }) });
    const served = gateways[balancer.last];
    const [first] = order().instances;
    await root.setStatus(order().id, first, "TESTING");
    await here.getByText("UP → TESTING").waitFor();
    await served.stop();
    // What happens while the page is away must not be lost, nor shown twice.
    await root.setStatus(order().id, first, "STARTING");
    await root.setStatus(order().id, first, "UP");
    await live(page);
    await here.getByText("STARTING → UP").waitFor();
    for (const text of ["UP → TESTING", "TESTING → STARTING", "STARTING → UP"]) {
      assert.equal(await here.getByText(text).count(), 1, text);
    }
    // Whoever opens a watch next is sent there.
    await served.restart();
    sound(page);
  });

  await step("a drain whose gateway is killed is begun again, and gives back what was there before", async () => {
    await page.goto(`${server}/console/#/instance/${order().id}/${order().instances[1]}`);
    await live(page);
    const silent = await Watcher.open(server, services.gateway.id, { awake: false, token: root.token });
    await page.getByRole("button", { name: "Drain", exact: true }).click();
    await page.getByRole("dialog").getByLabel("Wait at most").selectOption("300");
    await page.getByRole("dialog").getByLabel("At the end").selectOption("give-back");
    await page.getByRole("button", { name: "Begin the drain" }).click();
    await page.getByText(/watchers know, 1 waiting/).waitFor();
    // Both, since a browser does not tell which one its request has gone to.
    for (const gateway of gateways) await gateway.stop();
    for (const gateway of gateways) gateway.start();
    await page.getByText("It was cut off and has been begun again.").waitFor();
    // The mark of the first has outlived its gateway, and the second gives back what was there before it. Nobody knows whom
    // the gateways before have answered, so for a minute after the start clients that poll may go by that.
    await page.getByText(/clients may still go by the answer of a gateway that is gone/).waitFor({ timeout: 60_000 });
    await page.getByText(/^All clients are known.*It is given back\.$/).waitFor({ timeout: 120_000 });
    await page.locator("dd .status.up").waitFor();
    silent.close();
    await live(page);
    sound(page);
  });

  await step("without control planes the page says so, stays readable and offers no act", async () => {
    // A find that the gateway can answer by itself, because it has followed the consumer since an earlier one.
    await page.goto(`${server}/console/#/api?op=FindInstances`);
    const fields = { appId: "shop", serviceName: "payment", version: "0+", env: "production", "X-ConsumerId": order().id };
    for (const [name, value] of Object.entries(fields)) await page.getByLabel(name, { exact: false }).first().fill(value);
    const send = page.getByRole("button", { name: "Send" });
    await send.click();
    await page.getByText("Answer: 200").waitFor();
    const other = await open(browser);
    await other.goto(`${server}/console/#/instance/${order().id}/${order().instances[0]}`);
    await signIn(other, "root", password);
    await live(other);
    await other.getByText("Clients see what the instance reports.").waitFor();
    // A question that is open already must not be answered with a failure that could have been foreseen.
    await other.getByRole("button", { name: "TESTING" }).click();
    for (const plane of planes) await plane.stop();
    await until("the gateway answers by itself", async () => {
      await send.click();
      return page.getByText(/^This answer is a gateway’s own: no control plane answers/).isVisible();
    });
    await page.getByText(/^No control plane answers\..* The gateway answers from its own state/).waitFor();
    await accessible(page, "an answer that is stale");
    await other.getByRole("dialog").getByText("No control plane answers, so nothing can be changed now.").waitFor({ timeout: 60_000 });
    assert.equal(await other.getByRole("button", { name: "Yes, do it" }).isDisabled(), true);
    await other.keyboard.press("Escape");
    for (const name of ["TESTING", "Drain", "Set override"]) {
      assert.equal(await other.getByRole("button", { name, exact: true }).isDisabled(), true, name);
    }
    // What has been read before stays: the timeline, the overrides and the record.
    await other.getByRole("list", { name: "Timeline" }).getByText("registered").first().waitFor();
    await other.getByText("Clients see what the instance reports.").waitFor();
    await page.goto(`${server}/console/#/services`);
    await page.getByText("payment").first().waitFor();
    await accessible(page, "without control planes");
    // A page that is opened now cannot begin, says so, and goes on by itself.
    await other.reload();
    await other.getByText("No control plane answers, so this page cannot begin.").waitFor();
    await accessible(other, "a page that cannot begin");
    for (const plane of planes) plane.start();
    await page.getByText("No control plane answers.").waitFor({ state: "detached", timeout: 60_000 });
    for (const each of [page, other]) await live(each);
    assert.equal(await other.getByRole("button", { name: "TESTING" }).isDisabled(), false);
    for (const each of [page, other]) sound(each);
    await other.context().close();
  });

  await step("a session that ends leaves the page, and signing in goes on there", async () => {
    await until("the control planes answer", () => root.call("DELETE", "/v4/accounts/vera/sessions").then(() => true));
    await viewer.goto(`${server}/console/#/services`);
    await viewer.getByRole("dialog", { name: "Sign in" }).waitFor({ timeout: 60_000 });
    await viewer.getByText("payment").first().waitFor();
    await viewer.getByLabel("Password").fill(PASSWORD);
    // A second of a token's start counts as before the end of the sessions.
    await new Promise((done) => setTimeout(done, 1100));
    await viewer.getByRole("button", { name: "Sign in" }).click();
    await live(viewer);
    await viewer.getByText("payment").first().waitFor();
    sound(viewer);
  });

  await step("signing out ends the token", async () => {
    const token = await viewer.evaluate(() => sessionStorage.getItem("muster.token"));
    await viewer.getByRole("button", { name: "Settings" }).click();
    await viewer.getByRole("button", { name: /^Sign out/ }).click();
    await viewer.getByRole("dialog", { name: "Sign in" }).waitFor();
    assert.equal(await viewer.evaluate(() => sessionStorage.length), 0);
    const old = new Client(server, token);
    await until("the token counts no more", () => old.call("GET", "/v4/self-perms").then(() => false, () => true));
  });

  await step("a control plane's own port shows the same, by asking", async () => {
    const direct = await open(browser);
    await direct.goto(`${controlPlanes[0]}/`);
    await signIn(direct, "vera", PASSWORD);
    await direct.getByText("Every few seconds").waitFor({ timeout: 60_000 });
    await direct.goto(`${controlPlanes[0]}/console/#/services`);
    await direct.getByText("payment").first().waitFor();
    sound(direct);
    await direct.context().close();
  });
}
