/** Fills a registry with something to look at. */

const NAMES = ["gateway", "order", "cart", "payment", "stock", "user", "mail", "price", "search", "review", "invoice", "risk"];
const DEPENDENCIES = [
  ["gateway", "order"], ["gateway", "cart"], ["gateway", "search"], ["gateway", "user"], ["order", "payment"],
  ["order", "stock"], ["order", "user"], ["cart", "price"], ["cart", "stock"], ["payment", "risk"],
  ["payment", "invoice"], ["invoice", "mail"], ["search", "price"], ["review", "user"], ["order", "mail"],
];
const SCHEMA = `swagger: "2.0"
info: { title: orders, version: 1.0.0 }
paths:
  /orders/{id}:
    get:
      operationId: getOrder
      parameters: [{ name: id, in: path, required: true, type: string }]
      responses: { 200: { description: the order } }
`;

export class Client {
  constructor(server, token) {
    this.server = server;
    this.token = token;
  }

  async call(method, path, body) {
    const headers = { "Content-Type": "application/json" };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    const send = () => fetch(`${this.server}${path}`, { method, headers, body: body && JSON.stringify(body) });
    // A connection that was kept may belong to a process that a case has killed.
    const answer = await send().catch((error) => (error.cause?.code === "UND_ERR_SOCKET" ? send() : Promise.reject(error)));
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : {};
  }

  async service(serviceName, appId, version = "1.0.0", more = {}) {
    const service = { serviceName, appId, version, environment: "production", level: "MIDDLE", ...more };
    return (await this.call("POST", "/v4/default/registry/microservices", { service })).serviceId;
  }

  async instance(serviceId, number, status = "UP", properties = {}) {
    const instance = {
      hostName: `node-${number % 9}`,
      endpoints: [`rest://10.1.${number % 9}.${(number % 250) + 1}:8080`],
      status,
      properties,
      dataCenterInfo: { name: "dc1", region: "north", availableZone: `zone-${"abc"[number % 3]}` },
      // Nobody sends heartbeats for these.
      healthCheck: { mode: "push", interval: 3600, times: 3 },
    };
    return (await this.call("POST", `/v4/default/registry/microservices/${serviceId}/instances`, { instance })).instanceId;
  }

  setStatus(serviceId, instanceId, status) {
    return this.call("PUT", `/v4/default/registry/microservices/${serviceId}/instances/${instanceId}/status?value=${status}`);
  }
}

/** A shop with two dozen instances; the ids by name. */
export async function shop(client) {
  const services = {};
  let number = 0;
  for (const name of NAMES) {
    const id = await client.service(name, name === "mail" || name === "risk" ? "platform" : "shop", "1.0.0", {
      description: `The ${name} service of the shop`,
      schemas: name === "order" ? ["orders"] : undefined,
      properties: { allowCrossApp: "true", team: name.slice(0, 1) },
    });
    services[name] = { id, instances: [] };
    const count = name === "review" ? 0 : 1 + (name.length % 4);
    for (let index = 0; index < count; index += 1) {
      number += 1;
      const status = name === "stock" && index === 1 ? "OUTOFSERVICE" : name === "risk" && index === 0 ? "DOWN" : "UP";
      services[name].instances.push(await client.instance(id, number, status, { stage: index ? "blue" : "green" }));
    }
  }
  const dependencies = DEPENDENCIES.map(([consumer, provider]) => ({
    consumer: key(consumer),
    providers: [{ ...key(provider), version: "0+" }],
  }));
  await client.call("POST", "/v4/default/registry/dependencies", { dependencies });
  const order = `/v4/default/registry/microservices/${services.order.id}`;
  await client.call("PUT", `${order}/schemas/orders`, { schemaId: "orders", schema: SCHEMA, summary: "s1" });
  await client.call("POST", `${order}/tags`, { tags: { tier: "gold" } });
  await client.call("POST", `${order}/rules`, {
    rules: [{ ruleType: "BLACK", attribute: "ServiceName", pattern: "legacy.*", description: "old callers" }],
  });
  await client.service("order", "shop", "1.1.0");
  const override = (name, wish) => client.call("PUT", "/v4/default/registry/overrides", { serviceId: services[name].id, ...wish });
  await override("search", { weight: 20, metadata: { cache: "cold" }, reason: "the cache is warming up", seconds: 7200 });
  await override("payment", { zone: "zone-b", status: "OUTOFSERVICE", reason: "work on the power of zone-b" });
  return services;
}

function key(serviceName) {
  const appId = serviceName === "mail" || serviceName === "risk" ? "platform" : "shop";
  return { environment: "production", appId, serviceName, version: "1.0.0" };
}

/** Many services with many instances, `at` requests at once. */
export async function many(client, services, each, at = 40) {
  const ids = [];
  await inParallel(services, at, async (index) => {
    ids[index] = await client.service(`service-${index}`, `app-${index % 40}`);
  });
  await inParallel(services * each, at, (index) => client.instance(ids[index % services], index));
  return ids;
}

async function inParallel(count, at, act) {
  let next = 0;
  const work = async () => {
    for (let index = next++; index < count; index = next++) await act(index);
  };
  await Promise.all(Array.from({ length: at }, work));
}
