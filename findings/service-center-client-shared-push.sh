#!/usr/bin/env bash
# Two Java clients in one process: while one of them asks for instances, the other one drops its pushes.
#
# Library:  org.apache.servicecomb:service-center-client 2.8.21 (used by java-chassis 2 and spring-cloud-huawei).
# Expected: each ServiceCenterDiscovery answers the events of its own watch with a find of its own.
# Seen:     the flag that says that such a find is under way is shared by all objects of the class. An event that comes to
#           one discovery while another one waits for its answer leads to no find at all, then or later.
# Output:   the other one waits for its answer: no find within 5 s
#           nobody waits: a find within a second
# Matters:  to applications with two registries, or two environments of one, in a process: a slow answer of one delays the
#           changes of the other until its next poll. To tests of a registry: clients belong into processes of their own.
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

  /** A discovery with a registry and a watch of its own. */
  static class Application {
    final LinkedBlockingQueue<Long> finds = new LinkedBlockingQueue<>();
    final WebSocket watch;
    volatile long answersAfter;

    Application() throws Exception {
      InetAddress here = InetAddress.getByName("127.0.0.1");
      HttpServer http = HttpServer.create(new InetSocketAddress(here, 0), 0);
      http.createContext("/v4/default/registry/instances", exchange -> {
        finds.add(System.nanoTime());
        try {
          Thread.sleep(answersAfter);
        } catch (InterruptedException e) {
          throw new IllegalStateException(e);
        }
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
      ServiceCenterDiscovery discovery = new ServiceCenterDiscovery(client, bus).setPollInterval(600_000);
      discovery.updateMyselfServiceId("me");
      new ServiceCenterWatch(at(ready.take(), bus), plain, request -> Collections.emptyMap(), "default", Map.of(), bus)
          .startWatch("default", "me");
      watch = watches.take();
      discovery.registerIfNotPresent(new ServiceCenterDiscovery.SubscriptionKey("shop", "orders"));
      finds.take();
    }

    /** Sends an event, and returns how long after it a find came: in milliseconds, or -1 for never. */
    long find(int seconds) throws Exception {
      finds.clear();
      long sent = System.nanoTime();
      watch.send(EVENT);
      Long find = finds.poll(seconds, TimeUnit.SECONDS);
      return find == null ? -1 : TimeUnit.NANOSECONDS.toMillis(find - sent);
    }
  }

  static ServiceCenterAddressManager at(int port, EventBus bus) {
    return new ServiceCenterAddressManager("default", List.of("http://127.0.0.1:" + port), bus);
  }

  public static void main(String[] args) throws Exception {
    Application slow = new Application();
    Application other = new Application();
    Thread.sleep(1000);
    slow.answersAfter = 2000;
    boolean asked = slow.find(5) >= 0;
    long meanwhile = other.find(5);
    long afterwards = other.find(5);
    boolean dropped = asked && meanwhile < 0;
    boolean quick = afterwards >= 0 && afterwards < 1000;
    System.out.println("the other one waits for its answer: " + (dropped ? "no find within 5 s" : "a find after " + meanwhile + " ms"));
    System.out.println("nobody waits: " + (quick ? "a find within a second" : afterwards + " ms"));
    if (!dropped || !quick) {
      System.out.println("CHANGED: an event is answered at another time");
    }
    System.exit(dropped && quick ? 0 : 1);
  }
}
JAVA

timeout 300 mvn -q -B -Dstyle.color=never compile org.codehaus.mojo:exec-maven-plugin:3.1.0:java -Dexec.mainClass=Probe
