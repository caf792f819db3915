#!/usr/bin/env bash
# gRPC for Node.js can take the first two states that xDS tells it in the wrong order, and keep the older one.
#
# Library:  @grpc/grpc-js-xds 1.14.1 with @grpc/grpc-js 1.14.7 from npm, beside grpcio 1.85.3 from PyPI, on the same answers.
# Expected: endpoints that are told later replace those that were told earlier, however shortly one follows the other.
# Seen:     in Node.js each state waits for a hash function (xxhash-wasm) that is compiled when the first state arrives. A
#           state that arrives meanwhile has it compiled a second time, and whichever is ready first is applied first. If
#           that is the later state, the earlier one replaces it and stays until addresses, health or weights change
#           again (a change of metadata alone is passed over): here none, so that every call fails ("priority policy has empty priority list"). Later states keep their order. They keep it
#           from the beginning if the function is loaded before the first call.
# Output:   Python: answered
#           Node.js, 10 processes: some keep the older endpoints
#           Node.js with the function loaded before, 10 processes: none keep the older endpoints
# Matters:  to an operator: a service whose first instance registers right after the service itself is not called by a
#           process of Node.js that waited for it, until another change. Let the program await
#           require('@grpc/grpc-js-xds/build/src/xxhash').loadXxhashApi() before it opens a channel.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.3 xds-protos==1.85.0
npm init -y > init.log
npm install --silent --no-audit --no-fund @grpc/grpc-js@1.14.7 @grpc/grpc-js-xds@1.14.1

cat > client.js <<'JS'
const readline = require('readline');
const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();
const { loadXxhashApi } = require('@grpc/grpc-js-xds/build/src/xxhash');

const same = (bytes) => bytes;
const isLoadedBefore = process.argv[2] === 'loaded';
(isLoadedBefore ? loadXxhashApi() : Promise.resolve()).then(() => {
  const client = new grpc.Client('xds:///orders', grpc.credentials.createInsecure());
  readline.createInterface({ input: process.stdin }).on('line', () => {
    const options = { deadline: Date.now() + 5000 };
    client.makeUnaryRequest('/orders/Get', same, same, Buffer.alloc(0), options, (error, answer) => {
      console.log(error ? grpc.status[error.code] : answer.toString());
    });
  });
});
JS

cat > probe.py <<'PY'
import concurrent.futures, json, os, subprocess, sys, time
import grpc
from google.protobuf import any_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

PROCESSES = 10


def packed(message):
    box = any_pb2.Any()
    box.Pack(message)
    return box


def serve(prepare):
    """Starts a gRPC server, and returns it with its port."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
    prepare(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


class Everything(grpc.GenericRpcHandler):
    """A server that answers each call."""

    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"answered")


def listener():
    router = packed(router_pb2.Router())
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="orders")
    manager.http_filters.add(name="router").typed_config.CopyFrom(router)
    route = manager.route_config.virtual_hosts.add(name="all", domains=["*"]).routes.add()
    route.match.CopyFrom(route_components_pb2.RouteMatch(prefix=""))
    route.route.cluster = "orders"
    listener = listener_pb2.Listener(name="orders")
    listener.api_listener.api_listener.Pack(manager)
    return packed(listener)


def cluster():
    cluster = cluster_pb2.Cluster(name="orders", type="EDS")
    source = config_source_pb2.ConfigSource(ads=config_source_pb2.AggregatedConfigSource(), resource_api_version="V3")
    cluster.eds_cluster_config.eds_config.CopyFrom(source)
    return packed(cluster)


def endpoints(ports):
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name="orders")
    for port in ports:
        locality = assignment.endpoints.add()
        locality.locality.zone = "here"
        locality.load_balancing_weight.value = 1
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return packed(assignment)


class Discovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Tells who asks for endpoints at once two states of them: none, and then one."""

    def __init__(self, port):
        self.states = {resource.type_url: [resource] for resource in (listener(), cluster())}
        self.states[endpoints([]).type_url] = [endpoints([]), endpoints([port])]

    def StreamAggregatedResources(self, requests, context):
        asked = set()
        for request in requests:
            if request.HasField("error_detail"):
                print("refused:", request.error_detail.message)
            if not request.resource_names or request.type_url in asked:
                continue
            asked.add(request.type_url)
            for version, state in enumerate(self.states[request.type_url]):
                yield discovery_pb2.DiscoveryResponse(
                    version_info=str(version), nonce=str(version), type_url=request.type_url, resources=[state])


class Client:
    """A client in a process of its own, which calls once for each line that it reads."""

    def __init__(self, command, port):
        server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}],
                  "server_features": ["xds_v3"]}
        bootstrap = json.dumps({"node": {"id": "probe", "locality": {}}, "xds_servers": [server]})
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def call(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def settles(self, expected):
        """Calls until this is the outcome, for 3 s; the last outcome."""
        until = time.monotonic() + 3
        while (outcome := self.call()) != expected and time.monotonic() < until:
            time.sleep(0.2)
        return outcome


def by_python():
    with grpc.insecure_channel("xds:///orders") as channel:
        method = channel.unary_unary("/orders/Get")
        for _ in sys.stdin:
            try:
                print(method(b"", timeout=5).decode(), flush=True)
            except grpc.RpcError as error:
                print(error.code().name, flush=True)


if len(sys.argv) > 1:
    by_python()
    sys.exit()


def outcome(command):
    """The outcome in a process of its own, after its calls have had time to settle."""
    client = Client(command, xds)
    try:
        return client.settles("answered")
    finally:
        client.process.kill()


# Both servers are kept: one that nobody holds ends.
backend, port = serve(lambda server: server.add_generic_rpc_handlers([Everything()]))
discovery = Discovery(port)
control, xds = serve(lambda server: ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server))
python = outcome([sys.executable, __file__, "client"])
print(f"Python: {python}")
same = python == "answered"
for name, arguments, expected in [("Node.js", [], True), ("Node.js with the function loaded before", ["loaded"], False)]:
    lost = sum(outcome(["node", "client.js", *arguments]) != "answered" for _ in range(PROCESSES))
    print(f"{name}, {PROCESSES} processes: {'some' if lost else 'none'} keep the older endpoints")
    same = same and (lost > 0) == expected
if not same:
    print("CHANGED: the first states are taken otherwise")
sys.stdout.flush()
os._exit(0 if same else 1)
PY
timeout 150 python/bin/python probe.py
