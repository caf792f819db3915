//! A publisher whose bus is connected and takes nothing, as when its server stands still.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use crate::probe::Probe;
use async_trait::async_trait;
use bus::{Bus, BusError, Link, Message, Messages};
use serde_json::json;
use tokio::sync::watch;

/// No operation ends. The bus over NATS gives up after seconds; a caller that waits for it must hold up nothing
/// for as long.
struct StuckBus(watch::Sender<Link>);

#[async_trait]
impl Bus for StuckBus {
    async fn publish(&self, _: Message) -> Result<(), BusError> {
        pending().await
    }

    async fn flush(&self) -> Result<(), BusError> {
        pending().await
    }

    async fn subscribe(&self, _: &str) -> Result<Messages, BusError> {
        pending().await
    }

    async fn serve(&self, _: &str, _: &str) -> Result<Messages, BusError> {
        pending().await
    }

    async fn request(&self, _: Message, _: Duration) -> Result<Messages, BusError> {
        pending().await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.0.subscribe()
    }

    fn max_payload(&self) -> usize {
        1 << 20
    }
}

#[tokio::test]
async fn instances_end_although_the_bus_takes_nothing() {
    let link = watch::Sender::new(Link { connected: true, generation: 1 });
    let probe = Probe::start_on(Arc::new(StuckBus(link)), &[("MUSTER_LEASE_MODE", "reported")]).await;
    let service = probe.service(json!({"appId": "a", "serviceName": "s", "version": "1.0.0"})).await;
    let check = json!({"mode": "push", "interval": 1, "times": 0});
    probe.instance(&service, json!({"instanceId": "i", "hostName": "h", "healthCheck": check})).await;
    let mut revisions = probe.revisions();
    let path = format!("/microservices/{service}/instances/i");
    let ended = async {
        while probe.get(&path).await.status == 200 {
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the instance ends without heartbeats");
}
