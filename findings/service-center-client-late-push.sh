#!/usr/bin/env bash
# The Java client answers a push only when its next poll is due, because the thread that would answer it sleeps.
#
# Library:  org.apache.servicecomb:service-center-client 2.8.21 (used by java-chassis 2 and spring-cloud-huawei).
# Expected: an event of the watch makes the discovery ask for the instances at once. That is what a watch is for.
# Seen:     ServiceCenterDiscovery has one thread for its tasks, and the pause between two polls is such a task: it sleeps
#           there for the whole interval (15 s if not set). The pull that an event starts waits behind it. Only a
#           discovery whose polling was never started answers an event at once. 2.8.30 does not wait for an event that
#           names the application and the service, but still for one that does not name both.
# Output:   polling every 10 s, event 2 s after a poll: next find about 8 s after the event
#           polling not started: next find within a second after the event
# Matters:  to an operator: pushes that reach Java applications in milliseconds change their calls up to 15 s later, and a
#           shorter poll interval, not a faster registry, is what helps. To the author of a registry: give instances that
#           leave longer than one poll interval to finish their work.
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
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.ServiceCenterDiscovery;
import org.apache.servicecomb.service.center.client.ServiceCenterWatch;
import org.java_websocket.WebSocket;
import org.java_websocket.handshake.ClientHandshake;
import org.java_websocket.server.WebSocketServer;

public class Probe {
  static final String EVENT = "{\"action\":\"UPDATE\",\"key\":{\"appId\":\"shop\",\"serviceName\":\"orders\"},\"instance\":{}}";

  /** How long after the event the next find came, in milliseconds. */
  static long wait(boolean polling) throws Exception {
    LinkedBlockingQueue<Long> finds = new LinkedBlockingQueue<>();
    InetAddress here = InetAddress.getByName("127.0.0.1");
    HttpServer http = HttpServer.create(new InetSocketAddress(here, 0), 0);
    http.createContext("/v4/default/registry/instances", exchange -> {
      finds.add(System.nanoTime());
      byte[] body = "{\"instances\":[]}".getBytes();
      exchange.getResponseHeaders().add("X-Resource-Revision", "1");
      exchange.sendResponseHeaders(200, body.length);
      exchange.getResponseBody().write(body);
      exchange.close();
    });
    http.start();
    LinkedBlockingQueue<WebSocket> watches = new LinkedBlockingQueue<>();
    LinkedBlockingQueue<Integer> ready = new LinkedBlockingQueue<>();
    WebSocketServer sockets = new WebSocketServer(new InetSocketAddress(here, 0)) {
      @Override public void onOpen(WebSocket watch, ClientHandshake handshake) { watches.add(watch); }
      @Override public void onClose(WebSocket watch, int code, String reason, boolean remote) { }
      @Override public void onMessage(WebSocket watch, String message) { }
      @Override public void onError(WebSocket watch, Exception error) { }
      @Override public void onStart() { ready.add(getPort()); }
    };
    sockets.start();

    EventBus bus = new EventBus();
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    ServiceCenterClient client = new ServiceCenterClient(at(http.getAddress().getPort(), bus), plain,
        request -> Collections.emptyMap(), "default", Map.of());
    ServiceCenterDiscovery discovery = new ServiceCenterDiscovery(client, bus).setPollInterval(10_000);
    discovery.updateMyselfServiceId("me");
    new ServiceCenterWatch(at(ready.take(), bus), plain, request -> Collections.emptyMap(), "default", Map.of(), bus)
        .startWatch("default", "me");
    WebSocket watch = watches.take();
    discovery.registerIfNotPresent(new ServiceCenterDiscovery.SubscriptionKey("shop", "orders"));
    finds.take();
    if (polling) {
      discovery.startDiscovery();
      finds.take(); // its first poll
    }
    Thread.sleep(2000);
    long sent = System.nanoTime();
    watch.send(EVENT);
    Long find = finds.poll(20, TimeUnit.SECONDS);
    return find == null ? -1 : TimeUnit.NANOSECONDS.toMillis(find - sent);
  }

  static ServiceCenterAddressManager at(int port, EventBus bus) {
    return new ServiceCenterAddressManager("default", List.of("http://127.0.0.1:" + port), bus);
  }

  public static void main(String[] args) throws Exception {
    long polling = wait(true);
    long idle = wait(false);
    boolean late = polling > 6500 && polling < 9500;
    boolean quick = idle >= 0 && idle < 1000;
    System.out.println("polling every 10 s, event 2 s after a poll: next find "
        + (late ? "about 8 s" : polling + " ms") + " after the event");
    System.out.println("polling not started: next find " + (quick ? "within a second" : idle + " ms") + " after the event");
    if (!late || !quick) {
      System.out.println("CHANGED: an event is answered at another time");
    }
    System.exit(late && quick ? 0 : 1);
  }
}
JAVA

timeout 300 mvn -q -B -Dstyle.color=never compile org.codehaus.mojo:exec-maven-plugin:3.1.0:java -Dexec.mainClass=Probe
