//! Drains of instances: the clients that are known to have been told, over two gateways.

use std::sync::Arc;
use std::time::Duration;

use answer::resolution::{FOUND, Resolution};
use async_trait::async_trait;
use axum::body::Body;
use bus::LocalBus;
use edge_gateway::forward::{Forward, NotForwarded};
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared::event::Action;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control_plane::{ControlPlane, service};
use crate::world::{PATIENCE, Watcher, World, config};

const WATCHER: &str = "/v4/default/registry/microservices/c/watcher";

/// The way to a control plane that commits and publishes each change of an instance.
#[derive(Clone)]
pub(crate) struct Plane {
    pub(crate) control_plane: ControlPlane,
    reachable: watch::Sender<bool>,
    refuses: bool,
    /// It is of a version that knows overrides and no marks of drains.
    is_older: bool,
    /// An override has every client see this status, whatever the instance reports; empty for none.
    overridden: &'static str,
    state: Arc<Mutex<State>>,
    /// The questions for instances, one by one and as lists.
    asked: Arc<Mutex<Vec<String>>>,
}

/// The state of the one instance.
#[derive(Debug)]
struct State {
    /// The status that it reports.
    reported: String,
    /// The query with which a drain marked it.
    mark: Option<String>,
    is_registered: bool,
}

impl Plane {
    fn new(control_plane: ControlPlane) -> Self {
        let state = State { reported: "UP".to_owned(), mark: None, is_registered: true };
        Self {
            control_plane,
            reachable: watch::Sender::new(true),
            refuses: false,
            is_older: false,
            overridden: "",
            state: Arc::new(Mutex::new(state)),
            asked: Arc::default(),
        }
    }

    fn reported(&self) -> String {
        self.state.lock().reported.clone()
    }

    fn mark(&self) -> Option<String> {
        self.state.lock().mark.clone()
    }

