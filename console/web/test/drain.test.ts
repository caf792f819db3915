import { describe, expect, test } from "vitest";

import { commandOf, isCutOff, LineParser, pathOf, queryOf, readers, words } from "../src/core/drain";
import { span } from "../src/core/format";

const plain = (value: number) => String(value);

describe("a drain", () => {
  test("is read line by line, however the pieces arrive", () => {
    const parser = new LineParser();
    expect(parser.push('{"reached":1}\n{"rea')).toEqual([{ reached: 1 }]);
    expect(parser.push('ched":2}\nnonsense\n7\n\n{"done":true}')).toEqual([{ reached: 2 }]);
    expect(parser.push("\n")).toEqual([{ done: true }]);
  });

  test("is told with everything that stands before the proof", () => {
    expect(words({ watchers: 5000, reached: 4981, fleetKnown: true }, plain)).toBe("4981 of 5000 watchers know, 19 waiting");
    expect(words({ watchers: 2, reached: 2, fleetKnown: true }, plain)).toBe("2 of 2 watchers know");
    const all = { watchers: 3, reached: 2, moving: 1, behind: 2, silent: [{}, {}], fleetKnown: false };
    expect(words(all, plain)).toBe(
      "2 of 3 watchers know, 1 waiting, watchers of 1 groups on the move, 2 gateways have not come so far, " +
        "2 gateways do not answer, the gateway has just started and does not know the others yet",
    );
  });

  test("is waited for by readers of every kind", () => {
    const progress = { watchers: 2, reached: 2, pollers: 3, pollersReached: 1, streams: 1, streamsReached: 0, pollersKnownInMs: 41_200 };
    expect(words({ ...progress, fleetKnown: true }, plain)).toBe(
      "2 of 2 watchers know, 1 of 3 clients that poll have asked since, 0 of 1 xDS streams know, " +
        "for 42 s clients may still go by the answer of a gateway that is gone",
    );
    expect(readers(progress)).toEqual({ all: 6, known: 3 });
    expect(readers(undefined)).toEqual({ all: 0, known: 0 });
  });

  test("that its gateway could not end is begun again", () => {
    expect(isCutOff({ done: true, error: "about to end" })).toBe(true);
    expect(isCutOff({ done: true, then: "kept" })).toBe(false);
    expect(isCutOff({ done: true, proven: true, error: "403" })).toBe(false);
    expect(isCutOff({ reached: 1 })).toBe(false);
  });

  test("has a path, terms and a command", () => {
    expect(pathOf({ serviceId: "a/b" })).toBe("/registry/microservices/a%2Fb/drain");
    expect(pathOf({ serviceId: "s", instanceId: "i 1" })).toBe("/registry/microservices/s/instances/i%201/drain");
    expect(queryOf({ deadline: 29.5, then: "give-back", reason: "" })).toBe("?deadline=29500ms&then=give-back");
    expect(queryOf({ deadline: 0.2, then: "keep", reason: "new disk" })).toBe("?deadline=1000ms&then=keep&reason=new%20disk");
    const terms = { deadline: 30, then: "unregister" as const, reason: "new disk" };
    expect(commandOf({ serviceId: "s", instanceId: "i" }, terms).join(" ")).toBe(
      "drain instance --service s --instance i --deadline 30s --unregister --reason new disk",
    );
    expect(commandOf({ serviceId: "s" }, { deadline: 30, then: "keep", reason: "" }).join(" ")).toBe("drain service --service s --deadline 30s");
  });

  test("has times that people read", () => {
    const spans = [0, 1234, 30_000, 60_000, 95_000, 150_000, 900_000, 3_600_000].map((time) => span(time, "en-GB"));
    expect(spans).toEqual(["0 secs", "1.2 secs", "30 secs", "1 min", "95 secs", "2 mins", "15 mins", "1 hr"]);
  });
});
