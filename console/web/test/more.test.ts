import { describe, expect, test } from "vitest";

import { EventParser } from "../src/core/events";
import { example, matches, operations, target, type Document_ } from "../src/core/openapi";
import { afterClose, afterReason, backoff } from "../src/core/resume";
import { staleAge } from "../src/core/stale";

test("an answer that is stale says how old it is, and no other one does", () => {
  const age = (headers: Record<string, string>) => staleAge(new Headers(headers));
  expect(age({ Warning: '110 - "Response is Stale"', Age: "42" })).toBe(42);
  expect([age({ Warning: "110 -" }), age({ Warning: "110 -", Age: "x" })]).toEqual([0, 0]);
  // A cache on the way adds an age to what is fresh.
  expect([age({}), age({ Age: "7" }), age({ Warning: "199 - 110" })]).toEqual([undefined, undefined, undefined]);
});

describe("a lost watch", () => {
  test("is opened again after a growing time that differs between pages", () => {
    for (const [failures, least, most] of [[0, 200, 400], [3, 1600, 3200], [50, 7500, 15_000]] as const) {
      expect(backoff(failures, 0)).toBe(least);
      expect(backoff(failures, 1)).toBe(most);
    }
  });

  test("says by its code how to go on", () => {
    expect([1000, 1001, 1006, 4001].map(afterClose)).toEqual(["again", "again", "again", "again"]);
    expect([4101, 4102, 4103, 4104, 4107].map(afterClose)).toEqual(Array(5).fill("sign-in"));
    expect([afterClose(4105), afterClose(4106)]).toEqual(["denied", "from-start"]);
  });

  test("says by its reason how to go on", () => {
    expect(["drained", "restored", "token_expired", "right_lost", "right_changed", "new_word"].map(afterReason)).toEqual([
      "again",
      "again",
      "sign-in",
      "denied",
      "from-start",
      "again",
    ]);
  });
});

describe("server-sent events", () => {
  const stream = 'retry: 1640\n\n:\n\nid: 5\ndata: {"a":1}\n\nevent: end\r\ndata: x\r\ndata:y\r\n\r\n';
  const events = [
    { name: "message", data: '{"a":1}' },
    { name: "end", data: "x\ny" },
  ];

  test("are read, however they are cut", () => {
    expect(new EventParser().push(stream)).toEqual(events);
    for (const size of [1, 2, 3, 7]) {
      const parser = new EventParser();
      const pieces = stream.match(new RegExp(`[^]{1,${size}}`, "g")) ?? [];
      expect(pieces.flatMap((piece) => parser.push(piece))).toEqual(events);
    }
  });

  test("that have not ended are none yet", () => {
    expect(new EventParser().push("data: half")).toEqual([]);
  });
});

describe("the document of the API", () => {
  const document: Document_ = {
    info: { version: "1", description: "" },
    paths: {
      "/v4/{project}/x/{id}": {
        put: {
          operationId: "PutX",
          summary: "Store an x.",
          tags: ["Registry"],
          parameters: [
            { name: "project", in: "path" },
            { name: "id", in: "path" },
            { name: "value", in: "query" },
            { name: "X-Domain-Name", in: "header" },
          ],
          responses: {},
        },
        get: { operationId: "GetX", summary: "Read an x.", tags: ["Registry"], responses: {} },
      },
    },
    components: {
      schemas: { X: { type: "object", properties: { name: { type: "string" }, own: { $ref: "#/components/schemas/X" } } } },
    },
  };
  const all = operations(document);

  test("becomes a list that can be filtered", () => {
    expect(all.map((one) => one.method)).toEqual(["PUT", "GET"]);
    expect(all.filter((one) => matches(one, "store x")).map((one) => one.operationId)).toEqual(["PutX"]);
    expect(all.filter((one) => matches(one, ""))).toHaveLength(2);
  });

  test("gives the address of a call, with nothing left open", () => {
    const put = all[0];
    expect(put && target(put, { project: "default", id: "a/b?c", value: "x&y=1" })).toBe(
      "/v4/default/x/a%2Fb%3Fc?value=x%26y%3D1",
    );
    expect(put && target(put, { project: "default", id: "1" })).toBe("/v4/default/x/1");
  });

  test("gives an example of a body, however deep its shapes go", () => {
    const text = JSON.stringify(example({ $ref: "#/components/schemas/X" }, document.components.schemas));
    expect(text.startsWith('{"name":"","own":{"name":""')).toBe(true);
    expect(example({ type: "array", items: { type: "integer" } }, {})).toEqual([0]);
    expect(example({ anyOf: [{ type: "null" }, { type: "boolean" }] }, {})).toBe(false);
    expect(example(undefined, {})).toBe(null);
  });
});
