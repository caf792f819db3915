#!/usr/bin/env bash
# The Java client finds the header X-Resource-Revision only when it is written in exactly these letters.
#
# Library:  org.apache.servicecomb:service-center-client 2.8.30 (used by java-chassis 2 and spring-cloud-huawei).
# Expected: the names of HTTP headers are the same in any case (RFC 9110, 5.1), so x-resource-revision is the revision too.
# Seen:     the client keeps the headers of an answer in a map by their names as received. With any other spelling the
#           revision is null: every find that follows sends an empty rev, so the registry cannot answer 304, and the
#           whole list is sent at each poll of each application. Nothing says so.
# Output:   X-Resource-Revision: revision 7, next find sent rev=7 and was answered 304: true
#           x-resource-revision: revision null, next find sent rev= and was answered 304: false
# Matters:  to the author of a registry: many HTTP libraries write names in lower case or capitalise them in their own way
#           (Go's happens to write this one as needed), so set the letters explicitly. To an operator: a proxy that rewrites
#           header names before a registry multiplies the traffic of finds.
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
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.model.FindMicroserviceInstancesResponse;
import org.springframework.core.env.StandardEnvironment;

public class Probe {
  static volatile String sent; // the revision in the latest request

  static ServerSocket registry(String header) throws Exception {
    ServerSocket listener = new ServerSocket(0, 5, InetAddress.getByName("127.0.0.1"));
    Thread thread = new Thread(() -> {
      try {
        while (true) {
          Socket socket = listener.accept();
          BufferedReader lines = new BufferedReader(new InputStreamReader(socket.getInputStream()));
          String target = lines.readLine().split(" ")[1];
          sent = target.substring(target.indexOf("&rev=") + "&rev=".length());
          for (String line = lines.readLine(); !line.isEmpty(); line = lines.readLine()) { }
          String body = "{\"instances\":[]}";
          String answer = sent.equals("7")
              ? "HTTP/1.1 304 Not Modified\r\n" + header + ": 7\r\nConnection: close\r\n\r\n"
              : "HTTP/1.1 200 OK\r\n" + header + ": 7\r\nContent-Type: application/json\r\nContent-Length: "
                  + body.length() + "\r\nConnection: close\r\n\r\n" + body;
          socket.getOutputStream().write(answer.getBytes());
          socket.close();
        }
      } catch (Exception closed) {
        // the probe closed the listener
      }
    });
    thread.setDaemon(true);
    thread.start();
    return listener;
  }

  static String twice(String header) throws Exception {
    try (ServerSocket registry = registry(header)) {
      SSLProperties plain = new SSLProperties();
      plain.setEnabled(false);
      List<String> addresses = new ArrayList<>(List.of("http://127.0.0.1:" + registry.getLocalPort()));
      ServiceCenterClient client = new ServiceCenterClient(
          new ServiceCenterAddressManager("default", addresses, "", "", new EventBus()), plain,
          request -> Collections.emptyMap(), "default", Map.of(), new StandardEnvironment());
      FindMicroserviceInstancesResponse first = client.findMicroserviceInstance("me", "shop", "orders", "0+", null);
      FindMicroserviceInstancesResponse second =
          client.findMicroserviceInstance("me", "shop", "orders", "0+", first.getRevision());
      return "revision " + first.getRevision() + ", next find sent rev=" + sent + " and was answered 304: "
          + !second.isModified();
    }
  }

  public static void main(String[] args) throws Exception {
    String exact = twice("X-Resource-Revision");
    System.out.println("X-Resource-Revision: " + exact);
    String lower = twice("x-resource-revision");
    System.out.println("x-resource-revision: " + lower);
    boolean same = exact.equals("revision 7, next find sent rev=7 and was answered 304: true")
        && lower.equals("revision null, next find sent rev= and was answered 304: false");
    if (!same) {
      System.out.println("CHANGED: the revision is found under other spellings");
    }
    System.exit(same ? 0 : 1);
  }
}
JAVA

timeout 300 mvn -q -B -Dstyle.color=never compile org.codehaus.mojo:exec-maven-plugin:3.1.0:java -Dexec.mainClass=Probe
