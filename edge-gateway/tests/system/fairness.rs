//! A tenant that floods the gateway leaves room for others.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::any;
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use futures_util::future::join_all;
use host::lane::{self, SlowThreads};
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::forwarding::ask;
use crate::world::{PATIENCE, World, config};

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

/// A control plane for which each request of the project `flood` is work: for a while in the usual lane, and in
/// the slow lane, one of whose threads it takes, until the test lets it go on.
#[derive(Clone)]
struct Work(Arc<Working>);

struct Working {
    held: mpsc::Sender<()>,
    may_go_on: Mutex<bool>,
    goes_on: Condvar,
    answered_by_slow: AtomicUsize,
}

async fn work(State(Work(work)): State<Work>, uri: http::Uri) -> &'static str {
    if uri.path().starts_with("/v4/flood/") {
        if lane::is_slow() {
            work.held.try_send(()).expect("the test counts these");
            let mut may_go_on = work.may_go_on.lock();
            work.goes_on.wait_while(&mut may_go_on, |may| !*may);
            work.answered_by_slow.fetch_add(1, Ordering::SeqCst);
        } else {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
        }
    }
    "answered"
}

/// Counts and does not time: while the flood has every thread of the slow lane and none of it is answered, each
/// request of the other tenant is.
#[tokio::test]
async fn a_tenant_is_served_while_the_whole_flood_beside_it_waits() {
    let threads = SlowThreads::start(10, &Handle::current()).expect("threads start");
    let slow_threads = available_parallelism().map_or(1, NonZero::get);
    let (held, mut holds) = mpsc::channel(slow_threads);
    let working = Arc::new(Working {
        held,
        may_go_on: Mutex::new(false),
        goes_on: Condvar::new(),
        answered_by_slow: AtomicUsize::new(0),
    });
    let router = Router::new().fallback(any(work)).with_state(Work(working.clone()));
    let forward = Arc::new(InProcess::new(router));
    let config = Config { tenant_requests: 64, ..config() };
    let world = World::with_slow_lane(config, forward, threads.lane()).await;
    let (honest, flood) = ("/v4/default/registry/microservices", "/v4/flood/registry/microservices");
    // Shares count once another tenant has sent a request.
    assert_eq!(ask(&world, "GET", honest, "").await.expect("an answer").0, 200);
    let is_over = AtomicBool::new(false);
    let flooding = join_all((0..slow_threads).map(|_| async {
        while !is_over.load(Ordering::SeqCst) {
            assert_eq!(ask(&world, "GET", flood, "").await.expect("an answer").0, 200);
        }
    }));
    let other = async {
        for _ in 0..slow_threads {
            let held = tokio::time::timeout(PATIENCE, holds.recv()).await;
            held.expect("the flood moves to the slow lane in time").expect("the control plane is there");
        }
        for _ in 0..10 {
            // The rate of a usual client. One that asked without a pause would have the one usual thread for
            // itself now, take more than its share, and wait beside the flood.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(ask(&world, "GET", honest, "").await.expect("an answer").0, 200);
        }
        assert_eq!(working.answered_by_slow.load(Ordering::SeqCst), 0, "the flood waits");
        is_over.store(true, Ordering::SeqCst);
        *working.may_go_on.lock() = true;
        working.goes_on.notify_all();
    };
    tokio::join!(flooding, other);
    assert_eq!(working.answered_by_slow.load(Ordering::SeqCst), slow_threads, "the flood is answered, too");
}
