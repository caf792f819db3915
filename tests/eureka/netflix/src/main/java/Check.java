import com.netflix.appinfo.InstanceInfo;
import com.netflix.appinfo.InstanceInfo.InstanceStatus;
import com.netflix.appinfo.LeaseInfo;
import com.netflix.appinfo.MyDataCenterInfo;
import com.netflix.appinfo.DataCenterInfo;
import com.netflix.discovery.converters.wrappers.CodecWrapper;
import com.netflix.discovery.converters.wrappers.CodecWrappers;
import com.netflix.discovery.shared.Application;
import com.netflix.discovery.shared.Applications;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;

/** Netflix' own model makes random changes; the registry's answers, read by Netflix' codecs, agree with it. */
public class Check {
  private static final int CHANGES = 1000;
  private static final int TOGETHER = 5;
  private static final long DEADLINE = 20_000;
  private static final InstanceStatus[] STATUSES = {
    InstanceStatus.UP, InstanceStatus.DOWN, InstanceStatus.STARTING, InstanceStatus.OUT_OF_SERVICE
  };

  private final HttpClient http = HttpClient.newHttpClient();
  private final CodecWrapper json = CodecWrappers.getCodec(CodecWrappers.JacksonJson.class);
  private final CodecWrapper xml = CodecWrappers.getCodec(CodecWrappers.XStreamXml.class);
  private final String url;
  /** The truth, in Netflix' words. */
  private final Applications truth = new Applications();
  /** The copy of a client that takes deltas only, and everything when the hashes differ. */
  private Applications copy;
  private int fulls;
  private long clock = 1;

  Check(String url) {
    this.url = url;
  }

  public static void main(String[] arguments) throws Exception {
    new Check(arguments[0]).run();
    System.out.println("done");
    System.exit(0);
  }

  private void run() throws Exception {
    Random random = new Random(7);
    send("POST", "apps/APP0", json.encode(instance("APP0", "first", InstanceStatus.UP, clock++)), 204);
    add(instance("APP0", "first", InstanceStatus.UP, 1));
    agree();
    for (int change = 0; change < CHANGES; change += TOGETHER) {
      for (int one = 0; one < TOGETHER; one++) {
        change(random);
      }
      agree();
    }
    System.out.println("ok " + CHANGES + " changes, " + fulls + " fetches of everything");
  }

  /** Registers, takes out of service or cancels a random instance, here and there. */
  private void change(Random random) throws Exception {
    String app = "APP" + random.nextInt(5);
    String id = "node:" + app.toLowerCase() + ":" + random.nextInt(6);
    String path = "apps/" + app + "/" + URLEncoder.encode(id, StandardCharsets.UTF_8);
    Application known = truth.getRegisteredApplications(app);
    InstanceInfo before = known == null ? null : known.getByInstanceId(id);
    if (before != null && random.nextInt(3) == 0) {
      send("DELETE", path, null, 200);
      known.removeInstance(before);
      if (known.size() == 0) {
        truth.removeApplication(known);
      }
      return;
    }
    // A client that is down or starting always has its own status; after that it is up again.
    InstanceStatus status = STATUSES[random.nextInt(before == null ? 4 : 3)];
    if (before != null && before.getStatus() == InstanceStatus.OUT_OF_SERVICE && status == InstanceStatus.UP) {
      status = InstanceStatus.DOWN;
    }
    InstanceInfo next = instance(app, id, status, ++clock);
    send("POST", "apps/" + app, json.encode(next), 204);
    add(next);
  }

  private void add(InstanceInfo instance) {
    Application known = truth.getRegisteredApplications(instance.getAppName());
    if (known == null) {
      known = new Application(instance.getAppName());
      truth.addApplication(known);
    }
    known.addInstance(instance);
  }

