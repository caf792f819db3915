/** The map: who depends on whom comes in, places on a plane come out. Pure. */

export interface Node {
  id: string;
  name: string;
  appId: string;
  version: string;
}

export interface Edge {
  from: string;
  to: string;
}

export interface Graph {
  nodes: Node[];
  edges: Edge[];
}

export interface Placed extends Node {
  x: number;
  y: number;
}

export interface Layout {
  nodes: Placed[];
  width: number;
  height: number;
}

export const WIDTH = 176;
export const HEIGHT = 40;
const COLUMN = 250;
const ROW = 52;
/** The nodes that stand below each other before a layer gets another column. */
const TALLEST = 24;

/** Everything within a number of steps of one node, in both directions. */
export function around(graph: Graph, focus: string, depth: number): Graph {
  const near = new Set([focus]);
  for (let step = 0; step < depth; step += 1) {
    const reached = [...near];
    for (const { from, to } of graph.edges) {
      if (reached.includes(from)) near.add(to);
      if (reached.includes(to)) near.add(from);
    }
  }
  return part(graph, (node) => near.has(node.id));
}

export function part(graph: Graph, takes: (node: Node) => boolean): Graph {
  const nodes = graph.nodes.filter(takes);
  const ids = new Set(nodes.map((node) => node.id));
  return { nodes, edges: graph.edges.filter(({ from, to }) => ids.has(from) && ids.has(to)) };
}

/** One node for each application, for graphs that are too large to be read service by service. */
export function byApplication(graph: Graph): Graph & { sizes: Map<string, number> } {
  const sizes = new Map<string, number>();
  const appOf = new Map(graph.nodes.map((node) => [node.id, node.appId]));
  for (const { appId } of graph.nodes) sizes.set(appId, (sizes.get(appId) ?? 0) + 1);
  const edges = new Map<string, Edge>();
  for (const edge of graph.edges) {
    const from = appOf.get(edge.from);
    const to = appOf.get(edge.to);
    if (from !== undefined && to !== undefined && from !== to) edges.set(`${from}\n${to}`, { from, to });
  }
  const nodes = [...sizes.keys()].sort().map((app) => ({ id: app, name: app, appId: app, version: "" }));
  return { nodes, edges: [...edges.values()], sizes };
}

/** The layer of each node: consumers stand to the left of their providers. Circles are broken where they close. */
function layers(graph: Graph): Map<string, number> {
  const outgoing = new Map<string, string[]>(graph.nodes.map((node) => [node.id, []]));
  const incoming = new Map<string, number>(graph.nodes.map((node) => [node.id, 0]));
  for (const { from, to } of graph.edges) {
    if (from === to) continue;
    outgoing.get(from)?.push(to);
    incoming.set(to, (incoming.get(to) ?? 0) + 1);
  }
  const layer = new Map<string, number>();
  const waiting = new Map(incoming);
  const ready = graph.nodes.map((node) => node.id).filter((id) => waiting.get(id) === 0);
  const left = new Set(graph.nodes.map((node) => node.id));
  while (left.size > 0) {
    let id = ready.shift();
    // Only circles are left: the one with the fewest consumers that are not placed goes first.
    id ??= [...left].reduce((best, other) => ((waiting.get(other) ?? 0) < (waiting.get(best) ?? 0) ? other : best));
    if (!left.delete(id)) continue;
    const own = layer.get(id) ?? 0;
    layer.set(id, own);
    for (const next of outgoing.get(id) ?? []) {
      if (!left.has(next)) continue;
      layer.set(next, Math.max(layer.get(next) ?? 0, own + 1));
      waiting.set(next, (waiting.get(next) ?? 1) - 1);
      if (waiting.get(next) === 0) ready.push(next);
    }
  }
  return layer;
}

export function place(graph: Graph): Layout {
  const layer = layers(graph);
  const connected = new Set(graph.edges.flatMap(({ from, to }) => (from === to ? [] : [from, to])));
  const columns: Node[][] = [];
  const alone: Node[] = [];
  const sorted = [...graph.nodes].sort((a, b) => a.appId.localeCompare(b.appId) || a.name.localeCompare(b.name));
  for (const node of sorted) {
    if (connected.has(node.id)) (columns[layer.get(node.id) ?? 0] ??= []).push(node);
    else alone.push(node);
  }
  order(columns, graph.edges);
  const nodes: Placed[] = [];
  let x = 20;
  let height = 0;
  // Services without any dependency come last, so that they do not push the others apart.
  for (const column of [...columns, alone]) {
    if (!column?.length) continue;
    column.forEach((node, index) => {
      const y = 20 + (index % TALLEST) * ROW;
      nodes.push({ ...node, x: x + Math.floor(index / TALLEST) * (WIDTH + 24), y });
      height = Math.max(height, y + ROW);
    });
    x += COLUMN + Math.floor((column.length - 1) / TALLEST) * (WIDTH + 24);
  }
  return { nodes, width: Math.max(x, 300), height: Math.max(height + 10, 120) };
}

/** Sorts each column by the middle of its neighbours in the columns before, which takes most crossings away. */
function order(columns: Node[][], edges: Edge[]): void {
  const neighbours = new Map<string, string[]>();
  for (const { from, to } of edges) {
    neighbours.set(from, [...(neighbours.get(from) ?? []), to]);
    neighbours.set(to, [...(neighbours.get(to) ?? []), from]);
  }
  for (let round = 0; round < 4; round += 1) {
    const rank = new Map<string, number>();
    for (const column of columns) {
      (column ?? []).forEach((node, index) => rank.set(node.id, index / Math.max(1, column.length - 1)));
    }
    for (const column of columns) {
      const middle = new Map<string, number>();
      for (const node of column ?? []) {
        const ranks = (neighbours.get(node.id) ?? []).map((id) => rank.get(id) ?? 0);
        const sum = ranks.reduce((total, value) => total + value, 0);
        middle.set(node.id, ranks.length ? sum / ranks.length : 0);
      }
      column?.sort((a, b) => (middle.get(a.id) ?? 0) - (middle.get(b.id) ?? 0));
    }
  }
}
