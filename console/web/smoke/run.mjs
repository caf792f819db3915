/**
 * Opens every page of the console in a real browser: `cargo xtask console [standalone] [acts] [fleet] [load] [--screenshots]`.
 *
 * Without names of parts it runs `standalone`, `acts` and `fleet`. `--screenshots` writes the pictures of docs/console.
 */

import { directory, endAll, lastLines } from "./processes.mjs";
import { launch } from "./browser.mjs";

const PARTS = ["standalone", "acts", "fleet", "load"];
const arguments_ = process.argv.slice(2);
const screenshots = arguments_.includes("--screenshots");
const wanted = arguments_.filter((word) => word !== "--screenshots");
const unknown = wanted.filter((word) => !PARTS.includes(word));
if (unknown.length > 0) throw new Error(`unknown parts: ${unknown.join(", ")}; there are ${PARTS.join(", ")}`);

let failed = false;

/** Each page is looked at, whatever is wrong with the others; a case that others build on ends the run. */
async function step(name, act, { goOn = false } = {}) {
  const began = performance.now();
  process.stdout.write(`  ${name} … `);
  try {
    const said = await act();
    console.log(`${said ?? "ok"} (${Math.round(performance.now() - began)} ms)`);
  } catch (error) {
    if (!goOn) throw error;
    failed = true;
    console.log(`FAILED\n${error.message}`);
  }
}

const browser = await launch();
try {
  for (const part of wanted.length > 0 ? wanted : ["standalone", "acts", "fleet"]) {
    console.log(`==> ${part}`);
    const { default: run } = await import(`./${part}.mjs`);
    await run({ browser, step, screenshots });
  }
  console.log(failed ? "==> some pages failed" : "==> the console works");
} catch (error) {
  failed = true;
  console.log("FAILED");
  console.error(error);
  for (const name of ["standalone", "acts", "control-plane-0", "gateway-0", "etcd"]) {
    const lines = lastLines(name);
    if (lines) console.error(`--- ${name}\n${lines}`);
  }
  console.error(`logs: ${directory}`);
} finally {
  await browser.close();
  endAll(failed);
}
process.exit(failed ? 1 : 0);
