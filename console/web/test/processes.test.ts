import { expect, test } from "vitest";

import { arrange, latency, releases, use, type Process } from "../src/core/processes";

const plain = (value: number) => String(value);
const process = (address: string, role: string, more: Partial<Process> = {}): Process => ({
  process: address,
  address,
  role,
  age: 0,
  ...more,
});

test("the publisher stands first, and roles that are not known last", () => {
  const processes = [process("d", "new"), process("c", "edge"), process("a", "edge"), process("b", "control"), process("e", "publisher")];
  expect(arrange(processes).map(({ address }) => address)).toEqual(["e", "b", "a", "c", "d"]);
  expect(processes[0]?.address).toBe("d");
});

test("a stage has its median and its 99th percentile", () => {
  const one = process("a", "edge", {
    stages: [
      { stage: "bus", count: 3, p50Ms: 0.5, p99Ms: 2.5 },
      { stage: "write", count: 3, p50Ms: 1 },
    ],
  });
  expect(latency(one, "bus", plain)).toBe("0.5 / 2.5");
  expect(latency(one, "write", plain)).toBe("1 / > 10000");
  expect(latency(one, "commit", plain)).toBe("–");
  expect(latency(process("old", "edge"), "bus", plain)).toBe("–");
});

test("a dialect has its open streams and the rate of its answers", () => {
  const one = process("a", "edge", {
    dialects: [
      { dialect: "xds", clients: 3, answersPerSecond: 0.25 },
      { dialect: "sse", clients: 2 },
      { dialect: "dns", answersPerSecond: 12 },
      { dialect: "eureka" },
    ],
  });
  expect(["xds", "sse", "dns", "eureka", "http_sd"].map((dialect) => use(one, dialect, plain))).toEqual([
    "3 · 0.3/s",
    "2",
    "12/s",
    "–",
    "–",
  ]);
  expect(use(process("old", "edge"), "dns", plain)).toBe("–");
});

test("each release in use is named once", () => {
  const processes = [process("a", "edge", { release: "0.2.0" }), process("b", "edge", { release: "0.1.0" }), process("c", "edge")];
  expect(releases([...processes, ...processes])).toEqual(["0.1.0", "0.2.0", "?"]);
});
