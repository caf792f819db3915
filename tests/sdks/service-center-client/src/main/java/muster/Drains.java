package muster;

import com.google.common.eventbus.EventBus;
import com.google.common.eventbus.Subscribe;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.servicecomb.http.client.auth.RequestAuthHeaderProvider;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.DiscoveryEvents;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.ServiceCenterDiscovery;
import org.apache.servicecomb.service.center.client.ServiceCenterWatch;
import org.apache.servicecomb.service.center.client.model.Microservice;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstance;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstanceStatus;
import org.java_websocket.handshake.ServerHandshake;

/**
 * An application while the gateways behind one address are drained in turn. It must be watching again soon after the
 * end of its watch, and is pushed the next change: its discovery does not poll. The client keeps a flag of its
 * discovery in a static field, so several applications need several processes.
 *
 * <p>In: the address in REGISTRY (HOST:PORT), the application's name in CONSUMER, the service that it calls in PROVIDER, the
 * number of gateways in DRAINS. A line "ASK CHANGE" asks for a change of the gateways or of the provider's one instance,
 * which a line on the standard input confirms. Out: a line per step, and exit code 1 at the first that differs.
 */
public final class Drains {
  private static final int PATIENCE_SECONDS = 15;
  /** The client waits three of these seconds before its only attempt. */
  private static final int MOST_MILLIS = 5_000;
  private static final String APP = "shop";

  private final String name = System.getenv("CONSUMER");
  private final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in));
  private final BlockingQueue<List<MicroserviceInstance>> changes = new LinkedBlockingQueue<>();
  private final BlockingQueue<Long> opened = new LinkedBlockingQueue<>();
  private volatile long ended;

  public static void main(String[] args) throws Exception {
    new Drains().run(System.getenv("REGISTRY"), System.getenv("PROVIDER"), Integer.parseInt(System.getenv("DRAINS")));
    System.exit(0); // the client's tasks have threads of their own that nothing ends
  }

  @Subscribe
  public void on(DiscoveryEvents.InstanceChangedEvent event) {
    changes.add(event.getInstances());
  }

  private void run(String address, String provider, int drains) throws Exception {
    EventBus bus = new EventBus();
    bus.register(this);
    ServiceCenterAddressManager addresses = Version.addresses(address, bus);
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    RequestAuthHeaderProvider nobody = request -> Collections.emptyMap();
    ServiceCenterClient client = Version.client(addresses, plain, nobody).setEventBus(bus);
    String id = client.registerMicroservice(consumer()).getServiceId();
    ServiceCenterDiscovery discovery = new ServiceCenterDiscovery(client, bus);
    discovery.updateMyselfServiceId(id);
    discovery.registerIfNotPresent(new ServiceCenterDiscovery.SubscriptionKey(APP, provider));
    new ServiceCenterWatch(addresses, plain, nobody, "default", Map.of(), bus) {
      @Override
      public void onOpen(ServerHandshake handshake) {
        super.onOpen(handshake);
        opened.add(System.nanoTime());
      }

      @Override
      public void onError(Exception error) {
        ended = System.nanoTime();
        super.onError(error);
      }
    }.startWatch("default", id);
    ok("watches", opened.poll(PATIENCE_SECONDS, TimeUnit.SECONDS) != null);
    for (int round = 0; round < drains; round++) {
      ask("drain the gateway in use");
      Long again = opened.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
      ok("watches again", again != null);
      long millis = TimeUnit.NANOSECONDS.toMillis(again - ended);
      ok("does so " + millis + " ms after the end", millis <= MOST_MILLIS);
      boolean even = round % 2 == 0;
      MicroserviceInstanceStatus next = even ? MicroserviceInstanceStatus.DOWN : MicroserviceInstanceStatus.UP;
      ask("set the instance " + next);
      ok("is pushed " + next, isPushed(next));
    }
    ok("was opened again once for each drain", opened.isEmpty());
  }

  private Microservice consumer() {
    Microservice consumer = new Microservice(name);
    consumer.setAppId(APP);
    consumer.setVersion("0.1.0");
    consumer.setEnvironment("");
    return consumer;
  }

  /** True when a push brings the one instance of the provider with this status. */
  private boolean isPushed(MicroserviceInstanceStatus status) throws InterruptedException {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
    List<MicroserviceInstance> now;
    do {
      now = changes.poll(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
    } while (now != null && !(now.size() == 1 && now.get(0).getStatus() == status));
    return now != null;
  }

  /** Asks the starter of this program for a change, and waits until it is done. */
  private void ask(String change) throws IOException {
    System.out.println("ASK " + change);
    ok("was done: " + change, answers.readLine() != null);
  }

  private void ok(String step, boolean holds) {
    System.out.println((holds ? "ok     " : "FAILED ") + name + " " + step);
    if (!holds) {
      System.exit(1);
    }
  }
}
