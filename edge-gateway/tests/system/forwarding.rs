//! Requests that are not watches.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::{any, get, put};
use edge_gateway::Config;
use edge_gateway::forward::{Forward, ForwardConfig, InProcess, NotForwarded, Replicas};
use futures_util::FutureExt as _;
use host::http::{ServerLimits, serve};
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shared::event::Action::Create;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Error;
use tokio_util::sync::CancellationToken;

use crate::world::{PATIENCE, World, config};

pub(crate) async fn ask(
    world: &World,
    method: &str,
    path: &str,
    body: &'static str,
) -> Result<(u16, String), String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", world.api))
        .header("x-muster-min-revision", "999999")
        .header("connection", "x-private, keep-alive")
        .header("x-private", "between us")
        .header("x-forwarded-for", "10.0.0.1")
        .body(Full::from(body))
        .expect("a request");
    let answer = client.request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).expect("text")))
}

/// A control plane that answers with the request it received.
pub(crate) fn echo() -> Router {
    any(async |request: Request| {
        let (parts, body) = request.into_parts();
        let header =
            |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let body = axum::body::to_bytes(body, 10_000_000).await.expect("reads");
        format!(
            "{} {} {} {} {} {}",
            parts.method,
            parts.uri.path_and_query().expect("a path"),
            header("x-muster-min-revision"),
            header("x-forwarded-for"),
            header("x-private"),
            body.len(),
        )
    })
    .into_router()
}

trait IntoRouter {
    fn into_router(self) -> Router;
}

impl IntoRouter for axum::routing::MethodRouter {
    fn into_router(self) -> Router {
        Router::new().fallback_service(self)
    }
}

/// Serves `router` as a control plane until the test ends; returns its address.
pub(crate) async fn served(router: Router, tasks: &Tasks) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let of_server = tasks.clone();
    tasks.spawn(async move { serve(listener, router, ServerLimits::default(), &of_server).await });
    address
}

fn replicas(control_planes: Vec<String>, tasks: &Tasks) -> Arc<Replicas> {
    let config = ForwardConfig { control_planes, ..ForwardConfig::default() };
    replicas_with(config, &Metrics::new([]).expect("sets up"), tasks)
}

pub(crate) fn replicas_with(config: ForwardConfig, metrics: &Metrics, tasks: &Tasks) -> Arc<Replicas> {
    Arc::new(Replicas::new(config, &metrics.meter("test"), tasks).expect("good addresses"))
}

