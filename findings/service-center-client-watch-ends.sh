#!/usr/bin/env bash
# No usual end of its watch makes the Java client open it again, and a first connection that fails is tried once more only.
#
# Library:  org.apache.servicecomb:service-center-client 2.8.30 (used by java-chassis 2 and spring-cloud-huawei).
# Expected: a watch that ended is opened again, however it ended and however long the registry was away.
# Seen:     the client writes a warning when its watch ends by a close frame (1001, "going away"), by the end of the TCP
#           connection or by a reset, and does nothing else. Only what its WebSocket library reports as an error, as a
#           connection that cannot be made, has it try again, about three seconds later, and once: a registry that is away
#           for longer is never asked again.
# Output:   close frame 1001: 1 upgrades in 15 seconds
#           end of the connection: 1 upgrades in 15 seconds
#           reset: 1 upgrades in 15 seconds
#           registry there 1 s after the start of the client: 1 upgrades
#           registry there 6 s after the start of the client: 0 upgrades
# Matters:  to an operator: after each restart of a registry, Java applications learn of changes by polling only, until
#           they are restarted themselves. To the author of a registry: a watch that is ended politely, as at a drain, is
#           lost for this client, so end it some other way, and keep the client's polls cheap.
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
      <version>2.8.30</version>
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
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterWatch;

/** A registry that speaks just enough HTTP and WebSocket to end a watch in a chosen way. */
public class Probe {
  enum End { CLOSE_FRAME, FIN, RESET, STAY }

  static final class Registry {
    final AtomicInteger connections = new AtomicInteger();
    final ServerSocket listener;

    /** Each watch ends as told, two hundred milliseconds after it was opened. */
    Registry(int port, End end) throws Exception {
      listener = new ServerSocket();
      listener.setReuseAddress(true);
      listener.bind(new java.net.InetSocketAddress(InetAddress.getByName("127.0.0.1"), port));
      Thread thread = new Thread(() -> {
        try {
          while (true) {
            Socket socket = listener.accept();
            connections.incrementAndGet();
            serve(socket, end);
          }
        } catch (Exception closed) {
          // the probe closed the listener
        }
      });
      thread.setDaemon(true);
      thread.start();
    }

    private void serve(Socket socket, End end) throws Exception {
      BufferedReader lines = new BufferedReader(new InputStreamReader(socket.getInputStream()));
      String key = "";
      for (String line = lines.readLine(); line != null && !line.isEmpty(); line = lines.readLine()) {
        if (line.toLowerCase().startsWith("sec-websocket-key:")) {
          key = line.substring(line.indexOf(':') + 1).trim();
        }
      }
      OutputStream out = socket.getOutputStream();
      byte[] hash = MessageDigest.getInstance("SHA-1").digest((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes());
      out.write(("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
          + Base64.getEncoder().encodeToString(hash) + "\r\n\r\n").getBytes());
      out.flush();
      Thread.sleep(200);
      if (end == End.CLOSE_FRAME) {
        out.write(new byte[] {(byte) 0x88, 2, 0x03, (byte) 0xE9}); // a close frame with the code 1001
        out.flush();
        Thread.sleep(500);
        socket.close();
      } else if (end != End.STAY) {
        if (end == End.RESET) {
          socket.setSoLinger(true, 0);
        }
        socket.close();
      }
    }
  }

  static void watch(int port) {
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    EventBus bus = new EventBus();
    List<String> addresses = new ArrayList<>(List.of("http://127.0.0.1:" + port));
    new ServiceCenterWatch(new ServiceCenterAddressManager("default", addresses, "", "", bus), plain,
        request -> Collections.emptyMap(), "default", Map.of(), bus).startWatch("default", "me");
  }

  static Registry ending(End end) throws Exception {
    Registry registry = new Registry(0, end);
    watch(registry.listener.getLocalPort());
    return registry;
  }

  static int late(int seconds) throws Exception {
    ServerSocket free = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
    int port = free.getLocalPort();
    free.close();
    watch(port);
    Thread.sleep(seconds * 1000L);
    Registry registry = new Registry(port, End.STAY);
    Thread.sleep(15000);
    return registry.connections.get();
  }

  public static void main(String[] args) throws Exception {
    Registry polite = ending(End.CLOSE_FRAME);
    Registry ended = ending(End.FIN);
    Registry reset = ending(End.RESET);
    Thread.sleep(15000);
    System.out.println("close frame 1001: " + polite.connections + " upgrades in 15 seconds");
    System.out.println("end of the connection: " + ended.connections + " upgrades in 15 seconds");
    System.out.println("reset: " + reset.connections + " upgrades in 15 seconds");
    int soon = late(1);
    System.out.println("registry there 1 s after the start of the client: " + soon + " upgrades");
    int late = late(6);
    System.out.println("registry there 6 s after the start of the client: " + late + " upgrades");
    boolean same = polite.connections.get() == 1 && ended.connections.get() == 1 && reset.connections.get() == 1
        && soon == 1 && late == 0;
    if (!same) {
      System.out.println("CHANGED: the watch comes back in other cases");
    }
    System.exit(same ? 0 : 1);
  }
}
JAVA

timeout 300 mvn -q -B -Dstyle.color=never compile org.codehaus.mojo:exec-maven-plugin:3.1.0:java -Dexec.mainClass=Probe
