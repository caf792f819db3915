//! A tenant that floods the gateway leaves room for others.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::any;
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use tokio::sync::{Semaphore, mpsc};

use crate::forwarding::ask;
use crate::world::{World, config};

/// A control plane that says which requests of the project `flood` reach it, and answers each of them when
/// the test lets it.
#[derive(Clone)]
struct Held {
    arrived: mpsc::Sender<String>,
    go_on: Arc<Semaphore>,
}

async fn hold(State(held): State<Held>, method: http::Method, uri: http::Uri) -> &'static str {
    if uri.path().starts_with("/v4/flood/") && method == http::Method::GET {
        held.arrived.send(uri.path().to_owned()).await.expect("the test listens");
        held.go_on.acquire().await.expect("never closed").forget();
    }
    "answered"
}

#[tokio::test]
async fn the_flood_of_one_tenant_leaves_room_for_others() {
    let (arrived, mut arrivals) = mpsc::channel(2);
    let go_on = Arc::new(Semaphore::new(0));
    let router = Router::new().fallback(any(hold)).with_state(Held { arrived, go_on: go_on.clone() });
    let config = Config { tenant_requests: 1, ..config() };
    let world = World::with_forward(config, Arc::new(InProcess::new(router))).await;
    let honest = "/v4/default/registry/microservices";
    assert_eq!(ask(&world, "GET", honest, "").await.expect("an answer").0, 200);

    let flood = ["/v4/flood/registry/a", "/v4/flood/registry/b"];
    let (first, second, ()) =
        tokio::join!(ask(&world, "GET", flood[0], ""), ask(&world, "GET", flood[1], ""), async {
            arrivals.recv().await.expect("the first of the flood arrives");
            world.until(r#"muster_fairness_waited_total{plane="gateway"}"#, |waited| waited >= 1.0).await;
            arrivals.try_recv().expect_err("the second one waits");
            assert_eq!(ask(&world, "GET", honest, "").await.expect("an answer").0, 200);
            let heartbeat = "/v4/flood/registry/microservices/s/instances/i/heartbeat";
            assert_eq!(ask(&world, "PUT", heartbeat, "").await.expect("an answer").0, 200);
            go_on.add_permits(1);
            arrivals.recv().await.expect("the second one has the place of the first");
            go_on.add_permits(1);
        });
    assert_eq!((first.expect("an answer").0, second.expect("an answer").0), (200, 200));
}
