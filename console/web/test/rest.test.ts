import { describe, expect, test } from "vitest";

import { ago, cli, curl, quote, seconds, time } from "../src/core/format";
import { around, byApplication, place, type Graph } from "../src/core/graph";
import { accountOf, may, statements } from "../src/core/rights";
import { link, parseRoute } from "../src/core/route";
import { choice, preferred, t, testing } from "../src/core/words";

describe("formats", () => {
  test("read the registry's times", () => {
    expect(seconds("1795858845")).toBe(1_795_858_845_000);
    expect([seconds(""), seconds(undefined), seconds("x"), seconds(0)]).toEqual([undefined, undefined, undefined, undefined]);
    expect(time(undefined, "en-GB")).toBe("–");
    expect(ago(90_000, 100_000, "en-GB")).toContain("10 sec");
    expect(ago(100_000 - 7_200_000, 100_000, "en-GB")).toContain("2 h");
  });

  test("quote what a shell would take apart", () => {
    expect(quote("plain-1.0:8080/x")).toBe("plain-1.0:8080/x");
    expect(quote("it's $HOME")).toBe("'it'\\''s $HOME'");
    expect(quote("")).toBe("''");
  });

  test("write commands without any token", () => {
    const line = curl({ method: "PUT", url: "http://r/x?value=UP", headers: { "X-Domain-Name": "a b" }, body: "{}", signedIn: true });
    expect(line).toBe(
      `curl -X PUT -H "Authorization: Bearer $MUSTER_TOKEN" -H 'X-Domain-Name: a b' -H 'Content-Type: application/json' -d '{}' 'http://r/x?value=UP'`,
    );
    expect(cli("http://127.0.0.1:30100", ["services"])).toBe("muster services");
    expect(cli("https://r", ["status", "--set", "UP"])).toBe("muster status --set UP --server https://r");
  });
});

describe("rights", () => {
  const permissions = [
    { resources: [{ type: "service", labels: { appId: "shop" } }, { type: "schema" }], verbs: ["get"] },
    { resources: [{ type: "role" }], verbs: ["*", "get"] },
  ];

  test("are everything, a part, or nothing", () => {
    expect(may(permissions, "get", "service")).toBe("some");
    expect(may(permissions, "get", "schema")).toBe("all");
    expect(may(permissions, "delete", "role")).toBe("all");
    expect(may(permissions, "delete", "service")).toBe("none");
    expect(may([], "get", "service")).toBe("none");
    expect(may(undefined, "delete", "service")).toBe("all");
  });

  test("are told one by one", () => {
    expect(statements(permissions)).toEqual([
      { verbs: ["get"], type: "service", labels: [["appId", "shop"]] },
      { verbs: ["get"], type: "schema", labels: [] },
      { verbs: ["*"], type: "role", labels: [] },
    ]);
  });

  test("the account of a token is read, and a text that is none is no error", () => {
    const claims = btoa(JSON.stringify({ account: "peter" })).replaceAll("=", "");
    expect(accountOf(`a.${claims}.c`)).toBe("peter");
    expect(accountOf("nonsense")).toBe("");
  });
});

describe("addresses", () => {
  test("keep what is shown", () => {
    const hash = link(["instance", "a/b", "c d"], { q: "app:shop x=1&2", tab: undefined });
    const route = parseRoute(hash);
    expect(route.path).toEqual(["instance", "a/b", "c d"]);
    expect(route.query.get("q")).toBe("app:shop x=1&2");
    expect(parseRoute("").path).toEqual([]);
    expect(parseRoute("#/x%").path).toEqual(["x%"]);
  });
});

describe("the map", () => {
  const nodes = ["a", "b", "c", "d", "alone"].map((id) => ({ id, name: id, appId: id < "c" ? "x" : "y", version: "1" }));
  const graph: Graph = { nodes, edges: [["a", "b"], ["b", "c"], ["c", "d"], ["a", "c"]].map(([from = "", to = ""]) => ({ from, to })) };

  test("puts consumers to the left of their providers", () => {
    const x = new Map(place(graph).nodes.map((node) => [node.id, node.x]));
    for (const { from, to } of graph.edges) expect(x.get(from)).toBeLessThan(x.get(to) ?? 0);
    expect(Math.max(...x.values())).toBe(x.get("alone"));
  });

  test("places circles and loops too, each box once and none on another", () => {
    const circle: Graph = { nodes, edges: [...graph.edges, { from: "d", to: "a" }, { from: "b", to: "b" }] };
    const placed = place(circle).nodes;
    expect(placed).toHaveLength(5);
    expect(new Set(placed.map((node) => `${node.x} ${node.y}`)).size).toBe(5);
  });

  test("places hundreds of services", () => {
    const many = Array.from({ length: 500 }, (_, index) => ({ id: `${index}`, name: `s${index}`, appId: `a${index % 9}`, version: "1" }));
    const edges = many.slice(1).map((node, index) => ({ from: `${Math.floor(index / 3)}`, to: node.id }));
    const layout = place({ nodes: many, edges });
    expect(new Set(layout.nodes.map((node) => `${node.x} ${node.y}`)).size).toBe(500);
  });

  test("shows what is around one service", () => {
    expect(around(graph, "d", 1).nodes.map((node) => node.id)).toEqual(["c", "d"]);
    expect(around(graph, "b", 1).nodes.map((node) => node.id)).toEqual(["a", "b", "c"]);
    expect(around(graph, "nothing", 2).nodes).toEqual([]);
  });

  test("sums up by application", () => {
    const { nodes: apps, edges, sizes } = byApplication(graph);
    expect(apps.map((node) => node.id)).toEqual(["x", "y"]);
    expect(edges).toEqual([{ from: "x", to: "y" }]);
    expect(sizes.get("y")).toBe(2);
  });
});

describe("words", () => {
  test("have the same places for values in every language", () => {
    const places = (text: string) => [...new Set(text.match(/\{\d\}/g))].sort().join();
    for (const [word, english] of Object.entries(testing.tables.en)) {
      const chinese = testing.tables.zh[word as keyof typeof testing.tables.zh];
      expect(places(chinese), word).toBe(places(english));
      expect(chinese.trim(), word).not.toBe("");
    }
  });

  test("are in the first language of the browser that there is", () => {
    expect(preferred(["fr-FR", "zh-TW", "en"])).toBe("zh");
    expect(preferred(["fr"])).toBe("en");
    choice.language = "zh";
    expect(t("sessionEnded")).toContain("登录");
    choice.language = "en";
    expect(t("statusTo", "UP", "DOWN")).toBe("UP → DOWN");
  });
});
