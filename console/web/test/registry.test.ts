import { describe, expect, test } from "vitest";

import type { Frame, Instance, ServiceKey } from "../src/core/model";
import { Registry, same } from "../src/core/registry";

const key = (serviceName: string): ServiceKey => ({
  tenant: "default/default",
  environment: "production",
  appId: "shop",
  serviceName,
  version: "1.0.0",
});

const instance = (name: string, id: string, status = "UP"): Instance => ({
  instanceId: id,
  serviceId: `id-of-${name}`,
  status,
});

const event = (action: string, name: string, id: string, rev: number, since: number, status = "UP"): Frame => ({
  action,
  key: key(name),
  instance: instance(name, id, status),
  rev,
  since,
});

const reset = (name: string, ids: string[], rev: number): Frame => ({
  action: "RESET",
  key: key(name),
  instances: ids.map((id) => instance(name, id)),
  rev,
  since: 0,
});

const bookmark = (rev: number): Frame => ({ action: "BOOKMARK", rev });

/** A registry with the services `order` (a, b) and `cart` (c), at revision 10. */
function loaded(): Registry {
  const registry = new Registry();
  registry.apply(reset("order", ["a", "b"], 10), 1);
  registry.apply(reset("cart", ["c"], 10), 1);
  registry.apply(bookmark(10), 1);
  return registry;
}

const ids = (registry: Registry, name: string) => [...(registry.byId.get(`id-of-${name}`)?.instances.keys() ?? [])];
const kinds = (registry: Registry) => registry.changes.map((change) => `${change.kind} ${change.instanceId}`);

describe("the state at the beginning", () => {
  test("is complete with the first bookmark and is no change", () => {
    const registry = new Registry();
    registry.apply(reset("order", ["a", "b"], 10), 1);
    expect(registry.loaded).toBe(false);
    registry.apply(bookmark(10), 1);
    expect([registry.loaded, registry.instances, registry.confirmed]).toEqual([true, 2, 10]);
    expect(registry.changes).toEqual([]);
    expect(registry.byStatus).toEqual(new Map([["UP", 2]]));
  });
});

test("nothing at all is complete, and what comes then is a change", () => {
  const registry = new Registry();
  registry.isEmpty();
  registry.apply(event("CREATE", "order", "a", 5, 0), 3);
  expect([registry.loaded, registry.instances, registry.confirmed]).toEqual([true, 1, 0]);
  expect(kinds(registry)).toEqual(["registered a"]);
});

describe("events", () => {
  test("change instances, counts and the list of changes", () => {
    const registry = loaded();
    registry.apply(event("CREATE", "order", "d", 11, 10), 5);
    registry.apply(event("UPDATE", "order", "a", 12, 10, "DOWN"), 6);
    registry.apply(event("UPDATE", "order", "a", 13, 10, "DOWN"), 7);
    registry.apply(event("DELETE", "cart", "c", 14, 10), 8);
    expect(ids(registry, "order")).toEqual(["a", "b", "d"]);
    expect(ids(registry, "cart")).toEqual([]);
    expect(registry.byStatus).toEqual(new Map([["UP", 2], ["DOWN", 1]]));
    expect(registry.byId.get("id-of-order")?.byStatus).toEqual(new Map([["UP", 2], ["DOWN", 1]]));
    expect(kinds(registry)).toEqual(["registered d", "status a", "changed a", "left c"]);
    expect([registry.rev, registry.confirmed]).toEqual([14, 10]);
  });

  test("confirm what they say, and their own revision if they say nothing", () => {
    const registry = loaded();
    registry.apply(event("UPDATE", "order", "a", 20, 17), 5);
    expect(registry.confirmed).toBe(17);
    const { since: _, ...bare } = event("UPDATE", "order", "a", 21, 0);
    registry.apply(bare, 5);
    expect(registry.confirmed).toBe(21);
  });

  test("that come again after a break are taken once", () => {
    const registry = loaded();
    registry.apply(event("CREATE", "order", "d", 11, 10), 5);
    registry.apply(event("DELETE", "order", "d", 12, 10), 6);
    // The watch is opened with the confirmed revision 10.
    registry.apply(event("CREATE", "order", "d", 11, 10), 7);
    registry.apply(event("DELETE", "order", "d", 12, 10), 8);
    registry.apply(event("CREATE", "order", "e", 13, 10), 9);
    expect(ids(registry, "order")).toEqual(["a", "b", "e"]);
    expect(kinds(registry)).toEqual(["registered d", "left d", "registered e"]);
  });

  test("of an instance that is not known are no mistake", () => {
    const registry = loaded();
    registry.apply(event("DELETE", "order", "x", 11, 10), 5);
    registry.apply({ action: "TOKEN" }, 5);
    registry.apply({ action: "CREATE", rev: 12 }, 5);
    expect([registry.instances, registry.changes.length]).toEqual([3, 0]);
  });

  test("keep a bounded list of changes", () => {
    const registry = loaded();
    for (let rev = 11; rev < 5011; rev += 1) registry.apply(event("UPDATE", "order", "a", rev, 10, `S${rev}`), rev);
    expect(registry.changes.length).toBeLessThanOrEqual(2000);
    expect(registry.changes.at(-1)?.rev).toBe(5010);
    expect(registry.changed).toBe(5000);
  });
});

