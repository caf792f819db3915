import { describe, expect, test } from "vitest";

import {
  commandOf,
  differences,
  emptyForm,
  formOf,
  localTime,
  readForm,
  readPairs,
  sameTarget,
  takes,
  targetWords,
  wishWords,
  type Override,
} from "../src/core/overrides";
import { glob, mayAt } from "../src/core/rights";

const NOW = Date.parse("2026-11-28T12:00:00Z");

describe("the form of an override", () => {
  test("becomes the body of the request and the words of the command", () => {
    const form = {
      ...emptyForm(),
      some: true,
      zone: " az1 ",
      properties: "build=77\n\n",
      status: "OUTOFSERVICE",
      weight: "0",
      metadata: "colour=dark red\nformula=a=b",
      reason: "it's hot",
      ends: "3600",
      hiddenFrom: "is=left out",
    };
    const { body, problems } = readForm("s", form, NOW);
    expect(problems).toEqual([]);
    expect(body).toEqual({
      serviceId: "s",
      zone: "az1",
      properties: { build: "77" },
      status: "OUTOFSERVICE",
      weight: 0,
      metadata: { colour: "dark red", formula: "a=b" },
      reason: "it's hot",
      seconds: 3600,
    });
    expect(commandOf(body)).toEqual(
      ["override", "set", "--service", "s", "--zone", "az1", "--property", "build=77", "--status", "OUTOFSERVICE", "--weight", "0"].concat(
        ["--metadata", "colour=dark red", "--metadata", "formula=a=b", "--reason", "it's hot", "--for", "3600s"],
      ),
    );
  });

  test("shows a drain as one, beside an override of the same instance", () => {
    const drain = { instanceId: "i", drain: true, status: "OUTOFSERVICE" };
    expect([wishWords(drain), wishWords({ status: "OUTOFSERVICE" })]).toEqual(["drain", "status OUTOFSERVICE"]);
    expect(sameTarget(drain, { instanceId: "i" })).toBe(false);
  });

  test("tells everything that is wrong at once", () => {
    const words = (change: object) => readForm("s", { ...emptyForm(), ...change }, NOW).problems.map(({ word }) => word);
    expect(words({})).toEqual(["needWish", "needReason"]);
    expect(words({ weight: "101", metadata: "colour", ends: "at", endsAt: "2020-01-01T00:00" })).toEqual(
      ["needWeight", "needPairs", "needReason", "needEnd"],
    );
    expect(words({ some: true, status: "UP", reason: "r" })).toEqual(["needTarget"]);
    expect(words({ metadata: "weight=7", reason: "r" })).toEqual(["needNoWeight"]);
    expect(words({ weight: "1.5", reason: "r" })).toEqual(["needWeight"]);
    expect(words({ status: "UP", reason: "r", ends: "at", endsAt: "" })).toEqual(["needEnd"]);
    expect(words({ status: "UP", reason: "r" })).toEqual([]);
  });

  test("hides a whole service and never an instance", () => {
    const form = { ...emptyForm("i"), hiddenFrom: "team=a", weight: "5", reason: "r" };
    expect(readForm("s", form, NOW).body).toEqual({ serviceId: "s", instanceId: "i", weight: 5, reason: "r" });
    expect(readForm("s", { ...form, instanceId: "" }, NOW).body.hiddenFrom).toEqual({ team: "a" });
  });

  test("shows an override as it is, with its end in the viewer's zone", () => {
    const until = NOW / 1000 + 7200;
    const one: Override = { overrideId: "o", serviceId: "s", version: "1.0.0", weight: 5, metadata: { a: "b" }, reason: "r", until };
    const { body, problems } = readForm("s", formOf(one), NOW);
    expect(problems).toEqual([]);
    expect(body).toEqual({ serviceId: "s", version: "1.0.0", weight: 5, metadata: { a: "b" }, reason: "r", seconds: 7200 });
    expect(Date.parse(localTime(NOW))).toBe(NOW);
  });

  test("keeps names that mean something to JavaScript", () => {
    expect(JSON.stringify(readPairs("__proto__=x\nconstructor=y"))).toBe('{"__proto__":"x","constructor":"y"}');
    expect(readPairs("=x")).toBeUndefined();
  });
});

describe("overrides in force", () => {
  const one = (more: Partial<Override>): Override => ({ overrideId: "o", serviceId: "s", ...more });

  test("are told in words", () => {
    expect(targetWords(one({}))).toBe("all of the service");
    expect(targetWords(one({ zone: "a", properties: { build: "7" } }))).toBe("zone a · build=7");
    const wish = { status: "DOWN", weight: 0, metadata: { a: "b" }, hiddenFrom: { team: "x" } };
    expect(wishWords(one(wish))).toBe("status DOWN · weight 0 · a=b · hidden from team=x");
  });

  test("take instances by what these report", () => {
    const instance = { instanceId: "i", version: "1.0.0", properties: { build: "7" }, dataCenterInfo: { availableZone: "a" } };
    expect(takes({}, instance)).toBe(true);
    expect(takes({ version: "1.0.0", zone: "a", properties: { build: "7" } }, instance)).toBe(true);
    expect([takes({ zone: "b" }, instance), takes({ properties: { build: "8" } }, instance)]).toEqual([false, false]);
    expect(sameTarget({ properties: { a: "1", b: "2" } }, { properties: { b: "2", a: "1" }, zone: "" })).toBe(true);
    expect(sameTarget({}, { instanceId: "i" })).toBe(false);
  });

  test("stand between what is reported and what is seen, field by field", () => {
    const narrow = one({ overrideId: "n", weight: 7, reason: "one" });
    const wide = one({ overrideId: "w", status: "DOWN", weight: 5, metadata: { colour: "red" }, reason: "all" });
    const rows = differences({
      reported: { instanceId: "i", status: "UP", properties: { colour: "blue", other: "1" } },
      instance: { instanceId: "i", status: "DOWN", properties: { colour: "red", other: "1", weight: "7" } },
      overrides: [narrow, wide],
    });
    expect(rows).toEqual([
      { property: "", reported: "UP", seen: "DOWN", by: wide },
      { property: "colour", reported: "blue", seen: "red", by: wide },
      { property: "weight", reported: undefined, seen: "7", by: narrow },
    ]);
    const same = { instanceId: "i", status: "UP" };
    expect(differences({ instance: same, reported: same })).toEqual([]);
  });
});

describe("rights at a service", () => {
  const permissions = [{ resources: [{ type: "service", labels: { appId: "shop*", environment: "" } }], verbs: ["update"] }];

  test("follow the labels of the role", () => {
    expect(mayAt(permissions, "update", "service", { appId: "shop-eu" })).toBe(true);
    expect(mayAt(permissions, "update", "service", { appId: "shop-eu", environment: "production" })).toBe(false);
    expect(mayAt(permissions, "update", "service", { appId: "platform" })).toBe(false);
    expect(mayAt(permissions, "get", "service", { appId: "shop-eu" })).toBe(false);
    expect(mayAt(undefined, "update", "service", {})).toBe(true);
    const odd = [{ resources: [{ type: "service", labels: { team: "a" } }], verbs: ["*"] }];
    expect(mayAt(odd, "update", "service", {})).toBe(false);
  });

  test("know a star as the registry does", () => {
    expect([glob("a*c", "abbc"), glob("a*c", "ab"), glob("*", ""), glob("", "x"), glob("a.c", "abc")]).toEqual(
      [true, false, true, false, false],
    );
    expect([glob("a*b*c", "a-b-b-c"), glob("ab*b", "ab")]).toEqual([true, false]);
  });
});