  /** Waits until everything that a client can read is the truth. */
  private void agree() throws Exception {
    String expected = truth.getReconcileHashCode();
    long end = System.currentTimeMillis() + DEADLINE;
    while (true) {
      Applications delta = read("apps/delta", json, "application/json");
      if (copy == null) {
        copy = read("apps/", json, "application/json");
      } else {
        apply(delta);
        if (!copy.getReconcileHashCode().equals(delta.getAppsHashCode())) {
          copy = read("apps/", json, "application/json");
          fulls++;
        }
      }
      if (expected.equals(delta.getAppsHashCode()) && shown(copy).equals(shown(truth))) {
        break;
      }
      if (System.currentTimeMillis() > end) {
        throw new IllegalStateException("expected " + shown(truth) + ", not " + shown(copy));
      }
      Thread.sleep(20);
    }
    for (Applications full : new Applications[] {
      read("apps/", json, "application/json"), read("apps/", xml, "application/xml")
    }) {
      if (!expected.equals(full.getAppsHashCode()) || !expected.equals(full.getReconcileHashCode())) {
        throw new IllegalStateException(expected + " was expected, not " + full.getAppsHashCode());
      }
      if (!shown(full).equals(shown(truth))) {
        throw new IllegalStateException("expected " + shown(truth) + ", not " + shown(full));
      }
    }
  }

  /** As Netflix' client does. */
  private void apply(Applications delta) {
    for (Application application : delta.getRegisteredApplications()) {
      for (InstanceInfo instance : application.getInstances()) {
        Application known = copy.getRegisteredApplications(instance.getAppName());
        switch (instance.getActionType()) {
          case ADDED, MODIFIED -> {
            if (known == null) {
              copy.addApplication(application);
            }
            copy.getRegisteredApplications(instance.getAppName()).addInstance(instance);
          }
          case DELETED -> {
            if (known != null) {
              known.removeInstance(instance);
              if (known.size() == 0) {
                copy.removeApplication(known);
              }
            }
          }
          default -> throw new IllegalStateException("an action is missing");
        }
      }
    }
  }

  /** Statuses, ports and metadata by application and id. */
  private static Map<String, String> shown(Applications applications) {
    Map<String, String> all = new TreeMap<>();
    for (Application application : applications.getRegisteredApplications()) {
      for (InstanceInfo instance : application.getInstancesAsIsFromEureka()) {
        String state = instance.getStatus() + " " + instance.getIPAddr() + ":" + instance.getPort() + " "
            + new TreeMap<>(instance.getMetadata()) + " " + instance.getVIPAddress();
        all.put(application.getName() + "/" + instance.getId(), state);
      }
    }
    return all;
  }

  private static InstanceInfo instance(String app, String id, InstanceStatus status, long dirty) {
    InstanceInfo instance = InstanceInfo.Builder.newBuilder()
        .setInstanceId(id)
        .setAppName(app)
        .setHostName("localhost")
        .setIPAddr("127.0.0.1")
        .setPort(8080)
        .setVIPAddress(app.toLowerCase())
        .setSecureVIPAddress(app.toLowerCase())
        .setDataCenterInfo(new MyDataCenterInfo(DataCenterInfo.Name.MyOwn))
        .setLeaseInfo(LeaseInfo.Builder.newBuilder().setDurationInSecs(900).build())
        .setMetadata(new HashMap<>(Map.of("dirty", Long.toString(dirty), "sign", "<&\">")))
        .setStatus(status)
        .build();
    instance.setLastDirtyTimestamp(dirty);
    return instance;
  }

  private Applications read(String path, CodecWrapper codec, String kind) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(url + path)).header("Accept", kind).build();
    HttpResponse<String> answer = http.send(request, HttpResponse.BodyHandlers.ofString());
    if (answer.statusCode() != 200) {
      throw new IllegalStateException(path + ": " + answer.statusCode());
    }
    return codec.decode(answer.body(), Applications.class);
  }

  private void send(String method, String path, String body, int expected) throws Exception {
    HttpRequest.BodyPublisher publisher = body == null
        ? HttpRequest.BodyPublishers.noBody()
        : HttpRequest.BodyPublishers.ofString(body);
    HttpRequest request = HttpRequest.newBuilder(URI.create(url + path))
        .header("Content-Type", "application/json")
        .method(method, publisher)
        .build();
    HttpResponse<String> answer = http.send(request, HttpResponse.BodyHandlers.ofString());
    if (answer.statusCode() != expected) {
      throw new IllegalStateException(method + " " + path + ": " + answer.statusCode() + " " + answer.body());
    }
  }
}
