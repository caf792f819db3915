package check;

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.function.BooleanSupplier;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.context.ConfigurableApplicationContext;

/** A Spring Cloud application as it is written for Eureka: it registers, finds others, and leaves. */
@SpringBootApplication
public class Check {
  private static final long DEADLINE = 60_000;

  public static void main(String[] arguments) throws Exception {
    String url = arguments[0];
    ConfigurableApplicationContext context =
        new SpringApplicationBuilder(Check.class).run(
            "--registry=" + url,
            "--server.port=0",
            "--logging.level.root=warn",
            // Quicker than usual, so that the test is.
            "--eureka.client.registry-fetch-interval-seconds=1",
            "--eureka.instance.lease-renewal-interval-in-seconds=1",
            "--eureka.instance.lease-expiration-duration-in-seconds=9");
    DiscoveryClient discovery = context.getBean(DiscoveryClient.class);
    until("it finds itself", () -> discovery.getInstances("probe").size() == 1);
    ServiceInstance own = discovery.getInstances("probe").get(0);
    if (!"1.2.0".equals(own.getMetadata().get("version")) || own.getPort() == 0) {
      throw new IllegalStateException("not as registered: " + own);
    }
    want("add order one");
    until("an instance of the registry comes", () -> discovery.getInstances("order").size() == 1);
    URI uri = discovery.getInstances("order").get(0).getUri();
    if (!uri.toString().equals("http://10.0.0.1:80")) {
      throw new IllegalStateException("another address: " + uri);
    }
    want("add order two");
    until("a second one comes", () -> discovery.getInstances("order").size() == 2);
    want("remove order one");
    until("the first one goes", () -> ids(discovery.getInstances("order")).equals(List.of("two")));
    long since = System.currentTimeMillis();
    until("it lives by its renewals", () -> System.currentTimeMillis() > since + 12_000
        && status(url + "apps/PROBE") == 200);
    context.close();
    until("it has left", () -> status(url + "apps/PROBE") == 404);
    System.out.println("done");
    System.exit(0);
  }

  private static List<String> ids(List<ServiceInstance> instances) {
    return instances.stream().map(ServiceInstance::getInstanceId).toList();
  }

  private static void want(String wish) {
    System.out.println("want " + wish);
  }

  private static void until(String what, BooleanSupplier condition) throws InterruptedException {
    long end = System.currentTimeMillis() + DEADLINE;
    while (!condition.getAsBoolean()) {
      if (System.currentTimeMillis() > end) {
        throw new IllegalStateException("in vain: " + what);
      }
      Thread.sleep(50);
    }
    System.out.println("ok " + what);
  }

  private static int status(String url) {
    try {
      HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
      return HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding()).statusCode();
    } catch (Exception error) {
      return 0;
    }
  }
}
