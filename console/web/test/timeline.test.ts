import { describe, expect, test } from "vitest";

import { causeWord, isEnd, shown, type Noted } from "../src/core/timeline";
import { t } from "../src/core/words";

const change = (revision: number, instanceId: string, cause: string, status: string): Noted => ({
  revision,
  time: revision * 1000,
  instanceId,
  cause,
  status,
});

describe("a timeline", () => {
  test("is told from the last change, each with the status before", () => {
    const changes = [
      change(3, "i", "registered", "UP"),
      change(4, "j", "registered", "UP"),
      change(5, "i", "override", "DOWN"),
      change(6, "i", "beat-lost", "DOWN"),
      change(7, "i", "registered", "UP"),
    ];
    const all = shown({ since: 2, changes });
    expect(all.map(({ revision, from }) => [revision, from])).toEqual([
      [7, undefined],
      [6, "DOWN"],
      [5, "UP"],
      [4, undefined],
      [3, undefined],
    ]);
  });

  test("has a key for each of two changes at one revision", () => {
    const twice = [change(5, "i", "override", "DOWN"), change(5, "i", "override", "UP")];
    const keys = shown({ since: 0, changes: twice }).map(({ key }) => key);
    expect(new Set(keys).size).toBe(2);
    expect(shown({ since: 0 })).toEqual([]);
  });

  test("knows the causes, and shows those of a later version as they are", () => {
    expect(t(causeWord("beat-lost") ?? "again")).toBe("heartbeats stayed away");
    expect(causeWord("moved-by-the-moon")).toBeUndefined();
    expect([isEnd("beat-lost"), isEnd("held"), isEnd("override")]).toEqual([true, false, false]);
  });
});
