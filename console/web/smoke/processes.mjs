/** The programs that the pages are opened against. All of them end with this process. */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const ROOT = resolve(import.meta.dirname, "../../..");
const TARGET = process.env.CARGO_TARGET_DIR ?? join(ROOT, "target");
const running = new Set();

export const directory = mkdtempSync(join(tmpdir(), "muster-console-"));

export function ours(name) {
  const path = join(TARGET, "debug", name);
  if (!existsSync(path)) throw new Error(`${path} is not built: cargo build --bins`);
  return path;
}

export function installed(name, package_) {
  const places = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/usr/local/sbin"];
  const found = places.map((place) => join(place, name)).find((path) => existsSync(path));
  if (!found) throw new Error(`${name} is not installed (Debian: ${package_})`);
  return found;
}

export class Process {
  constructor(name, program, args, ready = undefined) {
    Object.assign(this, { name, program, args, ready, log: join(directory, `${name}.log`) });
  }

  start() {
    const log = openSync(this.log, "a");
    this.child = spawn(this.program, this.args, { cwd: directory, stdio: ["ignore", log, log] });
    running.add(this.child);
    this.child.on("exit", () => running.delete(this.child));
    return this;
  }

  /** Starts it anew, and waits until it takes requests: one that has only begun to listen answers 503. */
  async restart() {
    this.start();
    await until(`${this.name} is ready`, isReady(this.ready));
  }

  async stop(signal = "SIGKILL") {
    const { child } = this;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((done) => child.once("exit", done));
    child.kill(signal);
    await ended;
  }
}

export function endAll(keep) {
  for (const child of running) child.kill("SIGKILL");
  if (!keep) rmSync(directory, { recursive: true, force: true });
}

export function lastLines(name) {
  const path = join(directory, `${name}.log`);
  return existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(-15).join("\n") : "";
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

export async function until(what, test, patience = 60_000) {
  const end = Date.now() + patience;
  let last;
  while (Date.now() < end) {
    try {
      const value = await test();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`${what}: not within ${patience} ms${last ? ` (${last.message})` : ""}`);
}

export const isReady = (url) => async () => (await fetch(url)).ok;

export async function standalone(name = "standalone", ...more) {
  const port = await freePort();
  const server = `http://127.0.0.1:${port}`;
  const args = ["standalone", "--listen", `127.0.0.1:${port}`, "--data-dir", join(directory, `${name}-data`), ...more];
  const process_ = new Process(name, ours("muster"), args).start();
  await until(`${name} is ready`, isReady(`${server}/ready`));
  return { server, process: process_ };
}

/** A fleet with access control: two control planes, two gateways, and one address before them. */
export async function fleet() {
  const [etcd, peer, nats, ...ports] = await Promise.all(Array.from({ length: 12 }, freePort));
  const site = join(directory, "site");
  const init = spawn(ours("muster"), ["init", "--fleet", "--dir", site], { stdio: "ignore" });
  if ((await new Promise((done) => init.once("exit", done))) !== 0) throw new Error("muster init failed");
  const url = `http://127.0.0.1:${etcd}`;
  const peers = `http://127.0.0.1:${peer}`;
  new Process("etcd", installed("etcd", "etcd-server"), [
    "--data-dir", join(directory, "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url,
    "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", `default=${peers}`,
  ]).start();
  new Process("nats", installed("nats-server", "nats-server"), ["-a", "127.0.0.1", "-p", `${nats}`]).start();
  await until("etcd is ready", isReady(`${url}/health`));
  const planes = [0, 1].map((index) =>
    new Process(`control-plane-${index}`, ours("control-plane"), [
      "--listen", `127.0.0.1:${ports[index]}`, "--admin-listen", `127.0.0.1:${ports[index + 2]}`,
      "--etcd", url, "--nats", `nats://127.0.0.1:${nats}`, "--rbac-enable",
      "--rbac-private-key", join(site, "control-plane/private.key"),
      "--rbac-root-password", `@${join(site, "control-plane/root-password")}`,
    ]).start(),
  );
  const controlPlanes = [0, 1].map((index) => `http://127.0.0.1:${ports[index]}`);
  const gateways = [4, 5].map((index) =>
    new Process(`gateway-${index - 4}`, ours("edge-gateway"), [
      "--listen", `127.0.0.1:${ports[index]}`, "--admin-listen", `127.0.0.1:${ports[index + 2]}`,
      "--nats", `nats://127.0.0.1:${nats}`, "--control-plane", controlPlanes.join(","), "--rbac-enable",
    ], `http://127.0.0.1:${ports[index + 2]}/ready`).start(),
  );
  for (const index of [2, 3, 6, 7]) {
    if (ports[index]) await until("the fleet is ready", isReady(`http://127.0.0.1:${ports[index]}/ready`));
  }
  const balancer = await balance([ports[4], ports[5]]);
  const password = readFileSync(join(site, "control-plane/root-password"), "utf8").trim();
  return { server: `http://127.0.0.1:${balancer.port}`, planes, controlPlanes, gateways, password, balancer };
}

/** Passes connections on to the first address that takes them, and remembers which one it was. */
async function balance(ports) {
  const state = { port: 0, last: -1 };
  const server = createServer((client) => {
    const tries = [...ports];
    const next = () => {
      const port = tries.shift();
      if (port === undefined) return client.destroy();
      const upstream = createConnection({ port, host: "127.0.0.1" });
      let connected = false;
      upstream.once("connect", () => {
        connected = true;
        state.last = ports.indexOf(port);
        client.pipe(upstream).pipe(client);
      });
      upstream.on("error", () => (connected ? client.destroy() : next()));
      upstream.on("close", () => connected && client.destroy());
      client.on("close", () => upstream.destroy());
      client.on("error", () => upstream.destroy());
    };
    next();
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  server.unref();
  state.port = server.address().port;
  return state;
}
