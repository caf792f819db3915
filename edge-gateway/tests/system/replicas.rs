//! Control planes of which one has lost its store, while the other one is fine.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use edge_gateway::forward::{Forward, ForwardConfig, Replicas};
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::forwarding::{replicas_with, served};
use crate::world::PATIENCE;

const HEARTBEAT: &str = "/v4/default/registry/microservices/s/instances/i/heartbeat";
const INSTANCES: &str = "/v4/default/registry/microservices/s/instances";
const READINESS: &str = "/v4/default/registry/health/readiness";

/// The way in which a control plane serves what needs its store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Answers,
    Refuses,
    IsSilent,
}

/// A control plane, and the number of requests to it that were not probes.
#[derive(Clone)]
struct Plane {
    store: Store,
    is_ready: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl Plane {
    fn new(store: Store) -> Self {
        Self {
            store,
            is_ready: Arc::new(AtomicBool::new(true)),
            reads: Arc::default(),
            writes: Arc::default(),
        }
    }

    async fn answer(self, request: Request) -> Response {
        if request.uri().path() == READINESS {
            let is_ready = self.is_ready.load(Ordering::SeqCst);
            let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            return status.into_response();
        }
        if request.method() == Method::GET {
            self.reads.fetch_add(1, Ordering::SeqCst);
            return "read".into_response();
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        match self.store {
            Store::Answers => "written".into_response(),
            Store::Refuses => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Store::IsSilent => std::future::pending().await,
        }
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

async fn forward_to(planes: [&Plane; 2], tasks: &Tasks) -> Arc<Replicas> {
    let mut control_planes = Vec::new();
    for plane in planes {
        let plane = plane.clone();
        let router =
            Router::new().fallback(async move |request: Request| plane.clone().answer(request).await);
        control_planes.push(served(router, tasks).await);
    }
    let config = ForwardConfig { control_planes, ..ForwardConfig::default() };
    let replicas = replicas_with(config, &Metrics::new([]).expect("sets up"), tasks);
    replicas.reachable().wait_for(|reachable| *reachable).await.expect("probed");
    replicas
}

/// Waits until `holds` is true.
async fn eventually<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let attempts = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempts).await.expect("in time");
}

async fn send(replicas: &Arc<Replicas>, method: Method, path: &str) -> u16 {
    let request = Request::builder().method(method).uri(path).body(axum::body::Body::empty());
    let answer = replicas.forward(request.expect("a request")).await;
    answer.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test]
async fn heartbeats_go_on_at_the_plane_that_has_its_store() {
    for fault in [Store::Refuses, Store::IsSilent] {
        let tasks = Tasks::new();
        let broken = Plane::new(fault);
        let sound = Plane::new(Store::Answers);
        let replicas = forward_to([&broken, &sound], &tasks).await;
        for n in 0..40 {
            assert_eq!(send(&replicas, Method::PUT, HEARTBEAT).await, 200, "heartbeat {n}");
        }
        assert_eq!(sound.writes(), 40);
        // One shows the fault, and it counts for a while; on a slow machine once more.
        assert!((1..=3).contains(&broken.writes()), "{} were tried in vain", broken.writes());
        for _ in 0..10 {
            assert_eq!(send(&replicas, Method::GET, INSTANCES).await, 200);
        }
        // One that refuses still takes turns at reads. One that is silent may have old answers only.
        let expected = if fault == Store::Refuses { (5, 5) } else { (0, 10) };
        assert_eq!((broken.reads(), sound.reads()), expected);
        assert_eq!(send(&replicas, Method::POST, INSTANCES).await, 200, "registrations follow at once");
        tasks.drain().cancel();
    }
}

#[tokio::test]
async fn an_unrepeatable_request_is_sent_once() {
    let tasks = Tasks::new();
    let broken = [Plane::new(Store::Refuses), Plane::new(Store::Refuses)];
    let replicas = forward_to([&broken[0], &broken[1]], &tasks).await;
    for _ in 0..10 {
        assert_eq!(send(&replicas, Method::POST, INSTANCES).await, 500);
    }
    assert_eq!(broken[0].writes() + broken[1].writes(), 10);
    assert_eq!(send(&replicas, Method::PUT, HEARTBEAT).await, 500, "both fail, and the client hears it");
    assert_eq!(broken[0].writes() + broken[1].writes(), 12);
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_plane_that_is_not_ready_is_asked_only_when_others_fail() {
    let tasks = Tasks::new();
    let unready = Plane::new(Store::Answers);
    unready.is_ready.store(false, Ordering::SeqCst);
    let ready = Plane::new(Store::Answers);
    let replicas = forward_to([&unready, &ready], &tasks).await;
    // A probe of each may still be on its way.
    eventually(|| async {
        let before = unready.reads();
        for _ in 0..4 {
            send(&replicas, Method::GET, INSTANCES).await;
        }
        unready.reads() == before
    })
    .await;
    ready.is_ready.store(false, Ordering::SeqCst);
    eventually(|| async {
        let before = unready.reads();
        for _ in 0..4 {
            assert_eq!(send(&replicas, Method::GET, INSTANCES).await, 200, "none is ready, all are asked");
        }
        unready.reads() == before + 2
    })
    .await;
    assert!(*replicas.reachable().borrow(), "planes that answer from memory are still of use");
    tasks.drain().cancel();
}

/// A control plane that is ready, and answers nothing but probes until `answer` is there.
fn answering<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> Router
where
    F: Future<Output = Response> + Send + 'static,
{
    Router::new().fallback(async move |request: Request| {
        let answer: Pin<Box<dyn Future<Output = Response> + Send>> = match request.uri().path() {
            READINESS => Box::pin(async { StatusCode::OK.into_response() }),
            _ => Box::pin(answer()),
        };
        answer.await
    })
}

/// Forwards to one that fails at every request, and to another one. `asked` tells how often the first one was asked.
async fn beside_a_fault(other: String, asked: watch::Sender<usize>, tasks: &Tasks) -> Arc<Replicas> {
    let failing = answering(move || {
        asked.send_modify(|asked| *asked += 1);
        async { StatusCode::SERVICE_UNAVAILABLE.into_response() }
    });
    let control_planes = vec![served(failing, tasks).await, other];
    // Whoever waited for the whole of it would outlast the test.
    let answer_timeout = Duration::from_secs(3600);
    let config = ForwardConfig { control_planes, answer_timeout, ..ForwardConfig::default() };
    let replicas = replicas_with(config, &Metrics::new([]).expect("sets up"), tasks);
    replicas.reachable().wait_for(|reachable| *reachable).await.expect("probed");
    replicas
}

#[tokio::test]
async fn a_fault_is_told_although_another_plane_hangs() {
    let tasks = Tasks::new();
    // The kernel takes connections for it, and nothing is ever answered.
    let hung = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = format!("http://{}", hung.local_addr().expect("bound"));
    let replicas = beside_a_fault(address, watch::Sender::new(0), &tasks).await;
    // A second for each of them, as long as a plane that hangs is waited for, would be too long for all of them.
    let all = async {
        for _ in 0..25 {
            assert_eq!(send(&replicas, Method::GET, INSTANCES).await, 503);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("in time");
    drop(hung);
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_fault_is_told_although_another_plane_answers_nothing_but_probes() {
    let tasks = Tasks::new();
    let stuck = served(answering(std::future::pending::<Response>), &tasks).await;
    let replicas = beside_a_fault(stuck, watch::Sender::new(0), &tasks).await;
    let told = tokio::time::timeout(PATIENCE, send(&replicas, Method::GET, INSTANCES)).await;
    assert_eq!(told.expect("in time"), 503);
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_plane_that_is_merely_slow_is_waited_for_beside_one_without_its_store() {
    let tasks = Tasks::new();
    let asked = watch::Sender::new(0);
    let reads = Arc::new(AtomicUsize::new(0));
    let slow = answering({
        let (asked, reads) = (asked.clone(), reads.clone());
        move || {
            let (mut asked, number) = (asked.subscribe(), reads.fetch_add(1, Ordering::SeqCst));
            async move {
                // Later than the other one's fault, for which it must not be passed by.
                asked.wait_for(|asked| *asked > number).await.expect("the sender is in the other one");
                tokio::time::sleep(Duration::from_millis(300)).await;
                "read".into_response()
            }
        }
    });
    let replicas = beside_a_fault(served(slow, &tasks).await, asked, &tasks).await;
    // Either of the two is asked first.
    for _ in 0..4 {
        assert_eq!(send(&replicas, Method::GET, INSTANCES).await, 200);
    }
    tasks.drain().cancel();
}

#[tokio::test]
async fn reads_of_a_plane_that_answers_probes_late_are_waited_for() {
    let tasks = Tasks::new();
    let probes = Arc::new(AtomicUsize::new(0));
    let slow = Router::new().fallback(async move |request: Request| {
        // Only the first probe is answered in time, and reads take longer than a plane is waited for that hangs.
        let is_probe = request.uri().path() == READINESS;
        let late = match is_probe {
            true if probes.fetch_add(1, Ordering::SeqCst) == 0 => 0,
            true => 500,
            false => 1500,
        };
        tokio::time::sleep(Duration::from_millis(late)).await;
        "slow".into_response()
    });
    let control_planes = vec![served(slow, &tasks).await];
    let probe_interval = Duration::from_millis(200);
    let config = ForwardConfig { control_planes, probe_interval, ..ForwardConfig::default() };
    let replicas = replicas_with(config, &Metrics::new([]).expect("sets up"), &tasks);
    replicas.reachable().wait_for(|reachable| *reachable).await.expect("probed");
    eventually(async || send(&replicas, Method::GET, INSTANCES).await == 200).await;
    tasks.drain().cancel();
}
