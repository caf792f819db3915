package muster;

import com.google.common.cache.CacheBuilder;
import com.google.common.cache.CacheLoader;
import com.google.common.cache.LoadingCache;
import com.google.common.eventbus.EventBus;
import com.google.common.util.concurrent.Futures;
import com.google.common.util.concurrent.ListenableFuture;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.servicecomb.foundation.auth.SignRequest;
import org.apache.servicecomb.http.client.auth.RequestAuthHeaderProvider;
import org.apache.servicecomb.service.center.client.ServiceCenterClient;
import org.apache.servicecomb.service.center.client.model.RbacTokenRequest;
import org.apache.servicecomb.service.center.client.model.RbacTokenResponse;

/**
 * Logs in for the client, which leaves that to the framework around it. As in java-chassis and spring-cloud-huawei, one
 * token serves all requests; a new one is fetched in the background at a certain age, and when the client has reported
 * a 401. Until it is there the old one is sent.
 */
final class Tokens implements RequestAuthHeaderProvider {
  /** The age at which the frameworks fetch a new token. */
  static final Duration USUAL_AGE = Duration.ofMinutes(20);
  private static final String KEY = "token";

  /** Times at which a token was fetched. */
  final AtomicInteger logins = new AtomicInteger();
  private final ExecutorService background = Executors.newSingleThreadExecutor();
  private final LoadingCache<String, String> cache;

  Tokens(ServiceCenterClient open, String account, String password, Duration age, EventBus bus) {
    CacheLoader<String, String> login = new CacheLoader<>() {
      @Override
      public String load(String key) {
        RbacTokenResponse answer = login(open, account, password);
        logins.incrementAndGet();
        return answer.getStatusCode() == 200 ? answer.getToken() : "invalid";
      }

      @Override
      public ListenableFuture<String> reload(String key, String old) {
        return Futures.submit(() -> load(key), background);
      }
    };
    cache = CacheBuilder.newBuilder().refreshAfterWrite(age).build(login);
    Version.whenRefused(bus, () -> cache.refresh(KEY));
  }

  static RbacTokenResponse login(ServiceCenterClient open, String account, String password) {
    RbacTokenRequest request = new RbacTokenRequest();
    request.setName(account);
    request.setPassword(password);
    return Version.token(open, request);
  }

  @Override
  public Map<String, String> loadAuthHeader(SignRequest request) {
    return Map.of("Authorization", "Bearer " + cache.getUnchecked(KEY));
  }
}
