/** A fleet with access control: signing in, wrong rights, and processes that die under an open page. */

import assert from "node:assert/strict";

import { accessible, live, open, sound } from "./browser.mjs";
import { fleet, until } from "./processes.mjs";
import { Client, shop } from "./seed.mjs";

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
    for (const path of ["", "services", "fleet", "map", "api?op=GetServices"]) {
      await page.goto(`${server}/console/#/${path}`);
      await page.locator("main h1").first().waitFor();
      await accessible(page, path || "overview");
    }
    await page.getByText("GET /v4/{project}/registry/microservices", { exact: false }).first().waitFor();
    sound(page);
  });

  const order = () => services.order;
  const viewer = await open(browser);
  await step("wrong rights are refused in the page and by the API", async () => {
    await viewer.goto(`${server}/console/#/instance/${order().id}/${order().instances[0]}`);
    await signIn(viewer, "vera", PASSWORD);
    await live(viewer);
    await viewer.getByText("Your roles do not permit this.").waitFor();
    const buttons = viewer.getByRole("group", { name: "Set status" }).getByRole("button");
    for (const button of await buttons.all()) assert.equal(await button.isDisabled(), true);
    const vera = new Client(server, await viewer.evaluate(() => sessionStorage.getItem("muster.token")));
    await assert.rejects(vera.setStatus(order().id, order().instances[0], "DOWN"), /403.*403205/);
    await assert.rejects(vera.call("GET", "/v4/accounts"), /403/);
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
    await page.goto(`${server}/console/#/service/${order().id}?tab=changes`);
    await live(page);
    const served = gateways[balancer.last];
    const [first] = order().instances;
    await root.setStatus(order().id, first, "TESTING");
    await page.getByText("UP → TESTING").waitFor();
    await served.stop();
    // What happens while the page is away must not be lost, nor shown twice.
    await root.setStatus(order().id, first, "STARTING");
    await root.setStatus(order().id, first, "UP");
    await live(page);
    await page.getByText("STARTING → UP").waitFor();
    for (const text of ["UP → TESTING", "TESTING → STARTING", "STARTING → UP"]) {
      assert.equal(await page.getByText(text).count(), 1, text);
    }
    served.start();
    sound(page);
  });

  await step("without control planes the page says so and stays readable", async () => {
    for (const plane of planes) await plane.stop();
    await page.getByText("No control plane answers.").waitFor({ timeout: 60_000 });
    await page.goto(`${server}/console/#/services`);
    await page.getByText("payment").first().waitFor();
    await accessible(page, "without control planes");
    for (const plane of planes) plane.start();
    await page.getByText("No control plane answers.").waitFor({ state: "detached", timeout: 60_000 });
    await live(page);
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
