package muster;

import com.google.common.eventbus.EventBus;
import com.google.common.eventbus.Subscribe;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.servicecomb.http.client.auth.RequestAuthHeaderProvider;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.DiscoveryEvents;
import org.apache.servicecomb.service.center.client.RegistrationEvents;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.ServiceCenterDiscovery;
import org.apache.servicecomb.service.center.client.ServiceCenterRegistration;
import org.apache.servicecomb.service.center.client.ServiceCenterWatch;
import org.apache.servicecomb.service.center.client.exception.OperationException;
import org.apache.servicecomb.service.center.client.model.CreateSchemaRequest;
import org.apache.servicecomb.service.center.client.model.HealthCheck;
import org.apache.servicecomb.service.center.client.model.HealthCheckMode;
import org.apache.servicecomb.service.center.client.model.HeartbeatsRequest;
import org.apache.servicecomb.service.center.client.model.Microservice;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstance;
import org.apache.servicecomb.service.center.client.model.MicroserviceInstanceStatus;
import org.apache.servicecomb.service.center.client.model.SchemaInfo;
import org.apache.servicecomb.service.center.client.model.ServiceCenterConfiguration;
import org.java_websocket.handshake.ServerHandshake;

/**
 * Drives a registry through the Java client of java-chassis and spring-cloud-huawei as an application would: its
 * registration task registers the consumer, and its discovery asks only when its watch has been pushed something.
 * In: the registry's address (HOST:PORT), and with access control an account in ACCOUNT and its password in PASSWORD.
 * Out: a line per step, and exit code 1 at the first that differs.
 * A line "ASK CHANGE" asks the caller for a change of the registry, which a line on the standard input confirms.
 */
public final class Check {
  private static final int PATIENCE_SECONDS = 15;
  private static final String APP = "sdk-check";

