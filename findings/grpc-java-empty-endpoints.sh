#!/usr/bin/env bash
# gRPC for Java goes on calling the last server of a cluster after xDS has told that there is none any more.
#
# Library:  grpc-java 1.85.1 from Maven Central, beside grpcio 1.85.3 from PyPI (the client of C++), on the same answers.
# Expected: a ClusterLoadAssignment without endpoints, which the client has acknowledged, leaves nothing to call: calls
#           fail with UNAVAILABLE until there are endpoints again.
# Seen:     calls in Python fail so. In Java the empty list becomes an error of name resolution, and the policies below
#           keep their connections in such a case. Calls go to the server that was removed, for as long as it answers.
# Output:   Python, then without endpoints: answered, UNAVAILABLE
#           Java, then without endpoints: answered, answered
# Matters:  to an operator: the last instance of a service that is taken out of service, or leaves, gets calls from Java
#           until its process ends. Let it refuse them, or start another instance first.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.3 xds-protos==1.85.0

cat > pom.xml <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>probe</groupId>
  <artifactId>probe</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.source>17</maven.compiler.source>
    <maven.compiler.target>17</maven.compiler.target>
  </properties>
  <dependencies>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-xds</artifactId><version>1.85.1</version></dependency>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-netty-shaded</artifactId><version>1.85.1</version></dependency>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-stub</artifactId><version>1.85.1</version></dependency>
  </dependencies>
</project>
POM

mkdir -p src/main/java
cat > src/main/java/Client.java <<'JAVA'
import io.grpc.CallOptions;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.util.concurrent.TimeUnit;

public final class Client implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] bytes) {
        return new ByteArrayInputStream(bytes);
    }

    @Override
    public byte[] parse(InputStream stream) {
        try {
            return stream.readAllBytes();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    public static void main(String[] arguments) throws IOException {
        MethodDescriptor<byte[], byte[]> method = MethodDescriptor.<byte[], byte[]>newBuilder()
            .setType(MethodDescriptor.MethodType.UNARY).setFullMethodName("orders/Get")
            .setRequestMarshaller(new Client()).setResponseMarshaller(new Client()).build();
        ManagedChannel channel =
            Grpc.newChannelBuilder("xds:///orders", InsecureChannelCredentials.create()).build();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        while (lines.readLine() != null) {
            CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(5, TimeUnit.SECONDS);
            try {
                System.out.println(new String(ClientCalls.blockingUnaryCall(channel, method, options, new byte[0])));
            } catch (StatusRuntimeException error) {
                System.out.println(error.getStatus().getCode());
            }
        }
        System.exit(0);
    }
}
JAVA
mvn -q -B compile org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies

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

    def __init__(self, command, port):
        server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
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
for name, command, last in [
        ("Python", [sys.executable, __file__, "client"], "UNAVAILABLE"),
        ("Java", ["java", "-cp", "target/classes:target/dependency/*", "Client"], "answered")]:
    discovery = Discovery(listener(), cluster(), endpoints([port]))
    _, xds = serve(lambda server: ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server))
    client = Client(command, xds)
    first = client.settles("answered")
    discovery.change(endpoints([]).type_url, endpoints([]))
    then = client.settles("UNAVAILABLE")
    client.process.kill()
    print(f"{name}, then without endpoints: {first}, {then}")
    same = same and (first, then) == ("answered", last)
if not same:
    print("CHANGED: an empty list is read otherwise")
sys.stdout.flush()
os._exit(0 if same else 1)
PY
timeout 120 python/bin/python probe.py
