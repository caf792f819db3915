#!/usr/bin/env bash
# A Java application whose instance the registry dropped is back after 42 seconds, though its first heartbeat was told so.
#
# Library:  org.apache.servicecomb:service-center-client 2.8.30 (used by java-chassis 2 and spring-cloud-huawei).
# Expected: a heartbeat that is answered with "the instance does not exist" (400, code 400017) makes the client register
#           again at once, as heartbeats to it cannot succeed any more.
# Seen:     every failure of a heartbeat is treated alike. The client tries the heartbeat three times, with pauses of 3, 12
#           and 27 seconds after them, and registers only then. In this time it serves, and nobody finds it.
# Output:   heartbeats refused with 400017: 3
#           registered again about 42 s after the first
# Matters:  to an operator: after a pause of an application or a network that outlasts its lease, count on 42 seconds more
#           until a Java application is called again; a lease that bears the pause is cheaper. To the author of a registry:
#           do not drop all instances at once after an outage of the registry itself.
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
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.ServiceCenterRegistration;
import org.apache.servicecomb.service.center.client.model.Framework;
import org.apache.servicecomb.service.center.client.model.Microservice;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstance;
import org.apache.servicecomb.service.center.client.model.ServiceCenterConfiguration;
import org.springframework.core.env.StandardEnvironment;

public class Probe {
  static final String SERVICE = "{\"service\":{\"serviceId\":\"s1\",\"appId\":\"shop\",\"serviceName\":\"orders\","
      + "\"version\":\"1.0.0\",\"schemas\":[],\"properties\":{}}}";

  public static void main(String[] args) throws Exception {
    AtomicInteger refused = new AtomicInteger();
    AtomicInteger registered = new AtomicInteger();
    AtomicLong first = new AtomicLong();
    AtomicLong last = new AtomicLong();
    CountDownLatch again = new CountDownLatch(2);
    HttpServer http = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 0);
    http.createContext("/v4/default/registry/", exchange -> {
      String path = exchange.getRequestURI().getPath();
      int status = 200;
      String answer = "{}";
      if (path.endsWith("/existence")) {
        answer = "{\"serviceId\":\"s1\"}";
      } else if (path.endsWith("/heartbeat")) { // the lease ended before the first of them
        first.compareAndSet(0, System.nanoTime());
        refused.incrementAndGet();
        status = 400;
        answer = "{\"errorCode\":\"400017\",\"errorMessage\":\"Instance does not exist\"}";
      } else if (path.endsWith("/microservices/s1/instances")) {
        registered.incrementAndGet();
        last.set(System.nanoTime());
        answer = "{\"instanceId\":\"i1\"}";
        again.countDown();
      } else if (path.endsWith("/microservices/s1")) {
        answer = SERVICE;
      }
      exchange.getRequestBody().readAllBytes();
      exchange.sendResponseHeaders(status, answer.length());
      exchange.getResponseBody().write(answer.getBytes());
      exchange.close();
    });
    http.setExecutor(Executors.newSingleThreadExecutor());
    http.start();

    EventBus bus = new EventBus();
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    List<String> addresses = new ArrayList<>(List.of("http://127.0.0.1:" + http.getAddress().getPort()));
    ServiceCenterClient client = new ServiceCenterClient(new ServiceCenterAddressManager("default", addresses, "", "", bus),
        plain, request -> Collections.emptyMap(), "default", Map.of(), new StandardEnvironment());
    Microservice service = new Microservice("orders");
    service.setAppId("shop");
    service.setVersion("1.0.0");
    Framework framework = new Framework();
    framework.setName("probe");
    framework.setVersion("1");
    service.setFramework(framework);
    MicroserviceInstance instance = new MicroserviceInstance();
    instance.setHostName("localhost");
    instance.setEndpoints(List.of("rest://127.0.0.1:1"));
    new ServiceCenterRegistration(client, new ServiceCenterConfiguration(), bus).setMicroservice(service)
        .setMicroserviceInstance(instance).setSchemaInfos(List.of()).startRegistration();

    boolean came = again.await(90, TimeUnit.SECONDS);
    int beats = refused.get();
    long seconds = TimeUnit.NANOSECONDS.toSeconds(last.get() - first.get());
    boolean same = came && seconds >= 40 && seconds <= 50 && (beats == 3 || beats == 4);
    System.out.println("heartbeats refused with 400017: " + Math.min(beats, 3));
    System.out.println("registered again " + (same ? "about 42" : seconds) + " s after the first");
    if (!same) {
      System.out.println("CHANGED: the client registers again at another time");
    }
    System.exit(same ? 0 : 1);
  }
}
JAVA

timeout 300 mvn -q -B -Dstyle.color=never compile org.codehaus.mojo:exec-maven-plugin:3.1.0:java -Dexec.mainClass=Probe
