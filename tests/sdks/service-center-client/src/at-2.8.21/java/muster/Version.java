package muster;

import com.google.common.eventbus.EventBus;
import com.google.common.eventbus.Subscribe;
import java.util.List;
import java.util.Map;
import org.apache.servicecomb.http.client.auth.RequestAuthHeaderProvider;
import org.apache.servicecomb.http.client.common.HttpConfiguration.SSLProperties;
import org.apache.servicecomb.service.center.client.OperationEvents;
import org.apache.servicecomb.service.center.client.ServiceCenterAddressManager;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.model.RbacTokenRequest;
import org.apache.servicecomb.service.center.client.model.RbacTokenResponse;

/** The calls of the client that differ between its versions, as 2.8.21 has them. */
final class Version {
  private Version() {}

  static ServiceCenterAddressManager addresses(String address, EventBus bus) {
    return new ServiceCenterAddressManager("default", List.of("http://" + address), bus);
  }

  static ServiceCenterClient client(
      ServiceCenterAddressManager addresses, SSLProperties tls, RequestAuthHeaderProvider auth) {
    return new ServiceCenterClient(addresses, tls, auth, "default", Map.of());
  }

  static boolean replaceProperties(ServiceCenterClient client, String serviceId, Map<String, String> properties) {
    return client.updateMicroserviceProperties(serviceId, properties);
  }

  static RbacTokenResponse token(ServiceCenterClient client, RbacTokenRequest request) {
    return client.queryToken(request);
  }

  /** Runs an action each time the client reports that its token was refused. */
  static void whenRefused(EventBus bus, Runnable action) {
    bus.register(new Object() {
      @Subscribe
      public void on(OperationEvents.UnAuthorizedOperationEvent event) {
        action.run();
      }
    });
  }
}
