//! Requests that the gateway answers by itself, beside those of the same tenant that wait for a control plane.
//!
//! Places count while tenants share, and each tenant has one here. So another tenant asks before each request that
//! is not to wait.

use std::sync::atomic::Ordering;
use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{ReadsConfig, UpstreamConfig};
use tokio::task::yield_now;

use super::{ASKED, FIND, Reply, Stage, batch_of};
use crate::world::{PATIENCE, config};

const OF_C: [(&str, &str); 1] = [("x-consumerid", "c")];
const SERVICE: &str = "/v4/default/registry/microservices/p";
const TARGETS: &str = "/prometheus/v1/targets";

/// A stage with one place for each tenant, on which a find and a batch of it are answered by the gateway.
async fn shared() -> Stage {
    // A question that nobody answers is given up after the test.
    let upstream = UpstreamConfig { request_timeout: Duration::from_secs(3600), ..config().upstream };
    let reads = ReadsConfig { fresh: Duration::from_secs(3600), ..ReadsConfig::default() };
    let stage = Stage::with(reads, Config { tenant_requests: 1, upstream, ..config() }).await;
    stage.follow().await;
    assert_eq!(stage.batch(&batch_of("", &[], &[])).await.body, ASKED, "this tells the services that answer");
    stage
}

impl Stage {
    async fn of_another_tenant(&self) {
        // One of the two is answered: a control plane answers requests, or says on the bus that there is nothing.
        let path = if self.plane.is_silent.load(Ordering::SeqCst) { TARGETS } else { SERVICE };
        self.get(path, &[("x-domain-name", "other")]).await;
    }

    /// Asks while another tenant does, too.
    async fn beside_another(&self, path: &str) -> Reply {
        self.of_another_tenant().await;
        self.get(path, &OF_C).await
    }
}

/// The outcome of what is done while a request waits for an answer that does not come.
async fn while_waiting<T>(waits: impl Future<Output = Reply>, done: impl Future<Output = T>) -> T {
    let both = async {
        tokio::select! {
            answered = waits => panic!("{answered:?} although nobody answers"),
            done = done => done,
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("in time")
}

#[tokio::test]
async fn no_answer_of_the_gateway_waits_for_requests_that_are_forwarded() {
    let forwarded = [
        SERVICE,
        "/v4/default/registry/microservices",
        "/v4/default/registry/instances?appId=app&serviceName=q&version=0%2B",
    ];
    for path in forwarded {
        let stage = shared().await;
        stage.get(TARGETS, &[]).await;
        let known = stage.find("").await.rev;
        stage.plane.is_silent.store(true, Ordering::SeqCst);
        while_waiting(stage.get(path, &OF_C), async {
            while stage.plane.waiting.load(Ordering::SeqCst) == 0 {
                yield_now().await;
            }
            let instances = "/v4/default/registry/microservices/p/instances";
            for (path, status) in [
                (FIND, 200),
                (&format!("{FIND}&rev={known}"), 304),
                (instances, 200),
                (TARGETS, 200),
                ("/eureka/apps", 200),
            ] {
                assert_eq!(stage.beside_another(path).await.status, status, "{path}");
            }
            stage.of_another_tenant().await;
            assert_eq!(stage.batch(&batch_of("", &[], &[])).await.status, 200);
            assert_eq!(stage.plane.waiting.load(Ordering::SeqCst), 1, "nothing of that was forwarded");
        })
        .await;
    }
}

#[tokio::test]
async fn no_answer_of_the_gateway_waits_for_what_nobody_says_on_the_bus() {
    let stage = shared().await;
    let known = stage.find("").await.rev;
    stage.world.control_plane.fall_silent();
    let unconfirmed = format!("{FIND}&rev={known}");
    for waits in [&unconfirmed, TARGETS] {
        let asked_before = stage.world.control_plane.unanswered();
        while_waiting(stage.get(waits, &OF_C), async {
            while stage.world.control_plane.unanswered() == asked_before {
                yield_now().await;
            }
            assert_eq!(stage.beside_another(FIND).await.status, 200, "beside {waits}");
            // What is forwarded waits for nobody who waits for the bus.
            assert_eq!(stage.beside_another(SERVICE).await.body, ASKED, "beside {waits}");
        })
        .await;
    }
}