describe("resets", () => {
  test("are all counted for a minute, also those that are not kept", () => {
    const registry = loaded();
    for (let step = 0; step < 5000; step += 1) registry.apply(event("UPDATE", "order", "a", 11 + step, 10 + step), 60_000 + 2 * step);
    expect([registry.changes.length <= 2000, registry.lastMinute(70_000)]).toEqual([true, 5000]);
    expect(registry.lastMinute(119_999)).toBe(5000);
    expect(registry.lastMinute(125_000)).toBe(2000);
    expect(registry.lastMinute(200_000)).toBe(0);
    registry.clear();
    expect(registry.lastMinute(70_000)).toBe(0);
  });

  test("replace one provider, and tell the difference as changes", () => {
    const registry = loaded();
    registry.apply(reset("order", ["b", "e"], 30), 5);
    expect(ids(registry, "order")).toEqual(["b", "e"]);
    expect(ids(registry, "cart")).toEqual(["c"]);
    expect(kinds(registry)).toEqual(["left a", "registered e"]);
    expect(registry.confirmed).toBe(10);
  });

  test("of a provider without instances find it by its key", () => {
    const registry = loaded();
    registry.apply({ action: "RESET", key: key("cart"), rev: 30 }, 5);
    expect(ids(registry, "cart")).toEqual([]);
    expect(registry.instances).toBe(2);
  });

  test("of everything keep the old state until the new one is there", () => {
    const registry = loaded();
    registry.apply({ action: "RESET", rev: 40 }, 5);
    expect([registry.instances, registry.confirmed]).toEqual([3, 0]);
    registry.apply(reset("order", ["a"], 40), 6);
    registry.apply(bookmark(40), 6);
    expect(ids(registry, "order")).toEqual(["a"]);
    expect(ids(registry, "cart")).toEqual([]);
    expect([registry.instances, registry.confirmed]).toEqual([1, 40]);
  });

  test("below the confirmed revision mean a restored store", () => {
    const registry = loaded();
    registry.apply(event("UPDATE", "order", "a", 50, 50), 5);
    registry.apply(reset("order", ["a"], 7), 6);
    registry.apply(bookmark(7), 6);
    expect([registry.rev, registry.confirmed, registry.instances]).toEqual([7, 7, 1]);
    registry.apply(event("CREATE", "order", "n", 8, 7), 7);
    expect(ids(registry, "order")).toEqual(["a", "n"]);
  });
});

describe("records of services", () => {
  test("bring services without instances, and take deleted ones away", () => {
    const registry = loaded();
    const service = { serviceId: "id-of-mail", environment: "production", appId: "shop", serviceName: "mail", version: "1.0.0" };
    registry.setServices([service]);
    expect(registry.byId.get("id-of-mail")?.service).toBe(service);
    expect(registry.providers.size).toBe(3);
    registry.setServices([]);
    expect(registry.byId.has("id-of-mail")).toBe(false);
    expect(registry.providers.size).toBe(2);
  });

  test("with a new id for an old name move the service", () => {
    const registry = loaded();
    registry.setServices([{ ...key("order"), serviceId: "new" }]);
    expect(registry.byId.has("id-of-order")).toBe(false);
    expect(registry.byId.get("new")?.instances.size).toBe(2);
  });

  test("and whole states replace each other where there is no watch", () => {
    const registry = new Registry();
    const detail = (name: string, ids: string[]) => ({
      microService: { ...key(name), serviceId: `id-of-${name}` },
      instances: ids.map((id) => instance(name, id)),
    });
    registry.setAll([detail("order", ["a", "b"]), detail("cart", ["c"])], 0);
    expect([registry.loaded, registry.instances, registry.changes.length]).toEqual([true, 3, 0]);
    registry.setAll([detail("order", ["b", "d"])], 5);
    expect(kinds(registry)).toEqual(["left a", "registered d", "left c"]);
    expect([...registry.providers.keys()]).toEqual(["production/shop/order/1.0.0"]);
  });
});

test("a random history ends in the same state, however often the watch breaks", () => {
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  for (let round = 0; round < 50; round += 1) {
    const truth = new Map<string, string>();
    const log: Frame[] = [];
    const steady = new Registry();
    const broken = new Registry();
    for (const registry of [steady, broken]) registry.apply(bookmark(1), 1);
    let sent = 0;
    for (let rev = 2; rev < 200; rev += 1) {
      const id = `i${random(8)}`;
      const action = !truth.has(id) ? "CREATE" : random(3) === 0 ? "DELETE" : "UPDATE";
      const status = ["UP", "DOWN", "TESTING"][random(3)];
      if (action === "DELETE") truth.delete(id);
      else truth.set(id, status ?? "");
      const frame = event(action, "order", id, rev, 0, status);
      // Nothing is confirmed but by bookmarks.
      log.push(frame);
      steady.apply(frame, rev);
      if (random(4) === 0) {
        steady.apply(bookmark(rev), rev);
        for (const late of log.slice(sent)) broken.apply(late, rev);
        sent = log.length;
        if (random(2) === 0) broken.apply(bookmark(rev), rev);
        // The watch breaks, and goes on after the confirmed revision.
        else sent = log.findIndex((one) => (one.rev ?? 0) > broken.confirmed);
        if (sent < 0) sent = log.length;
      }
    }
    for (const late of log.slice(sent)) broken.apply(late, 999);
    for (const registry of [steady, broken]) {
      const entries = registry.byId.get("id-of-order")?.instances ?? new Map<string, never>();
      const state = new Map([...entries].map(([id, entry]) => [id, entry.instance.status]));
      expect(new Map([...state].sort())).toEqual(new Map([...truth].sort()));
      expect(registry.instances).toBe(truth.size);
    }
    expect(kinds(broken)).toEqual(kinds(steady));
  }
});

test("equality looks at every member and at no order", () => {
  expect(same({ a: 1, b: { c: [1, 2] } }, { b: { c: [1, 2] }, a: 1 })).toBe(true);
  expect(same({ a: 1 }, { a: 1, b: undefined })).toBe(false);
  expect(same({ a: [1, 2] }, { a: [2, 1] })).toBe(false);
  expect(same(null, {})).toBe(false);
});
