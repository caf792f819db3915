package muster;

import com.google.common.eventbus.EventBus;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.servicecomb.http.client.auth.RequestAuthHeaderProvider;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.ServiceCenterDiscovery;
import org.apache.servicecomb.service.center.client.ServiceCenterWatch;
import org.apache.servicecomb.service.center.client.model.Microservice;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstance;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstanceStatus;

/**
 * Calls the service named in PROVIDER from as many threads as THREADS says, at the instances that the client's discovery
 * tells of, in turn. The discovery asks every POLL milliseconds, give or take four seconds, and answers what it is pushed in between. In: the registry's address in REGISTRY
 * (HOST:PORT). Each call that fails is a line "FAILED ADDRESS ERROR"; each line of the standard input is answered by "CALLS
 * NUMBER", the calls that have ended so far. The end of the standard input ends the program.
 */
public final class Calls {
  private static final String APP = "default";

  private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private final AtomicInteger turn = new AtomicInteger();
  private int count;

  public static void main(String[] args) throws Exception {
    new Calls().run(System.getenv("REGISTRY"), System.getenv("PROVIDER"), Integer.parseInt(System.getenv("THREADS")));
    System.exit(0); // the client's tasks have threads of their own that nothing ends
  }

  private static String address(MicroserviceInstance instance) {
    return instance.getEndpoints().get(0).replaceFirst("^rest://", "");
  }

  private void run(String registry, String provider, int threads) throws Exception {
    EventBus bus = new EventBus();
    ServiceCenterAddressManager centers = Version.addresses(registry, bus);
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    RequestAuthHeaderProvider open = r -> Collections.emptyMap();
    ServiceCenterClient client = Version.client(centers, plain, open).setEventBus(bus);
    Microservice consumer = new Microservice(provider + "-java");
    consumer.setAppId(APP);
    consumer.setVersion("1.0.0");
    consumer.setEnvironment("");
    String consumerId = client.registerMicroservice(consumer).getServiceId();

    ServiceCenterDiscovery discovery = new ServiceCenterDiscovery(client, bus).setPollInterval(Long.parseLong(System.getenv("POLL")));
    discovery.updateMyselfServiceId(consumerId);
    ServiceCenterDiscovery.SubscriptionKey key = new ServiceCenterDiscovery.SubscriptionKey(APP, provider);
    discovery.registerIfNotPresent(key);
    new ServiceCenterWatch(centers, plain, open, "default", Map.of(), bus).startWatch("default", consumerId);
    discovery.startDiscovery();

    for (int thread = 0; thread < threads; thread++) {
      String name = "java-" + thread;
      new Thread(() -> call(name, discovery, key)).start();
    }
    // Maven has left the codes of its colours on the line.
    System.out.println();
    BufferedReader questions = new BufferedReader(new InputStreamReader(System.in));
    while (questions.readLine() != null) {
      synchronized (this) {
        System.out.println("CALLS " + count);
      }
    }
  }

  private void call(String name, ServiceCenterDiscovery discovery, ServiceCenterDiscovery.SubscriptionKey key) {
    while (true) {
      // As a framework takes its list of servers; clients see the status of an instance that is drained.
      List<String> now = discovery.getInstanceCache(key).stream()
          .filter(instance -> instance.getStatus() == MicroserviceInstanceStatus.UP)
          .map(Calls::address).collect(Collectors.toUnmodifiableList());
      String failure = now.isEmpty() ? "no instance is known"
          : call(name, now.get(Math.floorMod(turn.getAndIncrement(), now.size())));
      synchronized (this) {
        count++;
        if (failure != null) {
          System.out.println("FAILED " + failure);
        }
      }
      try {
        Thread.sleep(5);
      } catch (InterruptedException ended) {
        return;
      }
    }
  }

  /** The failure of a call, or null. */
  private String call(String name, String address) {
    try {
      var request = HttpRequest.newBuilder(URI.create("http://" + address + "/work")).header("X-Caller", name)
          .timeout(Duration.ofSeconds(10)).build();
      var answer = http.send(request, BodyHandlers.ofString());
      boolean done = answer.statusCode() == 200 && answer.body().equals("done");
      return done ? null : address + " answered " + answer.statusCode();
    } catch (Exception error) {
      return address + " " + error;
    }
  }
}
