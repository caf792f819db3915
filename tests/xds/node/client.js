// A gRPC client in Node.js that finds its servers over xDS.
//
//     client.js TARGET   calls for each line on the standard input; prints an answer for each
//
// Answers of calls that fail are `error`, the code and the words.
'use strict';

const readline = require('readline');
const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();
const { loadXxhashApi } = require('@grpc/grpc-js-xds/build/src/xxhash');

const METHOD = '/muster.test.Echo/Name';

const same = (bytes) => bytes;

function call(client) {
  return new Promise((done) => {
    const options = { deadline: Date.now() + 20_000 };
    client.makeUnaryRequest(METHOD, same, same, Buffer.alloc(0), options, (error, answer) => {
      done(error ? `error ${grpc.status[error.code]} ${JSON.stringify(error.details)}` : answer.toString());
    });
  });
}

async function main() {
  // As docs/xds.md says: otherwise the first state of endpoints may replace the second (findings/grpc-js-xds-first-states.sh).
  await loadXxhashApi();
  const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    console.log(await call(client));
  }
  process.exit(0);
}

main();
