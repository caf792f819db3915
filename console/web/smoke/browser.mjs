/** Pages in a real browser, and what is demanded of each of them. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

import { installed } from "./processes.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

function browserPath() {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    try {
      return installed(name, "chromium");
    } catch {
      // The next one.
    }
  }
  throw new Error("no browser is installed (Debian: chromium)");
}

export async function launch() {
  // Without a sandbox, because containers and build machines run this as root. It opens pages of ours alone.
  return chromium.launch({ executablePath: browserPath(), args: ["--no-sandbox"] });
}

async function fromBundle(route) {
  const name = new URL(route.request().url()).pathname.split("/").pop();
  const response = await route.fetch();
  const { "content-encoding": _, "content-length": __, ...headers } = response.headers();
  await route.fulfill({ status: 200, headers, body: readFileSync(`${import.meta.dirname}/../../bundle/${name}`) });
}

/** A page whose every error fails the run. */
export async function open(browser, options = {}) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    locale: "en-GB",
    reducedMotion: "reduce",
    ...options,
  });
  // While the pages are worked on: what was built last, with the headers of the programs, which have older files.
  if (process.env.CONSOLE_BUNDLE) await context.route(/\/console\/app\.(js|css)$/, fromBundle);
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Refusals are expected where a case asks for them; the browser writes a line for each.
    const isAnswer = /Failed to load resource|WebSocket connection/.test(message.text());
    if (message.type() === "error" && !isAnswer) page.problems.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const { origin } = new URL(request.url());
    if (!/^(https?|wss?):\/\/127\.0\.0\.1/.test(origin) && !request.url().startsWith("blob:")) {
      page.problems.push(`a foreign address: ${request.url()}`);
    }
  });
  return page;
}

export function sound(page) {
  if (page.problems.length > 0) throw new Error(page.problems.join("\n"));
}

/** axe-core over what is shown. It is put in by the driver, which the rules of the page do not concern. */
export async function accessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() =>
    window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }),
  );
  if (violations.length === 0) return;
  const lines = violations.map(({ id, help, nodes }) => {
    const where = nodes.slice(0, 3).map((node) => `    ${node.html.slice(0, 200)}\n      ${node.failureSummary}`);
    return `  ${id}: ${help}\n${where.join("\n")}`;
  });
  throw new Error(`${what} is not accessible:\n${lines.join("\n")}`);
}

export async function fits(page, what) {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  if (inner > outer) throw new Error(`${what} is ${inner} px wide in a window of ${outer} px`);
}

export const live = (page) => page.getByRole("status").filter({ hasText: /^Live$/ }).waitFor();
