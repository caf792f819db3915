#!/usr/bin/env bash
# nacos-naming takes a list that is older than the one it has, and refuses a newer one that is empty.
#
# Library:  nacos-naming 2.6.3 from npm, the client of Nacos for Node.js.
# Expected: lastRefTime tells lists apart: an older one is dropped, a newer one is taken, also if no host is left in it.
# Seen:     an older list is met with the warning "out of date data received", and then taken. A newer list without hosts
#           is dropped without a word, so the last hosts stay for as long as the application runs.
# Output:   list of 200: a,b
#           then a list of 100 with a alone: a, warned: true
#           then a list of 300 without hosts: a
# Matters:  to the author of a registry: never send a state that is behind one already sent, as from a member of a cluster
#           that lags; the number in it helps nobody. To an operator: an application in Node.js calls the last hosts of a
#           service that was taken away until it restarts.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y > init.log
npm install --silent --no-audit --no-fund nacos-naming@2.6.3

cat > probe.js <<'JS'
const http = require('http');
const { NacosNamingClient } = require('nacos-naming');

const host = (ip) => ({ ip, port: 8080, weight: 1, valid: true, healthy: true, enabled: true, metadata: {} });
const list = (lastRefTime, ...ips) => JSON.stringify({
  name: 'DEFAULT_GROUP@@orders', clusters: 'DEFAULT', cacheMillis: 1000, lastRefTime, checksum: '', hosts: ips.map(host),
});
const names = { '127.0.0.11': 'a', '127.0.0.12': 'b' };
let current = list(200, '127.0.0.11', '127.0.0.12');
let asked = 0;
const server = http.createServer((request, response) => {
  if (request.url.includes('/instance/list')) asked += 1;
  response.setHeader('Content-Type', 'application/json');
  response.end(request.url.includes('/instance/list') ? current : '{}');
});
const pause = (time) => new Promise((done) => setTimeout(done, time));

server.listen(0, '127.0.0.1', async () => {
  const warnings = [];
  const logger = { info() {}, debug() {}, error: console.error, warn: (line) => warnings.push(line), log() {} };
  const client = new NacosNamingClient({ logger, serverList: `127.0.0.1:${server.address().port}`, namespace: 'public' });
  await client.ready();
  let hosts = [];
  client.subscribe('orders', (now) => { hosts = now; });
  const after = async (next) => {
    if (next) current = next;
    const until = asked + (next ? 3 : 1);
    while (asked < until) await pause(50);
    await pause(300);
    return hosts.map((one) => names[one.ip]).join(',');
  };
  const first = await after(null);
  console.log(`list of 200: ${first}`);
  const older = await after(list(100, '127.0.0.11'));
  const warned = warnings.some((line) => line.includes('out of date data received'));
  console.log(`then a list of 100 with a alone: ${older}, warned: ${warned}`);
  const empty = await after(list(300));
  console.log(`then a list of 300 without hosts: ${empty}`);
  const same = first === 'a,b' && older === 'a' && warned && empty === 'a';
  if (!same) console.log('CHANGED: lists are taken in another order, or down to none');
  process.exit(same ? 0 : 1);
});
JS

timeout 60 node probe.js