    /// Changes the instance, and returns the kind of the change; or the refusal.
    fn change(&self, method: &Method, path: &str, query: &str) -> Result<Action, (u16, &'static str)> {
        let mut state = self.state.lock();
        match (method.as_str(), path.rsplit('/').next().unwrap_or_default()) {
            ("PUT" | "DELETE", "drain") if self.is_older => return Err((404, "404 page not found")),
            (_, "drain") if path.contains("/instances/gone/") => {
                return Err((400, r#"{"errorCode":"400017"}"#));
            }
            (_, "drain") if path.contains("/instances/full/") => {
                return Err((400, r#"{"errorCode":"400100"}"#));
            }
            ("PUT", "drain") => state.mark = Some(query.to_owned()),
            ("DELETE", "drain") if state.mark.take().is_none() => {
                return Err((400, r#"{"errorCode":"400001"}"#));
            }
            ("DELETE", "drain") => {}
            ("PUT", "status") => query.trim_start_matches("value=").clone_into(&mut state.reported),
            _ => {
                state.is_registered = false;
                return Ok(Action::Delete);
            }
        }
        Ok(Action::Update)
    }

    /// The instance with its overrides, of which one says nothing about the status.
    fn shown(&self) -> Value {
        let reported = self.reported();
        let status = match self.mark() {
            Some(_) => "OUTOFSERVICE",
            None if self.overridden.is_empty() => &reported,
            None => self.overridden,
        };
        json!({
            "instance": { "instanceId": "1", "status": status },
            "reported": { "instanceId": "1", "status": reported },
            "overrides": [{ "weight": 5 }, { "status": self.overridden }],
        })
    }
}

#[async_trait]
impl Forward for Plane {
    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, NotForwarded> {
        let mut response = Response::new(Body::empty());
        if self.refuses {
            *response.status_mut() = StatusCode::FORBIDDEN;
            return Ok(response);
        }
        let path = request.uri().path();
        if *request.method() == Method::GET {
            self.asked.lock().push(path.rsplit_once("/microservices/").unwrap_or_default().1.to_owned());
        }
        if *request.method() == Method::GET && path.ends_with("/registry/instances") {
            let found = Resolution { rev: self.control_plane.rev(), services: vec![service("p")] };
            let answer = Response::builder().header(FOUND, found.encode().expect("is short"));
            return Ok(answer.body(Body::from(self.shown().to_string())).expect("a header"));
        }
        if *request.method() == Method::GET && path.ends_with("/many/instances") {
            let status = self.shown()["instance"]["status"].clone();
            let many: Vec<_> =
                (0..20).map(|id| json!({ "instanceId": id.to_string(), "status": status })).collect();
            return Ok(Response::new(Body::from(json!({ "instances": many }).to_string())));
        }
        if *request.method() == Method::GET && path.ends_with("/q/instances") {
            let list = json!({ "instances": [{ "instanceId": "gone" }, { "instanceId": "1" }] });
            return Ok(Response::new(Body::from(list.to_string())));
        }
        if *request.method() == Method::GET && path.ends_with("/f/instances") {
            let list = json!({ "instances": [{ "instanceId": "1" }, { "instanceId": "full" }] });
            return Ok(Response::new(Body::from(list.to_string())));
        }
        if path.starts_with("/registry/v3/") {
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
        if *request.method() == Method::GET {
            return Ok(Response::new(Body::from(self.shown().to_string())));
        }
        let query = request.uri().query().unwrap_or_default();
        let action = match self.change(request.method(), path, query) {
            Ok(action) => action,
            Err((status, body)) => {
                let body = Body::from(body);
                return Ok(Response::builder().status(status).body(body).expect("a status"));
            }
        };
        let rev = self.control_plane.change("p", action, "1").await.at.rev;
        response.headers_mut().insert("x-muster-revision", rev.get().into());
        Ok(response)
    }

    fn reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }
}

/// Two gateways on one bus; the second one has a runtime of its own, so that it can be killed.
pub(crate) struct Stage {
    pub(crate) plane: Plane,
    pub(crate) first: World,
    pub(crate) second: Option<(Runtime, World)>,
    readers: JoinSet<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill_second();
    }
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let bus = LocalBus::new();
        let control_plane = ControlPlane::start(Arc::new(bus.clone())).await;
        control_plane.consumer("c", &["p"]);
        control_plane.change("p", Action::Create, "1").await;
        let plane = Plane::new(control_plane.clone());
        let mut readers = JoinSet::new();
        readers.spawn({
            let control_plane = control_plane.clone();
            async move {
                loop {
                    control_plane.bookmark().await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let first = Self::gateway(&bus, &plane).await;
        let runtime = Runtime::new().expect("a runtime");
        let second = runtime.spawn({
            let bus = bus.clone();
            let plane = plane.clone();
            async move { Self::gateway(&bus, &plane).await }
        });
        let second = second.await.expect("does not panic");
        first.until("muster_edge_other_gateways_ready", |ready| ready == 1.0).await;
        Self { plane, first, second: Some((runtime, second)), readers }
    }

    async fn gateway(bus: &LocalBus, plane: &Plane) -> World {
        let forward = Arc::new(plane.clone());
        World::with_control_plane(config(), Arc::new(bus.clone()), forward, plane.control_plane.clone()).await
    }

    pub(crate) fn kill_second(&mut self) {
        if let Some((runtime, world)) = self.second.take() {
            runtime.shutdown_background();
            // Not dropped: that would ask its tasks to end, and one that has not been stopped yet would tell the
            // others that this gateway ends.
            std::mem::forget(world);
        }
    }

    /// Reads everything that a watcher is sent, and so answers its pings.
    fn read(&mut self, mut watcher: Watcher) {
        self.readers.spawn(async move { while let Some(Ok(_)) = watcher.next().await {} });
    }

    /// So many watchers of each kind at a gateway, which read.
    async fn readers_at(&mut self, is_first: bool, count: usize) {
        for path in [WATCHER.to_owned(), format!("{WATCHER}?rev=0")] {
            for _ in 0..count {
                let world = match &self.second {
                    Some((_, second)) if !is_first => second,
                    _ => &self.first,
                };
                let watcher = world.watch_path(&path).await;
                self.read(watcher);
            }
        }
    }

    /// Drains the instance; returns the lines of the answer.
    pub(crate) async fn drain(&self, query: &str) -> Vec<Value> {
        let answer = drained(&self.first, query).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let lines = answer.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The watchers of the provider.
    async fn watchers(&self) -> Value {
        let answer = call(&self.first, "GET /v4/default/registry/microservices/p/watchers?names=5").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        serde_json::from_str(body).expect("JSON")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_when_all_watchers_have_answered() {
    let mut stage = Stage::start().await;
    stage.readers_at(true, 3).await;
    stage.readers_at(false, 2).await;
    let mut events = TcpStream::connect(stage.first.api).await.expect("connects");
    let request = "GET /v4/default/registry/events?consumer=c&rev=0 HTTP/1.1\r\nHost: x\r\n\r\n";
    events.write_all(request.as_bytes()).await.expect("is sent");
    stage.first.until("muster_edge_sessions", |open| open == 7.0).await;
    let lines = stage.drain("deadline=30s&then=unregister").await;
    let last = lines.last().expect("a line");
    assert_eq!((&last["done"], &last["proven"]), (&Value::from(true), &Value::from(true)), "{last}");
    assert_eq!((&last["watchers"], &last["reached"]), (&Value::from(11), &Value::from(11)), "{last}");
    assert_eq!(last["gateways"], 2, "{last}");
    assert_eq!(last["then"], "unregistered", "{last}");
    assert!(!stage.plane.state.lock().is_registered);
    assert_eq!(stage.first.metric(r#"muster_edge_drains_total{end="proven"}"#), 1.0);
    assert_eq!(stage.first.metric("muster_edge_drains_running"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_named() {
    let mut stage = Stage::start().await;
    stage.readers_at(true, 2).await;
    stage.readers_at(false, 2).await;
    let second = &stage.second.as_ref().expect("it lives").1;
    // Its client would answer a ping only when it is read.
    let _idle = second.watch("c").await;
    let lines = stage.drain("deadline=10s").await;
    let last = lines.last().expect("a line");
    assert_eq!(last["proven"], false, "{last}");
    assert!(lines.iter().all(|line| line["proven"] == false), "{lines:?}");
    assert_eq!((&last["watchers"], &last["reached"]), (&Value::from(9), &Value::from(8)), "{last}");
    let waiting = last["waiting"].as_array().expect("a list");
    assert_eq!(waiting.len(), 1, "{last}");
    assert_eq!(waiting[0]["consumer"], "c");
    assert_eq!(waiting[0]["transport"], "websocket");
    assert_eq!(waiting[0]["state"], "unanswered");
    assert_eq!(waiting[0]["gateway"], second.api.to_string());
    assert_eq!(last["then"], "kept");
    assert_eq!(stage.plane.reported(), "UP", "its own status is left alone");
    // Time to stop it, after the deadline.
    assert_eq!(stage.plane.mark().as_deref(), Some("seconds=3610"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_counted_at_each_gateway_and_sent_nothing() {
    let mut stage = Stage::start().await;
    stage.readers_at(true, 2).await;
    stage.readers_at(false, 1).await;
    let second = &stage.second.as_ref().expect("it lives").1;
    let names = [stage.first.api.to_string(), second.api.to_string()];
    let mut witness = stage.first.watch("c").await;
    // A gateway listens for some seconds before it knows the others.
    let all = loop {
        let all = tokio::select! {
            all = stage.watchers() => all,
            event = witness.event() => panic!("nothing was changed: {event:?}"),
        };
        if all["proven"] == true {
            break all;
        }
    };
    assert_eq!((&all["watchers"], &all["reached"]), (&Value::from(7), &Value::from(7)), "{all}");
    let mut at: Vec<_> = all["at"].as_array().expect("a list").iter().collect();
    at.sort_by_key(|one| one["watchers"].as_u64());
    assert_eq!((&at[0]["gateway"], &at[0]["watchers"]), (&Value::from(names[1].as_str()), &Value::from(2)));
    assert_eq!((&at[1]["gateway"], &at[1]["reached"]), (&Value::from(names[0].as_str()), &Value::from(5)));
    // One that does not read is named.
    let _idle = second.watch("c").await;
    let all = tokio::select! {
        all = stage.watchers() => all,
        event = witness.event() => panic!("nothing was changed: {event:?}"),
    };
    assert_eq!(
        (&all["proven"], &all["watchers"], &all["reached"]),
        (&false.into(), &8.into(), &7.into()),
        "{all}"
    );
    assert_eq!(all["waiting"][0]["gateway"], names[1].as_str(), "{all}");
    assert_eq!(stage.first.metric("muster_edge_drains_running"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_gateway_has_not_told_its_watchers() {
    let mut stage = Stage::start().await;
    stage.readers_at(true, 2).await;
    stage.readers_at(false, 2).await;
    stage.kill_second();
    let lines = stage.drain("deadline=9s").await;
    assert!(lines.iter().all(|line| line["proven"] == false), "{lines:?}");
    let last = lines.last().expect("a line");
    assert_eq!((&last["watchers"], &last["reached"]), (&Value::from(4), &Value::from(4)), "{last}");
    assert_eq!(last["silent"].as_array().map(Vec::len), Some(1), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_comes_after_the_change_is_told() {
    let stage = Stage::start().await;
    // Follows the provider already, and so the change has been delivered before the second one comes.
    let mut early = stage.first.watch("c").await;
    let mut late: Option<Watcher> = None;
    let draining = stage.drain("deadline=30s&then=keep");
    let coming = async {
        let change = early.event().await;
        let mut watcher = stage.first.watch("c").await;
        let told = watcher.event().await;
        assert_eq!(told.1, change.1);
        assert_eq!((told.0.as_str(), told.2), ("UPDATE", change.2));
        late = Some(watcher);
        // Both go on reading until the drain has ended.
        loop {
            tokio::select! {
                _ = early.next() => {}
                _ = async { late.as_mut().expect("is there").next().await } => {}
            }
        }
    };
    let lines = tokio::select! {
        lines = draining => lines,
        () = coming => unreachable!("it never ends"),
    };
    let last = lines.last().expect("a line");
    assert_eq!((&last["proven"], &last["reached"]), (&Value::from(true), &Value::from(2)), "{last}");
}

#[tokio::test]
async fn a_refusal_of_the_control_plane_is_the_answer() {
    let control_plane = ControlPlane::start(Arc::new(LocalBus::new())).await;
    let plane = Plane { refuses: true, ..Plane::new(control_plane) };
    let world = World::with_forward(config(), Arc::new(plane)).await;
    for (query, status) in [("", "403"), ("?deadline=2h", "400"), ("?then=else", "400")] {
        let mut stream = TcpStream::connect(world.api).await.expect("connects");
        let request = format!(
            "POST /registry/v3/microservices/p/instances/1/drain{query} HTTP/1.1\r\nHost: x\r\n\
             Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("is sent");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
        assert_eq!(answer.get(9..12), Some(status), "{query}: {answer}");
    }
}

/// A gateway, and the control plane before which it stands.
async fn alone(plane: impl FnOnce(ControlPlane) -> Plane) -> (World, Plane) {
    let bus = LocalBus::new();
    let control_plane = ControlPlane::start(Arc::new(bus.clone())).await;
    control_plane.change("p", Action::Create, "1").await;
    let plane = plane(control_plane);
    (Stage::gateway(&bus, &plane).await, plane)
}

/// A control plane without marks, at which an override has clients see this status.
fn older(overridden: &'static str) -> impl FnOnce(ControlPlane) -> Plane {
    move |control_plane| Plane { is_older: true, overridden, ..Plane::new(control_plane) }
}

async fn drained(world: &World, query: &str) -> String {
    call(world, &format!("POST /v4/default/registry/microservices/p/instances/1/drain?{query}")).await
}

async fn call(world: &World, line: &str) -> String {
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = String::new();
    timeout(2 * PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_gives_back_what_was_before() {
    let mut stage = Stage::start().await;
    let second = &stage.second.as_ref().expect("it lives").1;
    // It never answers, so the drain is under way when its gateway dies.
    let _idle = second.watch("c").await;
    let mut cut_off = TcpStream::connect(second.api).await.expect("connects");
    let request = "POST /v4/default/registry/microservices/p/instances/1/drain?then=give-back HTTP/1.1\r\n\
                   Host: x\r\nContent-Length: 0\r\n\r\n";
    cut_off.write_all(request.as_bytes()).await.expect("is sent");
    let mut byte = [0];
    timeout(PATIENCE, cut_off.read_exact(&mut byte)).await.expect("in time").expect("the answer begins");
    stage.kill_second();
    assert_eq!(
        stage.plane.mark().as_deref(),
        Some("seconds=130"),
        "the mark outlives its gateway by a minute beyond the deadline"
    );
    let lines = stage.drain("deadline=1s&then=give-back&for=2h&reason=again").await;
    let last = lines.last().expect("a line");
    assert_eq!((&last["proven"], &last["then"]), (&false.into(), &"given back".into()), "{last}");
    assert_eq!(last["stillOut"], Value::Null, "{last}");
    assert_eq!((stage.plane.mark(), stage.plane.reported()), (None, "UP".to_owned()));
}

#[tokio::test]
async fn one_that_stays_out_is_not_said_to_be_back() {
    let (world, plane) =
        alone(|control_plane| Plane { overridden: "DOWN", ..Plane::new(control_plane) }).await;
    let answer = drained(&world, "deadline=1s&then=give-back").await;
    assert!(answer.contains(r#""then":"given back","stillOut":1"#), "{answer}");
    assert_eq!((plane.mark(), plane.reported()), (None, "UP".to_owned()));
}

#[tokio::test]
async fn a_service_that_is_given_back_is_looked_at_once() {
    let (world, plane) =
        alone(|control_plane| Plane { overridden: "DOWN", ..Plane::new(control_plane) }).await;
    let line = "POST /v4/default/registry/microservices/many/drain?deadline=1s&then=give-back";
    let answer = call(&world, line).await;
    assert!(answer.contains(r#""then":"given back","stillOut":20"#), "{answer}");
    assert_eq!(*plane.asked.lock(), ["many/instances", "many/instances"], "before the marks, and at the end");
}

#[tokio::test]
async fn a_drain_by_the_older_paths_is_one_of_the_newer() {
    let (world, plane) = alone(Plane::new).await;
    let line = "POST /registry/v3/microservices/p/instances/1/drain?deadline=1s&reason=new+disk";
    let answer = call(&world, line).await;
    assert!(answer.contains(r#""then":"kept""#), "{answer}");
    assert_eq!(plane.mark().as_deref(), Some("seconds=3601&reason=new+disk"));
}

#[tokio::test]
async fn only_an_instance_that_is_gone_is_left_out() {
    let (world, _) = alone(Plane::new).await;
    let of = async |service: &str| {
        call(&world, &format!("POST /v4/default/registry/microservices/{service}/drain?deadline=1s")).await
    };
    let answer = of("q").await;
    assert!(answer.contains(r#""instances":1"#), "{answer}");
    let answer = of("f").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("400100"), "{answer}");
}

#[tokio::test]
async fn an_override_ends_a_drain_without_marks() {
    let (world, plane) = alone(older("UP")).await;
    let answer = drained(&world, "deadline=5s&then=unregister").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("override"), "{answer}");
    assert_eq!(plane.reported(), "UP", "nothing was marked");
    // Beside marks it ends none.
    let (world, plane) = alone(|control_plane| Plane { overridden: "UP", ..Plane::new(control_plane) }).await;
    let answer = drained(&world, "deadline=1s").await;
    assert!(answer.contains(r#""then":"kept""#) && plane.mark().is_some(), "{answer}");
}

#[tokio::test]
async fn without_marks_the_reported_status_is_given_back() {
    let (world, plane) = alone(older("DOWN")).await;
    let answer = drained(&world, "deadline=1s&then=give-back").await;
    assert!(answer.contains(r#""then":"given back""#), "{answer}");
    assert_eq!(plane.reported(), "UP", "and not the one of the override");
}
