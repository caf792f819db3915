//! Clients that send too many requests.

use std::sync::Arc;

use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use edge_gateway::settings::{LimitsConfig, RatesConfig};
use tokio_tungstenite::tungstenite::Error;

use crate::forwarding::{ask, echo};
use crate::world::{World, config};

/// More than any burst that these tests allow.
const MANY: usize = 10_000;

async fn limited(rates: RatesConfig) -> World {
    let limits = LimitsConfig { rates, ..LimitsConfig::default() };
    World::with_forward(Config { limits, ..config() }, Arc::new(InProcess::new(echo()))).await
}

#[tokio::test]
async fn a_source_that_asks_too_often_is_refused_and_its_heartbeats_are_not() {
    let world = limited(RatesConfig { source_requests: 1, ..RatesConfig::default() }).await;
    let mut refused = None;
    for _ in 0..MANY {
        let answer = ask(&world, "GET", "/v4/default/registry/microservices", "").await.expect("an answer");
        if answer.0 == 429 {
            refused = Some(answer.1);
            break;
        }
    }
    let body = refused.expect("refused after a burst");
    assert!(body.contains("400100") && body.contains("the source sends more than is allowed"), "{body}");
    assert!(world.metric(r#"muster_edge_rate_limited_total{party="source"}"#) >= 1.0);
    for _ in 0..20 {
        let path = "/v4/default/registry/microservices/s/instances/i/heartbeat";
        assert_eq!(ask(&world, "PUT", path, "").await.expect("an answer").0, 200);
    }
    let batch = ask(&world, "PUT", "/v4/default/registry/heartbeats", "{}").await.expect("an answer");
    assert_eq!(batch.0, 200);
}

#[tokio::test]
async fn a_tenant_that_opens_watches_too_often_is_refused_before_the_upgrade() {
    let world = limited(RatesConfig { tenant_watches: 1, ..RatesConfig::default() }).await;
    let url = format!("ws://{}/v4/default/registry/microservices/c/watcher?rev=0", world.api);
    let mut refused = None;
    for _ in 0..MANY {
        if let Err(Error::Http(answer)) = tokio_tungstenite::connect_async(&url).await
            && answer.status() == 429
        {
            refused = Some(answer);
            break;
        }
    }
    let answer = refused.expect("refused after a burst");
    assert!(answer.headers().contains_key("retry-after"));
    let path = "/v4/default/registry/microservices";
    assert_eq!(
        ask(&world, "GET", path, "").await.expect("an answer").0,
        200,
        "requests have limits of their own"
    );
}