#[tokio::test]
async fn requests_are_forwarded_with_the_headers_they_need() {
    let tasks = Tasks::new();
    let over_network: Arc<dyn Forward> = replicas(vec![served(echo(), &tasks).await], &tasks);
    let in_process: Arc<dyn Forward> = Arc::new(InProcess::new(echo()));
    for forward in [over_network, in_process] {
        let world = World::with_forward(config(), forward).await;
        // Nothing has been pushed yet, and the revision that the client itself claims does not count.
        let answer = ask(&world, "GET", "/v4/default/registry/instances?x=%20y", "").await;
        assert_eq!(
            answer,
            Ok((200, "GET /v4/default/registry/instances?x=%20y - 10.0.0.1, 127.0.0.1 - 0".into()))
        );

        world.control_plane.consumer("c", &["p"]);
        let mut watcher = world.watch("c").await;
        let event = world.control_plane.change("p", Create, "1").await;
        watcher.expect(&event).await;
        let answer = ask(&world, "GET", "/a", "").await.expect("answered");
        assert_eq!(answer.1, format!("GET /a {} 10.0.0.1, 127.0.0.1 - 0", event.at.rev));
        let answer = ask(&world, "POST", "/b", "body").await.expect("answered");
        assert_eq!(answer.1, "POST /b - 10.0.0.1, 127.0.0.1 - 4");
    }
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_read_requires_the_last_write_of_its_tenant() {
    let tasks = Tasks::new();
    let control_plane = any(async |request: Request| {
        let required = request.headers().get("x-muster-min-revision");
        let required = required.and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let is_write = request.method() == "PUT";
        let written = is_write.then_some([("x-muster-revision", "7")]);
        (axum::response::AppendHeaders(written.unwrap_or([("x-other", "")])), required)
    });
    let address = served(control_plane.into_router(), &tasks).await;
    let world = World::with_forward(config(), replicas(vec![address], &tasks)).await;
    for (method, path, required) in [
        ("GET", "/v4/default/registry/instances", "-"),
        ("PUT", "/v4/default/registry/microservices/a/properties", "-"),
        ("GET", "/v4/default/registry/instances?x=y", "7"),
        ("GET", "/registry/v3/microservices", "7"),
        // Finds of many providers are asked for in a body.
        ("POST", "/v4/default/registry/instances/action", "7"),
        ("PUT", "/v4/default/registry/microservices/a/properties", "-"),
        ("GET", "/v4/another/registry/instances", "-"),
    ] {
        let answer = ask(&world, method, path, "").await;
        assert_eq!(answer, Ok((200, required.to_owned())), "{method} {path}");
    }
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_read_requires_what_earlier_ones_of_its_tenant_have_shown() {
    let tasks = Tasks::new();
    // The path of each request says what its answer shows.
    let control_plane = any(async |request: Request| {
        let required = request.headers().get("x-muster-min-revision");
        let required = required.and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let shown = request.uri().query().unwrap_or_default().to_owned();
        (axum::response::AppendHeaders([("x-muster-shown", shown)]), required)
    });
    let address = served(control_plane.into_router(), &tasks).await;
    let world = World::with_forward(config(), replicas(vec![address], &tasks)).await;
    world.control_plane.bookmark().await;
    // A replica that has not noticed a restore yet counts revisions of another incarnation. Each attempt is made for
    // another tenant, until the gateway knows the incarnation of its store.
    for attempt in 0.. {
        let path = format!("/v4/attempt-{attempt}/registry/microservices/a");
        ask(&world, "GET", &format!("{path}?4/100"), "").await.expect("an answer");
        if ask(&world, "GET", &format!("{path}?"), "").await == Ok((200, "-".to_owned())) {
            break;
        }
    }
    for (method, path, required) in [
        ("GET", "/v4/default/registry/microservices/a?0/5", "-"),
        ("GET", "/v4/default/registry/microservices/a?0/9", "5"),
        // Another replica may show an earlier state, when it has answered a request from before.
        ("GET", "/v4/default/registry/microservices/a?0/7", "9"),
        ("GET", "/v4/another/registry/microservices/a?", "-"),
        ("GET", "/v4/default/registry/microservices/a?4/100", "9"),
        ("GET", "/v4/default/registry/microservices/a?", "9"),
    ] {
        let answer = ask(&world, method, path, "").await;
        assert_eq!(answer, Ok((200, required.to_owned())), "{method} {path}");
    }
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_restore_that_the_bus_has_not_told_of_leaves_no_requirement() {
    let tasks = Tasks::new();
    let control_plane = any(async |request: Request| {
        let required = request.headers().get("x-muster-min-revision");
        let required = required.and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let shown = request.uri().query().unwrap_or_default().to_owned();
        // As a control plane refuses a revision that it does not reach.
        let status = if required == "900" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, axum::response::AppendHeaders([("x-muster-shown", shown)]), required)
    });
    let address = served(control_plane.into_router(), &tasks).await;
    // Nothing was heard on the bus, so the incarnation of the store is not known.
    let world = World::with_forward(config(), replicas(vec![address], &tasks)).await;
    for (path, status, required) in [
        ("/v4/default/registry/microservices/a?0/900", 200, "-"),
        ("/v4/default/registry/microservices/a?7/50", 503, "900"),
        ("/v4/default/registry/microservices/a?7/50", 200, "50"),
    ] {
        assert_eq!(ask(&world, "GET", path, "").await, Ok((status, required.to_owned())), "{path}");
    }
    tasks.drain().cancel();
}

#[tokio::test]
async fn a_draining_gateway_answers_while_it_holds_watchers() {
    let drain_over = std::time::Duration::from_secs(3600);
    let world =
        World::with_forward(Config { drain_over, ..config() }, Arc::new(InProcess::new(echo()))).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watchers = Vec::new();
    for _ in 0..20 {
        watchers.push(world.watch("c").await);
    }
    world.tasks.drain().cancel();
    for request in [
        "GET /v4/default/registry/microservices HTTP/1.1\r\nHost: test\r\n\r\n",
        "PUT /v4/default/registry/microservices/s/instances/i/heartbeat HTTP/1.1\r\nHost: test\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(world.api).await.expect("is accepted");
        stream.write_all(request.as_bytes()).await.expect("is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the gateway ends the connection");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Connection: close"), "{answer}");
    }
    let event = world.control_plane.change("p", Create, "1").await;
    let last = watchers.last_mut().expect("twenty");
    last.expect(&event).await;
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_passed_over() {
    let tasks = Tasks::new();
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let nobody = format!("http://{}", gone.local_addr().expect("bound"));
    drop(gone);
    let busy = Router::new().fallback(async || (StatusCode::SERVICE_UNAVAILABLE, "not yet"));
    let addresses = vec![nobody, served(busy, &tasks).await, served(echo(), &tasks).await];
    let world = World::with_forward(config(), replicas(addresses, &tasks)).await;
    let mut good = 0;
    for _ in 0..30 {
        let (status, _) = ask(&world, "GET", "/a", "").await.expect("answered");
        good += usize::from(status == 200);
    }
    assert!(good >= 28, "{good} of 30 requests: only the first ones may fail");
    tasks.drain().cancel();
}

/// A process that hangs: the kernel takes connections for it, and nothing is ever answered.
#[tokio::test]
async fn replicas_that_hang_are_not_waited_for() {
    let tasks = Tasks::new();
    let [one, other] = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
    let [one, other] = [one.expect("binds"), other.expect("binds")];
    let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("bound"));
    let forward = ForwardConfig {
        control_planes: vec![address(&one), address(&other)],
        probe_interval: Duration::from_millis(50),
        // A request that waited for the whole of it would outlast any test.
        answer_timeout: Duration::from_secs(3600),
        ..ForwardConfig::default()
    };
    let forward = replicas_with(forward, &Metrics::new([]).expect("sets up"), &tasks);
    for method in ["GET", "PUT", "POST"] {
        let request = Request::builder().method(method).uri("/a").body(Body::empty()).expect("a request");
        let answer = forward.forward(request).await;
        assert_eq!(answer.err(), Some(NotForwarded::Unavailable), "{method}");
    }
    drop((one, other));
    tasks.drain().cancel();
}

/// A control plane that answers probes, each on a connection of its own, and takes other requests without answering
/// any. `taken` counts those. No further connection can be opened once it `ends`.
async fn take_requests(listener: TcpListener, taken: watch::Sender<usize>, ends: CancellationToken) {
    let mut held = Vec::new();
    while let Some(accepted) = ends.run_until_cancelled(listener.accept()).await {
        let mut stream = accepted.expect("a connection").0;
        let mut head = vec![0; 1024];
        let length = stream.read(&mut head).await.expect("a request");
        if String::from_utf8_lossy(&head[..length]).contains("/health/readiness") {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).await.expect("is sent");
        } else {
            held.push(stream);
            taken.send_modify(|taken| *taken += 1);
        }
    }
    drop(listener);
    pending().await
}

/// Of requests under way, those that may be sent again end as soon as no control plane answers any more.
#[tokio::test]
async fn a_read_under_way_is_given_up_when_no_control_plane_answers_any_more() {
    for count in [1, 2] {
        let tasks = Tasks::new();
        let (taken, ends) = (watch::Sender::new(0), CancellationToken::new());
        let mut control_planes = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            control_planes.push(format!("http://{}", listener.local_addr().expect("bound")));
            tokio::spawn(take_requests(listener, taken.clone(), ends.clone()));
        }
        // Neither probes nor the end of the time for answers end a request within the test.
        let forever = Duration::from_secs(3600);
        let config = ForwardConfig {
            control_planes,
            probe_interval: forever,
            answer_timeout: forever,
            ..ForwardConfig::default()
        };
        let forward = replicas_with(config, &Metrics::new([]).expect("sets up"), &tasks);
        let mut reachable = forward.reachable();
        reachable.wait_for(|reachable| *reachable).await.expect("probed");
        let send = |method: &str| {
            let request = Request::builder().method(method).uri("/a").body(Body::empty()).expect("a request");
            let forward = forward.clone();
            async move { forward.forward(request).await }
        };
        let mut writes = [tokio::spawn(send("POST")), tokio::spawn(send("PUT"))];
        let reads = [tokio::spawn(send("GET")), tokio::spawn(send("GET"))];
        // Those that may be repeated are sent to both: all but one.
        let all = if count == 1 { 4 } else { 7 };
        let ended = async {
            taken.subscribe().wait_for(|taken| *taken == all).await.expect("the sender is here");
            ends.cancel();
            while *reachable.borrow_and_update() {
                assert_eq!(send("GET").await.err(), Some(NotForwarded::Unavailable));
            }
            for request in reads {
                assert_eq!(request.await.expect("ends").err(), Some(NotForwarded::Unavailable));
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("in time");
        for request in &mut writes {
            assert!(request.now_or_never().is_none(), "it may have been carried out");
            request.abort();
        }
        tasks.drain().cancel();
    }
}

#[tokio::test]
async fn without_a_control_plane_heartbeats_get_no_answer() {
    let tasks = Tasks::new();
    let address = served(echo(), &tasks).await;
    let world = World::with_forward(config(), replicas(vec![address], &tasks)).await;
    let heartbeat = "/v4/default/registry/microservices/s/instances/i/heartbeat";
    assert_eq!(ask(&world, "PUT", heartbeat, "").await.expect("answered").0, 200);
    tasks.drain().cancel();
    assert!(tasks.finish(PATIENCE).await);

    let (status, body) = ask(&world, "GET", "/a", "").await.expect("answered");
    assert_eq!(status, 503);
    let start = r#"{"errorCode":"500011","errorMessage":"Registry service is unavailable","detail":"no control plane answered; try again (request "#;
    assert!(body.starts_with(start) && body.ends_with(r#")"}"#), "{body}");
    ask(&world, "PUT", heartbeat, "").await.expect_err("the connection ends without a response");
}

#[tokio::test]
async fn heartbeats_get_errors_of_the_client_but_none_of_ours() {
    let router = Router::new()
        .route("/ours/heartbeat", put(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/theirs/heartbeat", put(async || StatusCode::BAD_REQUEST));
    let world = World::with_forward(config(), Arc::new(InProcess::new(router))).await;
    ask(&world, "PUT", "/ours/heartbeat", "").await.expect_err("the connection ends without a response");
    assert_eq!(ask(&world, "PUT", "/theirs/heartbeat", "").await.expect("answered").0, 400);
}

#[tokio::test]
async fn with_access_control_the_control_plane_grants_watches() {
    let router = Router::new().route(
        "/v4/default/registry/microservices/{id}",
        get(async |axum::extract::Path(id): axum::extract::Path<String>| match id.as_str() {
            "secret" => (StatusCode::UNAUTHORIZED, r#"{"errorCode":"401002"}"#),
            _ => (StatusCode::OK, "{}"),
        }),
    );
    let config = Config { authorize: true, ..config() };
    let world = World::with_forward(config, Arc::new(InProcess::new(router))).await;
    world.control_plane.consumer("open", &["p"]);
    let mut watcher = world.watch("open").await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
    let url = format!("ws://{}/v4/default/registry/microservices/secret/watcher", world.api);
    let Err(Error::Http(answer)) = tokio_tungstenite::connect_async(url).await else { panic!("refused") };
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.body().as_deref(), Some(&br#"{"errorCode":"401002"}"#[..]));
}
