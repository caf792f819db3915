import { describe, expect, test } from "vitest";

import { kindOf, occurring, recordsOf, type AuditPart, type AuditRecord } from "../src/core/audit";

const record = (second: number, some: Partial<AuditRecord>): AuditRecord => ({
  time: `2026-01-01T00:00:${String(second).padStart(2, "0")}.000Z`,
  plane: "control",
  decision: "allowed",
  method: "POST",
  target: "/v4/accounts/vera",
  status: 200,
  ...some,
});

const plane: AuditPart = {
  process: "plane-1",
  complete: true,
  records: [
    record(9, { account: "root", operation: "CreateAccount" }),
    record(4, { account: "vera", operation: "RegisterInstance", decision: "denied", status: 403 }),
  ],
};
const gateway: AuditPart = {
  process: "gateway-7",
  complete: false,
  records: [record(6, { plane: "edge", transport: "sse", route: "/r", decision: "denied", status: 401 })],
};

describe("the audit log", () => {
  test("of two processes is one list, the newest first", () => {
    const times = recordsOf([plane, gateway], {}).map(({ time }) => time.slice(17, 19));
    expect(times).toEqual(["09", "06", "04"]);
  });

  test("is filtered by account, decision and kind", () => {
    const of = (filter: object) => recordsOf([plane, gateway], filter).map(kindOf);
    expect(of({ decision: "denied" })).toEqual(["sse", "RegisterInstance"]);
    expect(of({ account: "root" })).toEqual(["CreateAccount"]);
    expect(of({ account: "" })).toEqual(["sse"]);
    expect(of({ kind: "RegisterInstance", decision: "allowed" })).toEqual([]);
  });

  test("names the accounts and kinds that occur", () => {
    expect(occurring([plane, gateway], ({ account }) => account ?? "")).toEqual(["", "root", "vera"]);
    expect(occurring([plane, gateway], kindOf)).toEqual(["CreateAccount", "RegisterInstance", "sse"]);
  });

  test("has the route as kind at the admin port", () => {
    expect(kindOf(record(1, { plane: "admin", route: "/drain" }))).toBe("/drain");
  });
});