  private final BlockingQueue<List<MicroserviceInstance>> changes = new LinkedBlockingQueue<>();
  private final BlockingQueue<Long> opened = new LinkedBlockingQueue<>();
  private final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in));
  private final BlockingQueue<Boolean> registered = new LinkedBlockingQueue<>();

  public static void main(String[] args) throws Exception {
    if (args.length != 1) {
      System.err.println("expected one argument: HOST:PORT of a registry");
      System.exit(2);
    }
    new Check().run(args[0]);
    System.out.println("service-center-client: all steps as expected");
    System.exit(0); // the client's tasks have threads of their own that nothing ends
  }

  @Subscribe
  public void on(DiscoveryEvents.InstanceChangedEvent event) {
    changes.add(event.getInstances());
  }

  @Subscribe
  public void on(RegistrationEvents.MicroserviceInstanceRegistrationEvent event) {
    registered.add(event.isSuccess());
  }

  private void run(String address) throws Exception {
    String run = Long.toString(System.nanoTime());
    EventBus bus = new EventBus();
    bus.register(this);
    ServiceCenterAddressManager addresses = Version.addresses(address, bus);
    SSLProperties plain = new SSLProperties();
    plain.setEnabled(false);
    ServiceCenterClient open = Version.client(addresses, plain, r -> Collections.emptyMap());
    String account = System.getenv("ACCOUNT");
    Tokens tokens = account == null ? null
        : new Tokens(open, account, System.getenv("PASSWORD"), Tokens.USUAL_AGE, bus);
    RequestAuthHeaderProvider auth = tokens == null ? r -> Collections.emptyMap() : tokens;
    ServiceCenterClient client = Version.client(addresses, plain, auth).setEventBus(bus);
    if (account != null) {
      closed(open, account);
    }

    client.getServiceCenterInstances();
    ok("health is asked", true);
    Microservice provider = service("sdk-provider-" + run, "1.0.0");
    String providerId = client.registerMicroservice(provider).getServiceId();
    ok("a service registers", providerId != null && !providerId.isEmpty());
    provider.setServiceId(providerId);
    ok("its id is found by its key", providerId.equals(client.queryServiceId(provider).getServiceId()));
    ok("and it is read", client.getMicroserviceByServiceId(providerId).getServiceName().equals(provider.getServiceName()));
    schemas(client, providerId);
    ok("its properties change", Version.replaceProperties(client, providerId, Map.of("c", "d")));
    ok("and are replaced", "d".equals(client.getMicroserviceByServiceId(providerId).getProperties().get("c")));
    ok("services are listed", client.getMicroserviceList().getServices().size() >= 1);

    Microservice consumer = service("sdk-consumer-" + run, "0.1.0");
    MicroserviceInstance own = instance(null);
    new ServiceCenterRegistration(client, new ServiceCenterConfiguration(), bus)
        .setMicroservice(consumer).setMicroserviceInstance(own).setHeartBeatInterval(1000)
        .setSchemaInfos(List.of(new SchemaInfo("hello", "swagger: '2.0'", "aa"))).startRegistration();
    ok("the registration task registers", Boolean.TRUE.equals(registered.poll(PATIENCE_SECONDS, TimeUnit.SECONDS)));

    ServiceCenterDiscovery discovery = new ServiceCenterDiscovery(client, bus);
    // Its polling is not started: the thread that sleeps between two polls is the one that would answer a push.
    discovery.updateMyselfServiceId(consumer.getServiceId());
    ServiceCenterDiscovery.SubscriptionKey key =
        new ServiceCenterDiscovery.SubscriptionKey(APP, provider.getServiceName());
    discovery.registerIfNotPresent(key);
    ServiceCenterWatch watch =
        new ServiceCenterWatch(addresses, plain, auth, "default", Map.of(), bus) {
          @Override
          public void onOpen(ServerHandshake handshake) {
            super.onOpen(handshake);
            opened.add(System.nanoTime());
          }
        };
    watch.startWatch("default", consumer.getServiceId());
    ok("the watch opens", opened.poll(PATIENCE_SECONDS, TimeUnit.SECONDS) != null);

    lifeOfAnInstance(client, providerId, consumer.getServiceId(), provider.getServiceName());
    if (account != null) {
      renewal(Version.addresses(address, bus), plain, open, account, providerId);
      replacedKey(client, tokens, providerId);
    }
    watch.stop();
  }

  private void closed(ServiceCenterClient open, String account) {
    try {
      open.registerMicroservice(service("sdk-open", "1.0.0"));
      ok("without a token nothing is registered", false);
    } catch (OperationException refused) {
      ok("without a token nothing is registered", true);
    }
    ok("a wrong password gives no token", Tokens.login(open, account, "Wrong_password1").getStatusCode() == 401);
  }

  /** A client whose tokens are renewed every second goes on as if there were one. */
  private void renewal(ServiceCenterAddressManager addresses, SSLProperties plain, ServiceCenterClient open,
      String account, String providerId) throws InterruptedException {
    EventBus bus = new EventBus();
    Tokens tokens = new Tokens(open, account, System.getenv("PASSWORD"), Duration.ofSeconds(1), bus);
    ServiceCenterClient client = Version.client(addresses, plain, tokens).setEventBus(bus);
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
    while (tokens.logins.get() < 3) {
      client.getMicroserviceByServiceId(providerId);
      if (System.nanoTime() > deadline) {
        ok("tokens are renewed", false);
      }
      Thread.sleep(300);
    }
    ok("tokens are renewed, and nothing fails", true);
  }

  private void replacedKey(ServiceCenterClient client, Tokens tokens, String providerId) throws Exception {
    String id = client.registerMicroserviceInstance(instance(providerId)).getInstanceId();
    until("an instance is pushed", found -> found.size() == 1);
    int logins = tokens.logins.get();
    ask("sign with the new key");
    ok("the old token counts", client.sendHeartBeat(providerId, id) && tokens.logins.get() == logins);
    client.updateMicroserviceInstanceStatus(providerId, id, MicroserviceInstanceStatus.DOWN);
    until("and so does its watch", now -> now.get(0).getStatus() == MicroserviceInstanceStatus.DOWN);
    ok("which was never opened again", opened.isEmpty());
    ask("forget the old key");
    // Its heartbeats, one a second, learn of it first.
    ok("the watch is opened again with a new token", opened.poll(PATIENCE_SECONDS, TimeUnit.SECONDS) != null);
    ok("after a login", tokens.logins.get() > logins);
    client.updateMicroserviceInstanceStatus(providerId, id, MicroserviceInstanceStatus.UP);
    until("and pushed to", now -> now.get(0).getStatus() == MicroserviceInstanceStatus.UP);
    client.deleteMicroserviceInstance(providerId, id);
  }

  /** Asks the starter of this program for a change of the registry, and waits until it is done. */
  private void ask(String change) throws IOException {
    System.out.println("ASK " + change);
    ok("done: " + change, answers.readLine() != null);
  }

  private void schemas(ServiceCenterClient client, String providerId) {
    CreateSchemaRequest request = new CreateSchemaRequest();
    request.setSchema("swagger: '2.0'");
    request.setSummary("summary");
    ok("a schema is added", client.registerSchema(providerId, "hello", request));
    ok("and read", client.getServiceSchemaContext(providerId, "hello").contains("swagger"));
    List<SchemaInfo> listed = client.getServiceSchemasList(providerId, true);
    ok("and listed with its summary", listed.size() == 1 && "summary".equals(listed.get(0).getSummary()));
  }

  private void lifeOfAnInstance(ServiceCenterClient client, String providerId, String consumerId, String name)
      throws Exception {
    String id = client.registerMicroserviceInstance(instance(providerId)).getInstanceId();
    ok("an instance registers", id != null && !id.isEmpty());
    until("the push makes discovery pull it", found -> found.size() == 1 && found.get(0).getInstanceId().equals(id));
    ok("its heartbeat is taken", client.sendHeartBeat(providerId, id));
    client.sendHeartBeats(new HeartbeatsRequest(providerId, id));
    ok("and a batch of them", true);
    var found = client.findMicroserviceInstance(consumerId, APP, name, "0.0.0.0+", null);
    ok("a find finds it", found.isModified() && found.getMicroserviceInstancesResponse().getInstances().size() == 1);
    var again = client.findMicroserviceInstance(consumerId, APP, name, "0.0.0.0+", found.getRevision());
    ok("a find that repeats its revision is not answered again", !again.isModified());
    ok("its status changes",
        client.updateMicroserviceInstanceStatus(providerId, id, MicroserviceInstanceStatus.DOWN));
    until("the push brings the status",
        now -> now.size() == 1 && now.get(0).getStatus() == MicroserviceInstanceStatus.DOWN);
    ok("an instance is read", client.getMicroserviceInstance(providerId, id).getHostName().equals("sdk-host"));
    ok("instances are listed", client.getMicroserviceInstanceList(providerId).getInstances().size() == 1);
    client.deleteMicroserviceInstance(providerId, id);
    until("the push takes it away", List::isEmpty);
  }

  private static Microservice service(String name, String version) {
    Microservice service = new Microservice(name);
    service.setAppId(APP);
    service.setVersion(version);
    service.setEnvironment("");
    service.setSchemas(List.of("hello"));
    return service;
  }

  private static MicroserviceInstance instance(String serviceId) {
    HealthCheck check = new HealthCheck();
    check.setMode(HealthCheckMode.push);
    check.setInterval(30);
    check.setTimes(3);
    MicroserviceInstance instance = new MicroserviceInstance();
    instance.setServiceId(serviceId);
    instance.setHostName("sdk-host");
    instance.setEndpoints(List.of("rest://127.0.0.1:8080?sslEnabled=false"));
    instance.setStatus(MicroserviceInstanceStatus.UP);
    instance.setHealthCheck(check);
    return instance;
  }

  private interface Held {
    boolean by(List<MicroserviceInstance> instances);
  }

  /** Takes changes of the discovery's cache until one is as wanted; without a push there are none. */
  private void until(String step, Held held) throws InterruptedException {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
    List<MicroserviceInstance> last = null;
    while (last == null || !held.by(last)) {
      last = changes.poll(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
      if (last == null) {
        ok(step, false);
      }
    }
    ok(step, true);
  }

  private static void ok(String step, boolean holds) {
    System.out.println((holds ? "ok     " : "FAILED ") + step);
    if (!holds) {
      System.exit(1);
    }
  }
}
