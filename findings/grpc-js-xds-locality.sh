#!/usr/bin/env bash
# gRPC for Node.js reads no xDS bootstrap without a locality, and the error names neither the locality nor the bootstrap.
#
# Library:  @grpc/grpc-js-xds 1.14.1 with @grpc/grpc-js 1.14.7 from npm.
# Expected: node.locality is optional in the bootstrap, as it is in xDS and for gRPC in Go, Java and C++. Where a client
#           needs it nevertheless, its error says so.
# Seen:     without the field no name is resolved, no server is asked, and each call fails with the error of a null
#           pointer. The reason is reported before that and lost. With an empty locality the server is asked.
# Output:   without a locality: 0 streams, Cannot read properties of null (reading 'clientDefaultListenerResourceNameTemplate')
#           with an empty locality: 1 streams
# Matters:  to an operator: write "locality": {} into a bootstrap that Node.js reads, even where nothing has a place.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y > init.log
npm install --silent --no-audit --no-fund @grpc/grpc-js@1.14.7 @grpc/grpc-js-xds@1.14.1

cat > client.js <<'JS'
const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();

const same = (bytes) => bytes;
const client = new grpc.Client('xds:///orders', grpc.credentials.createInsecure());
const options = { deadline: Date.now() + 5000 };
client.makeUnaryRequest('/orders/Get', same, same, Buffer.alloc(0), options, (error) => {
  console.log(error.details);
  process.exit(0);
});
JS

cat > probe.js <<'JS'
const { execFile } = require('child_process');
const grpc = require('@grpc/grpc-js');

const METHOD = '/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources';
const same = (bytes) => bytes;
let streams = 0;
const server = new grpc.Server();
const method = { path: METHOD, requestStream: true, responseStream: true, requestDeserialize: same, requestSerialize: same,
  responseDeserialize: same, responseSerialize: same };
// The stream stays open and nothing is ever told.
server.addService({ stream: method }, { stream: () => { streams += 1; } });

function run(bootstrap) {
  return new Promise((done) => {
    streams = 0;
    const env = { ...process.env, GRPC_XDS_BOOTSTRAP_CONFIG: JSON.stringify(bootstrap) };
    execFile(process.execPath, ['client.js'], { env }, (error, out) => done({ streams, words: out.trim() }));
  });
}

server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), async (error, port) => {
  const servers = [{ server_uri: `127.0.0.1:${port}`, channel_creds: [{ type: 'insecure' }], server_features: ['xds_v3'] }];
  const without = await run({ xds_servers: servers, node: { id: 'probe' } });
  const reason = without.words.split(': ').pop();
  console.log(`without a locality: ${without.streams} streams, ${reason}`);
  const empty = await run({ xds_servers: servers, node: { id: 'probe', locality: {} } });
  console.log(`with an empty locality: ${empty.streams} streams`);
  const same = without.streams === 0 && reason.startsWith('Cannot read properties of null') && empty.streams === 1;
  if (!same) console.log('CHANGED: a bootstrap without a locality is read otherwise');
  process.exit(same ? 0 : 1);
});
JS

timeout 60 node probe.js
