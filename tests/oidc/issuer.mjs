// An OpenID Connect issuer (the library oidc-provider) for the tests of tokens of an external issuer.
//
// In: a folder with certificate.pem and key.pem, for localhost. Out: a line "READY ISSUER LOGIN" with the address of the
// issuer and the one at which programs log in, the same server without TLS. A line on the standard input changes the keys
// and is answered with the same line: "rotate" signs with a new key and goes on publishing the old one, "retire" publishes
// the new one alone.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const GROUPS = { builder: ['engineers', 'everybody'], guest: ['admin'] };

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

function provider(issuer, keys) {
  return new Provider(issuer, {
    jwks: { keys },
    clients: Object.keys(GROUPS).map((name) => ({
      client_id: name,
      client_secret: 'secret',
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
    })),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // The path of the resource is the audience, and the query the time for which a token lives.
        getResourceServerInfo: (_, resource) => {
          const url = new URL(resource);
          return {
            scope: '',
            audience: url.pathname.slice(1),
            accessTokenTTL: Number(url.searchParams.get('seconds')),
            accessTokenFormat: 'jwt',
            jwt: { sign: { alg: 'RS256' } },
          };
        },
      },
    },
    extraTokenClaims: (_, token) => ({ preferred_username: token.clientId, groups: GROUPS[token.clientId] }),
  });
}

const folder = process.argv[2];
const read = (name) => readFileSync(`${folder}/${name}.pem`);
let handle;
const answer = (request, response) => handle(request, response);
const secure = https.createServer({ cert: read('certificate'), key: read('key') }, answer);
const plain = http.createServer(answer);
const listening = (server) =>
  new Promise((done) => server.listen(0, '127.0.0.1', () => done(server.address().port)));
const issuer = `https://localhost:${await listening(secure)}`;
const login = `127.0.0.1:${await listening(plain)}`;

let keys = [newKey()];
const publish = () => {
  handle = provider(issuer, keys).callback();
};
publish();
console.log(`READY ${issuer} ${login}`);
for await (const line of createInterface({ input: process.stdin })) {
  keys = line === 'rotate' ? [newKey(), ...keys] : keys.slice(0, 1);
  publish();
  console.log(line);
}
process.exit(0);
