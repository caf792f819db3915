#!/usr/bin/env bash
# The Java client forgets a provider's instances when the registry answers with an error, but not when it is gone.
#
# Library:  org.apache.servicecomb:service-center-client 2.8.21 (used by java-chassis 2 and spring-cloud-huawei).
# Expected: a poll that fails, however it fails, leaves the instances that are known.
# Seen:     ServiceCenterDiscovery keeps them only when no connection can be made. Every status but 200 and 304 (429, 500,
#           503, 401 and 403 were tried) removes the provider from its cache, so that getInstanceCache throws a
#           NullPointerException until the application subscribes again. 2.8.30 keeps the instances in all these cases.
# Output:   429: forgotten
#           500: forgotten
#           503: forgotten
#           401: forgotten
#           403: forgotten
#           nobody listens: kept
# Matters:  to an operator: a registry, or a proxy before it, that answers 503 for a second takes down calls between
#           applications that would have survived the end of the registry. To the author of a registry: shed the load of
#           finds with 304, or close the connection, while such clients are in use.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p src/main/java

cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>probe</groupId>
  <artifactId>probe</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.source>17</maven.compiler.source>
    <maven.compiler.target>17</maven.compiler.target>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencies>
    <dependency>
      <groupId>org.apache.servicecomb</groupId>
      <artifactId>service-center-client</artifactId>
      <version>2.8.21</version>
    </dependency>
    <dependency>
      <groupId>com.google.guava</groupId>
      <artifactId>failureaccess</artifactId>
      <version>1.0.1</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-nop</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
XML

cat > src/main/java/Probe.java <<'JAVA'
import com.google.common.eventbus.EventBus;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.ServiceCenterDiscovery;

public class Probe {
  static final String SERVICE = "{\"service\":{\"serviceId\":\"s1\",\"appId\":\"shop\",\"serviceName\":\"orders\",\"version\":\"1.0.0\"}}";
  static final String INSTANCES = "{\"instances\":[{\"instanceId\":\"i1\",\"serviceId\":\"s1\",\"status\":\"UP\","
      + "\"endpoints\":[\"rest://127.0.0.1:1\"]}]}";

  /** What is left of a list of one instance after polls that fail; the status 0 is a registry that is gone. */
  static String after(int failure) throws Exception {
    AtomicInteger status = new AtomicInteger(200);
    HttpServer http = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 0);
    http.createContext("/v4/default/registry/", exchange -> {
      boolean find = exchange.getRequestURI().getPath().endsWith("/instances");
      int code = find ? status.get() : 200;
      byte[] body = (code != 200 ? "{\"errorCode\":\"" + code + "001\"}" : find ? INSTANCES : SERVICE).getBytes();
      exchange.getResponseHeaders().add("X-Resource-Revision", "1");
      exchange.sendResponseHeaders(code, body.length);
      exchange.getResponseBody().write(body);
      exchange.close();
    });
    http.start();
    EventBus bus = new EventBus();
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    ServiceCenterClient client = new ServiceCenterClient(new ServiceCenterAddressManager("default",
        new ArrayList<>(List.of("http://127.0.0.1:" + http.getAddress().getPort())), bus), plain,
        request -> Collections.emptyMap(), "default", Map.of());
    ServiceCenterDiscovery discovery = new ServiceCenterDiscovery(client, bus).setPollInterval(1000);
    ServiceCenterDiscovery.SubscriptionKey key = new ServiceCenterDiscovery.SubscriptionKey("shop", "orders");
    discovery.updateMyselfServiceId("me");
    discovery.registerIfNotPresent(key);
    if (discovery.getInstanceCache(key).size() != 1) {
      throw new IllegalStateException("the instance was not found");
    }
    if (failure == 0) {
      http.stop(0);
    } else {
      status.set(failure);
    }
    discovery.startDiscovery();
    Thread.sleep(4000);
    String left;
    try {
      left = discovery.getInstanceCache(key).size() == 1 ? "kept" : "changed";
    } catch (NullPointerException none) {
      left = "forgotten";
    }
    discovery.stop();
    http.stop(0);
    return left;
  }

  public static void main(String[] args) throws Exception {
    boolean same = true;
    for (int failure : new int[] {429, 500, 503, 401, 403, 0}) {
      String left = after(failure);
      System.out.println((failure == 0 ? "nobody listens" : failure) + ": " + left);
      same = same && left.equals(failure == 0 ? "kept" : "forgotten");
    }
    if (!same) {
      System.out.println("CHANGED: other answers keep the instances, or forget them");
    }
    System.exit(same ? 0 : 1);
  }
}
JAVA

timeout 300 mvn -q -B -Dstyle.color=never compile org.codehaus.mojo:exec-maven-plugin:3.1.0:java -Dexec.mainClass=Probe
