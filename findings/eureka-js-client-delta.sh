#!/usr/bin/env bash
# eureka-js-client removes the wrong instance when a delta says that one left, and keeps one that a delta says is down.
#
# Library:  eureka-js-client 4.5.0 from npm, the usual Eureka client of Node.js, with shouldUseDelta.
# Expected: a delta with DELETED takes that instance out of the list of its application; a delta with MODIFIED and the
#           status DOWN takes it out too, as the client filters instances that are not UP if not told otherwise.
# Seen:     getInstancesByAppId loses the first instance, whichever left, because the index that is passed to splice is
#           a list of instances and counts as 0. getInstancesByVipAddress is right. A MODIFIED instance is stored without
#           the filter. The apps__hashcode that would show the difference is not read, so nothing repairs it.
# Output:   full: app a,b,c, vip a,b,c
#           delta DELETED b: app b,c, vip a,c
#           delta MODIFIED c to DOWN: vip a:UP,c:DOWN
# Matters:  to an operator: an application that asks by name calls an instance that is gone, and no longer one that
#           runs. To the author of a registry with Eureka's API: this client counts on
#           deltas that are exact, and shows no sign that it disagrees with them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y > init.log
npm install --silent --no-audit --no-fund eureka-js-client@4.5.0

cat > probe.js <<'JS'
const http = require('http');
const { Eureka } = require('eureka-js-client');

const instance = (id, actionType, status = 'UP') => ({
  instanceId: id, hostName: id, app: 'ORDERS', ipAddr: '127.0.0.1', vipAddress: 'orders', status, actionType,
  port: { $: 8080, '@enabled': 'true' }, dataCenterInfo: { name: 'MyOwn' },
});
const answer = (hash, instances) => JSON.stringify({ applications: {
  versions__delta: '1', apps__hashcode: hash, application: [{ name: 'ORDERS', instance: instances }],
} });
const deltas = [answer('UP_2_', [instance('b', 'DELETED')]), answer('DOWN_1_UP_1_', [instance('c', 'MODIFIED', 'DOWN')])];

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'application/json');
  response.end(request.url.endsWith('delta') ? deltas.shift()
    : answer('UP_3_', [instance('a', 'ADDED'), instance('b', 'ADDED'), instance('c', 'ADDED')]));
});
server.listen(0, '127.0.0.1', async () => {
  const client = new Eureka({
    shouldUseDelta: true,
    eureka: { host: '127.0.0.1', port: server.address().port, servicePath: '/eureka/apps/', registerWithEureka: false },
    instance: {},
  });
  client.logger.level('error');
  const fetched = () => new Promise((done, fail) => client.fetchRegistry((error) => (error ? fail(error) : done())));
  const names = (list) => list.map((one) => one.hostName).join(',');
  const states = (list) => list.map((one) => `${one.hostName}:${one.status}`).join(',');
  const app = () => client.getInstancesByAppId('ORDERS');
  const vip = () => client.getInstancesByVipAddress('orders');

  await fetched();
  const full = `app ${names(app())}, vip ${names(vip())}`;
  console.log(`full: ${full}`);
  await fetched();
  const deleted = `app ${names(app())}, vip ${names(vip())}`;
  console.log(`delta DELETED b: ${deleted}`);
  await fetched();
  const modified = `vip ${states(vip())}`;
  console.log(`delta MODIFIED c to DOWN: ${modified}`);
  server.close();

  const same = full === 'app a,b,c, vip a,b,c' && deleted === 'app b,c, vip a,c' && modified === 'vip a:UP,c:DOWN';
  if (!same) console.log('CHANGED: deltas are applied otherwise');
  process.exit(same ? 0 : 1);
});
JS

timeout 60 node probe.js
