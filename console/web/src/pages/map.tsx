import { useMemo, useState } from "preact/hooks";

import { number } from "../core/format";
import { around, byApplication, HEIGHT, part, place, WIDTH, type Graph } from "../core/graph";
import { go, link, replaceQuery, type Route } from "../core/route";
import { api, registry, useRegistry } from "../core/state";
import { t, tag } from "../core/words";
import { Empty, Loading, Panel, Select, useLoad } from "../ui/parts";

/** Services beyond which the map begins with applications. */
const READABLE = 150;

interface Relations {
  nodes: { id: string; name: string; appId: string; version: string }[] | null;
  lines: { from: { id: string }; to: { id: string } }[] | null;
}

export function DependencyMap({ route }: { route: Route }) {
  useRegistry(2000);
  const loaded = useLoad(() => api.get<Relations>(api.path("/govern/relations")), `map ${registry.providers.size}`);
  return (
    <div class="full">
      <h1>{t("map")}</h1>
      <Loading loaded={loaded}>{(relations) => <Drawing relations={relations} route={route} />}</Loading>
    </div>
  );
}

function Drawing({ relations, route }: { relations: Relations; route: Route }) {
  const [zoom, setZoom] = useState(1);
  const [pointed, setPointed] = useState<string>();
  const whole = useMemo<Graph>(
    () => ({
      nodes: relations.nodes ?? [],
      edges: (relations.lines ?? []).map(({ from, to }) => ({ from: from.id, to: to.id })),
    }),
    [relations],
  );
  const focus = route.query.get("focus") ?? "";
  const app = route.query.get("app") ?? "";
  const depth = Number(route.query.get("steps") ?? "1") || 1;
  const all = route.query.get("all") === "1";
  const focused = whole.nodes.find((node) => node.id === focus);
  const summed = !focused && !app && !all && whole.nodes.length > READABLE;
  const { graph, sizes } = useMemo(() => {
    if (summed) {
      const apps = byApplication(whole);
      return { graph: apps as Graph, sizes: apps.sizes };
    }
    const shown = focused ? around(whole, focused.id, depth) : app ? part(whole, (node) => node.appId === app) : whole;
    return { graph: shown, sizes: undefined };
  }, [whole, focused, app, depth, summed]);
  const layout = useMemo(() => place(graph), [graph]);
  const at = new Map(layout.nodes.map((node) => [node.id, node]));
  const near = new Set<string>();
  if (pointed) {
    near.add(pointed);
    for (const { from, to } of graph.edges) {
      if (from === pointed) near.add(to);
      if (to === pointed) near.add(from);
    }
  }
  if (whole.nodes.length === 0) return <Empty>{t("mapEmpty")}</Empty>;
  const apps = [...new Set(whole.nodes.map((node) => node.appId))].sort();
  return (
    <>
      <div class="filters">
        <Select
          label={t("application")}
          value={focused ? "" : app}
          options={[["", t("wholeMap")], ...apps.map((one): [string, string] => [one, t("appOf", one)])]}
          onChange={(value) => go(link(["map"], { app: value }))}
        />
        {focused && (
          <>
            <span class="chip">
              {t("aroundOf", focused.name)}{" "}
              <a href={link(["map"], { app: focused.appId })} aria-label={t("wholeMap")}>
                ×
              </a>
            </span>
            <Select
              label={t("steps")}
              value={String(depth)}
              options={["1", "2", "3"].map((steps): [string, string] => [steps, `${t("steps")}: ${steps}`])}
              onChange={(steps) => replaceQuery(route, { steps })}
            />
            <a class="button" href={link(["service", focused.id])}>
              {t("service")}: {focused.name}
            </a>
          </>
        )}
        {summed && (
          <a class="button" href={link(["map"], { all: "1" })}>
            {t("showServices")}
          </a>
        )}
        <span class="grow" />
        <button type="button" aria-label={t("zoomOut")} title={t("zoomOut")} onClick={() => setZoom(Math.max(0.3, zoom / 1.25))}>
          −
        </button>
        <button type="button" aria-label={t("zoomIn")} title={t("zoomIn")} onClick={() => setZoom(Math.min(2.5, zoom * 1.25))}>
          +
        </button>
      </div>
      <p class="quiet">
        {summed ? t("mapApps", number(whole.nodes.length, tag())) : graph.edges.length === 0 ? t("mapEmpty") : t("mapHint")}
      </p>
      <div class="drawing" tabIndex={0} role="group" aria-label={t("map")}>
        <svg
          width={layout.width * zoom}
          height={layout.height * zoom}
          viewBox={`0 0 ${layout.width} ${layout.height}`}
          role="group"
          aria-label={t("map")}
        >
          <defs>
            <marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0 0 8 4 0 8z" class="tip" />
            </marker>
          </defs>
          {graph.edges.map(({ from, to }) => {
            const a = at.get(from);
            const b = at.get(to);
            if (!a || !b || from === to) return null;
            const lit = pointed && (from === pointed || to === pointed);
            return (
              <path
                key={`${from} ${to}`}
                class={pointed ? (lit ? "edge lit" : "edge dim") : "edge"}
                d={curve(a.x, a.y, b.x, b.y)}
                marker-end="url(#arrow)"
              />
            );
          })}
          {layout.nodes.map((node) => {
            const provider = registry.byId.get(node.id);
            const count = sizes?.get(node.id);
            const down = provider !== undefined && !provider.byStatus.has("UP");
            const below = short(
              count === undefined
                ? [node.version, node.appId, provider && `${provider.instances.size}`].filter(Boolean).join(" · ")
                : t("servicesIn", count),
              28,
            );
            const mark = [node.id === focus ? "focus" : "", down ? "down" : "", pointed && !near.has(node.id) ? "dim" : ""];
            return (
              <a
                key={node.id}
                href={count === undefined ? link(["map"], { focus: node.id }) : link(["map"], { app: node.id })}
                class={`node ${mark.join(" ")}`}
                onMouseEnter={() => setPointed(node.id)}
                onMouseLeave={() => setPointed(undefined)}
                onFocus={() => setPointed(node.id)}
                onBlur={() => setPointed(undefined)}
              >
                <rect x={node.x} y={node.y} width={WIDTH} height={HEIGHT} rx="7" />
                <text x={node.x + 10} y={node.y + 17} class="title">
                  {short(node.name, 24)}
                </text>{" "}
                <text x={node.x + 10} y={node.y + 33} class="sub">
                  {below}
                </text>
              </a>
            );
          })}
        </svg>
      </div>
      <details>
        <summary>
          {t("dependsOn")} ({number(graph.edges.length, tag())})
        </summary>
        <Panel title={`${t("consumer")} → ${t("provider")}`}>
          <ul class="plain-list">
            {graph.edges.slice(0, 500).map(({ from, to }) => (
              <li key={`${from} ${to}`}>
                {at.get(from)?.name} → {at.get(to)?.name}
              </li>
            ))}
          </ul>
        </Panel>
      </details>
    </>
  );
}

function short(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function curve(ax: number, ay: number, bx: number, by: number): string {
  const y1 = ay + HEIGHT / 2;
  const y2 = by + HEIGHT / 2;
  // Back to the left, around the boxes, where a circle closes.
  if (bx <= ax) {
    const low = Math.max(ay, by) + HEIGHT + 14;
    return `M${ax + WIDTH / 2} ${ay + HEIGHT}C${ax + WIDTH / 2} ${low} ${bx + WIDTH / 2} ${low} ${bx + WIDTH / 2} ${by + HEIGHT + 2}`;
  }
  const middle = (ax + WIDTH + bx) / 2;
  return `M${ax + WIDTH} ${y1}C${middle} ${y1} ${middle} ${y2} ${bx - 2} ${y2}`;
}
