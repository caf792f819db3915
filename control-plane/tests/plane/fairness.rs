//! A tenant that floods the control plane leaves room for others.

use std::sync::Arc;
use std::time::Duration;

use crate::hooked::Hooked;
use crate::probe::Probe;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

/// A control plane that an honest tenant has used, and whose store holds the writes of the flood.
struct Flooded {
    probe: Probe,
    /// One for each write that the store holds.
    arrivals: mpsc::Receiver<()>,
    /// A permit lets one of them go on.
    go_on: Arc<Semaphore>,
    _directory: tempfile::TempDir,
}

impl Flooded {
    /// Starts it with this many places of each tenant.
    async fn start(places: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (arrived, arrivals) = mpsc::channel(16);
        let go_on = Arc::new(Semaphore::new(0));
        let held = go_on.clone();
        let settings = [("MUSTER_FAIRNESS_TENANT_REQUESTS", places)];
        let probe = Probe::start_wrapped(directory.path(), &settings, |store| {
            // The writes of the project `flood` wait until the test lets them go on.
            Hooked::around(store, move |store, txn| {
                let (arrived, held) = (arrived.clone(), held.clone());
                Box::pin(async move {
                    if format!("{txn:?}").contains("/default/flood/") {
                        arrived.send(()).await.expect("the test listens");
                        held.acquire().await.expect("never closed").forget();
                    }
                    store.txn(txn).await
                })
            })
        })
        .await;
        probe.service(json!({"serviceName": "honest"})).await;
        Self { probe, arrivals, go_on, _directory: directory }
    }
}

#[tokio::test]
async fn the_flood_of_one_tenant_leaves_room_for_others() {
    let Flooded { probe, mut arrivals, go_on, _directory } = Flooded::start("1").await;

    let body = |name| json!({"service": {"serviceName": name}}).to_string();
    let path = "/v4/flood/registry/microservices";
    let (first, second, ()) = tokio::join!(
        probe.send("POST", path, &[], body("a")),
        probe.send("POST", path, &[], body("b")),
        async {
            arrivals.recv().await.expect("the first of the flood arrives");
            assert!(probe.figures().contains(r#"muster_fairness_waited_total{plane="control_plane"} 1"#));
            arrivals.try_recv().expect_err("the second one waits");
            probe.service(json!({"serviceName": "other"})).await;
            // A heartbeat of the flood is answered, though by a refusal.
            let heartbeat = "/v4/flood/registry/microservices/s/instances/i/heartbeat";
            probe.send("PUT", heartbeat, &[], String::new()).await.refused("400017");
            go_on.add_permits(1);
            arrivals.recv().await.expect("the second one has the place of the first");
            // Of this tenant nothing else is held back.
            go_on.add_permits(Semaphore::MAX_PERMITS / 2);
        }
    );
    assert_eq!((first.status, second.status), (200, 200));
}

#[tokio::test]
async fn writes_that_wait_for_the_store_leave_their_places_to_others() {
    // Two for the one thread of this test, and three with those that wait for the store.
    let Flooded { probe, mut arrivals, go_on, _directory } = Flooded::start("3").await;

    let path = "/v4/flood/registry/microservices";
    let write = |name| probe.send("POST", path, &[], json!({"service": {"serviceName": name}}).to_string());
    let (a, b, c, d, ()) = tokio::join!(write("a"), write("b"), write("c"), write("d"), async {
        for _ in 0..3 {
            let arrival = tokio::time::timeout(Duration::from_secs(10), arrivals.recv());
            arrival.await.expect("three writes arrive at the store");
        }
        arrivals.try_recv().expect_err("the fourth waits");
        go_on.add_permits(Semaphore::MAX_PERMITS / 2);
        arrivals.recv().await.expect("it has the place of one that has ended");
    });
    assert_eq!([a, b, c, d].map(|answer| answer.status), [200; 4]);
}
