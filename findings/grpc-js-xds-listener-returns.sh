#!/usr/bin/env bash
# gRPC for Node.js takes no notice of an xDS listener that was gone and comes back as it was.
#
# Library:  @grpc/grpc-js-xds 1.14.1 with @grpc/grpc-js 1.14.7 from npm, beside grpcio 1.85.3 from PyPI, on the same answers.
# Expected: a listener that an answer of the state of the world leaves out does not exist, and calls fail. When a later
#           answer has it again, calls succeed again.
# Seen:     in Node.js the old content stays in the cache under the mark that it does not exist. The listener that
#           returns is compared with that, found equal, acknowledged and passed to nobody: every later call of the process
#           fails. Another content, or a new process, helps. With the server feature ignore_resource_deletion nothing is
#           ever gone, and nothing is lost.
# Output:   Python, gone, back: answered, UNAVAILABLE, answered
#           Node.js, gone, back: answered, UNAVAILABLE, UNAVAILABLE
#           Node.js with ignore_resource_deletion, gone, back: answered, answered, answered
# Matters:  to an operator: name ignore_resource_deletion in the bootstrap, or a service that is deleted and registered
#           anew is never called again. To the author of a control plane: a listener that may return should differ.
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

const same = (bytes) => bytes;
const client = new grpc.Client('xds:///orders', grpc.credentials.createInsecure());
readline.createInterface({ input: process.stdin }).on('line', () => {
  const options = { deadline: Date.now() + 5000 };
  client.makeUnaryRequest('/orders/Get', same, same, Buffer.alloc(0), options, (error, answer) => {
    console.log(error ? grpc.status[error.code] : answer.toString());
  });
});
JS

cat > probe.py <<'PY'
import concurrent.futures, json, os, queue, subprocess, sys, threading, time
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
    """The state of the world, which changes; every stream is told each change of what it has asked for."""

    def __init__(self, *resources):
        self.told = {resource.type_url: [resource] for resource in resources}
        self.version = 1
        self.streams = []
        self.acknowledged = set()

    def change(self, type_url, *resources):
        """Changes the resources of a type, and waits until the client has acknowledged them."""
        self.version += 1
        self.told[type_url] = list(resources)
        for answers, asked in self.streams:
            if type_url in asked:
                answers.put(type_url)
        until = time.monotonic() + 20
        while (type_url, str(self.version)) not in self.acknowledged:
            assert time.monotonic() < until, "the client does not acknowledge"
            time.sleep(0.05)

    def StreamAggregatedResources(self, requests, context):
        answers, asked = queue.Queue(), set()
        self.streams.append((answers, asked))

        def read():
            try:
                for request in requests:
                    if request.HasField("error_detail"):
                        print("refused:", request.error_detail.message)
                    elif request.response_nonce:
                        self.acknowledged.add((request.type_url, request.version_info))
                    if request.resource_names and request.type_url not in asked:
                        asked.add(request.type_url)
                        answers.put(request.type_url)
                    elif not request.resource_names:
                        asked.discard(request.type_url)
            except grpc.RpcError:
                pass  # the client is gone

        threading.Thread(target=read, daemon=True).start()
        while True:
            type_url = answers.get()
            yield discovery_pb2.DiscoveryResponse(
                version_info=str(self.version), nonce=str(self.version), type_url=type_url,
                resources=self.told.get(type_url, []))


class Client:
    """A client in a process of its own, which calls once for each line that it reads."""

    def __init__(self, command, port, features):
        server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}],
                  "server_features": ["xds_v3", *features]}
        bootstrap = json.dumps({"node": {"id": "probe", "locality": {}}, "xds_servers": [server]})
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def call(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def settles(self, expected):
        """Calls until this is the outcome, for 10 s; the last outcome."""
        until = time.monotonic() + 10
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


server, port = serve(lambda server: server.add_generic_rpc_handlers([Everything()]))
same = True
python, node = [sys.executable, __file__, "client"], ["node", "client.js"]
for name, command, features, expected in [
        ("Python", python, [], ("answered", "UNAVAILABLE", "answered")),
        ("Node.js", node, [], ("answered", "UNAVAILABLE", "UNAVAILABLE")),
        ("Node.js with ignore_resource_deletion", node, ["ignore_resource_deletion"], ("answered",) * 3)]:
    discovery = Discovery(listener(), cluster(), endpoints([port]))
    _, xds = serve(lambda server: ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server))
    client = Client(command, xds, features)
    first = client.settles("answered")
    discovery.change(listener().type_url)
    gone = client.settles("UNAVAILABLE")
    discovery.change(listener().type_url, listener())
    back = client.settles("answered")
    client.process.kill()
    print(f"{name}, gone, back: {first}, {gone}, {back}")
    same = same and (first, gone, back) == expected
if not same:
    print("CHANGED: a listener that returns is read otherwise")
sys.stdout.flush()
os._exit(0 if same else 1)
PY
timeout 120 python/bin/python probe.py
