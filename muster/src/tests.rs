//! The command line against a small registry that answers as Service-Center does.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use futures_util::SinkExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::screen::Screen;

/// A registry of canned replies.
#[derive(Clone, Default)]
struct FakeRegistry {
    /// The requests so far.
    requests: Arc<Mutex<Vec<String>>>,
    /// The frames of each watch, in the order in which watches are opened.
    frames: Arc<Mutex<Vec<Vec<&'static str>>>>,
    heartbeats: Arc<AtomicU64>,
}

struct JsonReply(Value);

impl IntoResponse for JsonReply {
    fn into_response(self) -> Response {
        self.0.to_string().into_response()
    }
}

type Params = Query<std::collections::BTreeMap<String, String>>;

async fn start(fake: &FakeRegistry) -> String {
    let service = json!({"services": [
        {"serviceId": "s2", "appId": "shop", "serviceName": "order", "version": "2.0.0", "status": "UP"},
        {"serviceId": "s1", "appId": "shop", "serviceName": "cart", "version": "1.0.0", "status": "DOWN"},
        {"serviceId": "s3", "appId": "bank", "serviceName": "\u{1b}[2Jevil", "version": "1.0.0", "status": "UP"}]});
    let router = Router::new()
        .route(
            "/v4/default/registry/microservices",
            get(move || async move { JsonReply(service) }).post(registered),
        )
        .route("/v4/default/registry/instances", get(found))
        .route("/v4/default/registry/microservices/{id}", delete(removed))
        .route("/v4/default/registry/microservices/{id}/instances", post(registered).get(found))
        .route("/v4/default/registry/microservices/{id}/instances/{instance}", delete(removed))
        .route("/v4/default/registry/microservices/{id}/instances/{instance}/heartbeat", put(heartbeat))
        .route("/v4/default/registry/microservices/{id}/watcher", get(watch))
        .route("/v4/default/registry/watcher", get(watch))
        .route(
            "/v4/default/registry/version",
            get(|| async { JsonReply(json!({"version": "1", "apiVersion": "4.0.0"})) }),
        )
        .with_state(fake.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn found(State(fake): State<FakeRegistry>, Query(query): Params, headers: HeaderMap) -> Response {
    let consumer = headers.get("x-consumerid").map(|value| value.to_str().expect("is text").to_owned());
    fake.requests.lock().push(format!("{query:?} {consumer:?}"));
    match query.get("serviceName").map(String::as_str) {
        Some("busy") => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3")], "").into_response(),
        Some("unknown") => refused("400012", "Micro-service does not exist", "no such name"),
        _ if query.get("rev").is_some_and(|rev| rev == "r9") => {
            (StatusCode::NOT_MODIFIED, [("X-Resource-Revision", "r9")]).into_response()
        }
        _ => {
            let instance = json!({"instanceId": "i1", "serviceId": "s2", "status": "UP", "version": "2.0.0",
                "hostName": "node-7", "endpoints": ["rest://10.0.0.7:8080"]});
            ([("X-Resource-Revision", "r9")], JsonReply(json!({"instances": [instance]}))).into_response()
        }
    }
}

fn refused(code: &str, message: &str, detail: &str) -> Response {
    let body = json!({"errorCode": code, "errorMessage": message, "detail": detail});
    (StatusCode::BAD_REQUEST, JsonReply(body)).into_response()
}

async fn registered(State(fake): State<FakeRegistry>, body: String) -> JsonReply {
    let service = body.contains("\"service\":");
    fake.requests.lock().push(body);
    JsonReply(match service {
        true => json!({"serviceId": "s9"}),
        false => json!({"instanceId": "i9"}),
    })
}

async fn removed(State(fake): State<FakeRegistry>, request: Request) -> Response {
    fake.requests.lock().push(format!("{} {}", request.method(), request.uri()));
    if request.uri().path().ends_with("/absent") {
        return refused("400017", "Instance does not exist", "");
    }
    ().into_response()
}

async fn heartbeat(State(fake): State<FakeRegistry>) -> Response {
    match fake.heartbeats.fetch_add(1, Ordering::SeqCst) {
        0 => refused("400017", "Instance does not exist", ""),
        _ => ().into_response(),
    }
}

async fn watch(
    State(fake): State<FakeRegistry>,
    id: Option<Path<String>>,
    Query(query): Params,
    request: Request,
) -> Response {
    let id = id.map_or_else(|| "services".to_owned(), |Path(id)| id);
    fake.requests.lock().push(format!("watch {id} {query:?}"));
    let key = request.headers().get("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = key else { return StatusCode::BAD_REQUEST.into_response() };
    let mut scripts = fake.frames.lock();
    let frames = if scripts.is_empty() { Vec::new() } else { scripts.remove(0) };
    drop(scripts);
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let io = hyper_util::rt::TokioIo::new(upgrade.await.expect("upgrades"));
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        for frame in frames {
            socket.send(Message::text(frame)).await.expect("is sent");
        }
    });
    let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", &accept)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The output of a command, and its exit status.
#[derive(Debug)]
struct CommandOutput {
    out: String,
    notes: String,
    status: u8,
}

/// An output that the test can read.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("is text")
    }
}

async fn muster(server: &str, arguments: &[&str]) -> CommandOutput {
    let out = Captured::default();
    let notes = Captured::default();
    let arguments = [&["muster"], arguments, &["--server", server]].concat();
    let matches = crate::cli::command().try_get_matches_from(arguments).expect("is a command line");
    let status = crate::cli::run(&matches, Screen::plain(out.clone(), notes.clone())).await;
    CommandOutput { out: out.text(), notes: notes.text(), status }
}

#[tokio::test]
async fn services_are_listed_in_columns_without_control_characters() {
    let server = start(&FakeRegistry::default()).await;
    let done = muster(&server, &["services"]).await;
    assert_eq!(
        done.out,
        "APP   NAME      VERSION  ENV  STATUS  SERVICE ID\n\
         bank  \u{fffd}[2Jevil  1.0.0         UP      s3\n\
         shop  cart      1.0.0         DOWN    s1\n\
         shop  order     2.0.0         UP      s2\n"
    );
    let done = muster(&server, &["services", "--app", "shop", "--name", "cart", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&done.out).expect("is JSON");
    assert_eq!(json[0]["serviceId"], "s1");
    assert_eq!(json.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn find_acts_for_the_consumer_and_prints_the_revision() {
    let fake = FakeRegistry::default();
    let server = start(&fake).await;
    let arguments =
        ["find", "--app", "shop", "--name", "order", "--version-rule", "1.0.0+", "--consumer", "s1"];
    let done = muster(&server, &arguments).await;
    assert!(done.out.contains("rest://10.0.0.7:8080  UP      2.0.0    node-7"), "{}", done.out);
    assert_eq!(done.notes, "muster: revision r9\n");
    let request = fake.requests.lock().remove(0);
    assert!(request.contains(r#""version": "1.0.0+""#) && request.contains(r#"Some("s1")"#), "{request}");
    let done = muster(&server, &["find", "--name", "order", "--rev", "r9"]).await;
    assert_eq!((done.out.as_str(), done.notes.as_str()), ("", "muster: unchanged since revision r9\n"));
}

#[tokio::test]
async fn failures_have_one_line_and_a_status_of_their_own() {
    let server = start(&FakeRegistry::default()).await;
    let refused = muster(&server, &["find", "--name", "unknown"]).await;
    assert_eq!(refused.status, 1);
    assert_eq!(
        refused.notes,
        "muster: the registry refused: Micro-service does not exist: no such name (400012)\n"
    );
    let busy = muster(&server, &["find", "--name", "busy"]).await;
    assert_eq!(busy.status, 75);
    assert!(busy.notes.contains("try again in 3s"), "{}", busy.notes);
    // The listener is dropped at once, so nobody listens on its port.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let free = free.and_then(|listener| listener.local_addr()).expect("binds");
    let unreachable = muster(&format!("http://{free}"), &["services"]).await;
    assert_eq!(unreachable.status, 69);
    assert!(unreachable.notes.contains("refused"), "{}", unreachable.notes);
    assert_eq!(muster("ftp://localhost", &["services"]).await.status, 64);
}

#[tokio::test]
async fn a_service_and_its_instance_are_registered_and_removed() {
    let fake = FakeRegistry::default();
    let server = start(&fake).await;
    let arguments = [
        "register",
        "--app",
        "shop",
        "--name",
        "order",
        "--endpoint",
        "rest://10.0.0.7:8080",
        "--property",
        "zone=a",
    ];
    let done = muster(&server, &arguments).await;
    assert_eq!(done.out, "SERVICE ID  INSTANCE ID\ns9          i9\n");
    let instance: Value = serde_json::from_str(&fake.requests.lock()[1]).expect("is JSON");
    assert_eq!(instance["instance"]["properties"]["zone"], "a");
    assert_eq!(instance["instance"]["healthCheck"], json!({"mode": "push", "interval": 30, "times": 3}));

    assert_eq!(muster(&server, &["unregister", "--service", "s9", "--instance", "i9"]).await.status, 0);
    assert_eq!(muster(&server, &["unregister", "--service", "s9", "--instance", "absent"]).await.status, 1);
    assert_eq!(muster(&server, &["unregister", "--service", "a/b", "--force"]).await.status, 0);
    let request = fake.requests.lock().pop();
    assert_eq!(request.as_deref(), Some("DELETE /v4/default/registry/microservices/a%2Fb?force=true"));
}

#[tokio::test]
async fn a_lost_instance_is_registered_again_by_its_heartbeats() {
    let fake = FakeRegistry::default();
    let server = start(&fake).await;
    let arguments =
        ["register", "--name", "order", "--endpoint", "rest://a:1", "--keep-alive", "--interval", "1s"];
    let running = tokio::spawn(async move { muster(&server, &arguments).await });
    // The first heartbeat is refused, and the second follows the new registration.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while fake.heartbeats.load(Ordering::SeqCst) < 2 {
        assert!(tokio::time::Instant::now() < deadline, "no second heartbeat");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    running.abort();
    let instances = fake.requests.lock().iter().filter(|request| request.contains("endpoints")).count();
    assert_eq!(instances, 2);
}

#[tokio::test]
async fn a_watch_resumes_after_the_last_bookmark_until_it_is_refused() {
    let fake = FakeRegistry::default();
    let event = r#"{"action":"CREATE","key":{"appId":"shop","serviceName":"order","version":"1.0.0"},"instance":{"instanceId":"i1","status":"UP","endpoints":["rest://a:1"]},"rev":5}"#;
    let reset = r#"{"action":"RESET","key":{"appId":"shop","serviceName":"cart","version":"1.0.0"},"instances":[{"instanceId":"i2","status":"DOWN"}],"rev":6}"#;
    *fake.frames.lock() =
        vec![vec![event, reset, r#"{"action":"BOOKMARK","rev":8}"#], vec!["service does not exist"]];
    let server = start(&fake).await;
    let done = muster(&server, &["watch", "--service", "s1"]).await;
    assert_eq!(done.status, 1);
    let lines: Vec<_> = done.out.lines().map(|line| &line[10..]).collect();
    assert_eq!(
        lines,
        [
            "CREATE  shop/order 1.0.0  UP  rest://a:1  i1",
            "RESET   shop/cart 1.0.0  1 instances",
            "        shop/cart 1.0.0  DOWN    i2",
        ]
    );
    assert!(done.notes.contains("reconnected; nothing is missing"), "{}", done.notes);
    assert!(done.notes.ends_with("muster: the registry refused: service does not exist\n"), "{}", done.notes);
    assert_eq!(*fake.requests.lock(), [r#"watch s1 {"rev": "0"}"#, r#"watch s1 {"rev": "8"}"#]);
}

#[tokio::test]
async fn a_watch_selects_services_or_one_consumer_but_not_both() {
    let fake = FakeRegistry::default();
    let server = start(&fake).await;
    for arguments in [&["watch", "--app", "shop", "--env", ""][..], &["watch", "--all"]] {
        *fake.frames.lock() = vec![vec!["gone"]];
        assert_eq!(muster(&server, arguments).await.status, 1, "the watch ended");
    }
    assert_eq!(
        *fake.requests.lock(),
        [
            r#"watch services {"all": "true", "app": "shop", "env": "", "rev": "0"}"#,
            r#"watch services {"all": "true", "rev": "0"}"#
        ]
    );
    let together = ["--all", "--service", "s1"];
    for wrong in [&[][..], &together, &["--app", "a", "--provider", "p"]] {
        let arguments = [&["muster", "watch"], wrong].concat();
        assert!(crate::cli::command().try_get_matches_from(arguments).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn frames_are_passed_on_unchanged_as_json() {
    let fake = FakeRegistry::default();
    *fake.frames.lock() = vec![vec![r#"{"action":"BOOKMARK","rev":8,"new":1}"#, "gone"]];
    let server = start(&fake).await;
    let done = muster(&server, &["watch", "--service", "s1", "--live", "--output", "json"]).await;
    assert_eq!(done.out, "{\"action\":\"BOOKMARK\",\"rev\":8,\"new\":1}\n");
    assert_eq!(*fake.requests.lock(), ["watch s1 {}"]);
}

#[tokio::test]
async fn a_registry_without_a_readiness_route_has_an_unknown_status() {
    let done = muster(&start(&FakeRegistry::default()).await, &["status"]).await;
    assert!(done.out.contains("api      4.0.0\nready    unknown (muster doctor --admin"), "{}", done.out);
}

#[tokio::test]
async fn completions_and_version_need_no_registry() {
    for arguments in [&["completions", "bash"][..], &["version"]] {
        let out = Captured::default();
        let notes = Captured::default();
        let matches = crate::cli::command()
            .try_get_matches_from([&["muster"], arguments].concat())
            .expect("is a command line");
        assert_eq!(crate::cli::run(&matches, Screen::plain(out.clone(), notes)).await, 0);
        assert!(out.text().contains("muster"));
    }
}

#[test]
fn every_command_line_is_well_formed() {
    crate::cli::command().debug_assert();
}

/// A registry that lets in whoever shows the token `t`.
async fn start_closed(fake: &FakeRegistry) -> String {
    let seen = fake.requests.clone();
    let answer = move |request: Request| {
        let seen = seen.clone();
        async move {
            let headers = request.headers();
            let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("none");
            let line = format!("{} {} {token}", request.method(), request.uri());
            let is_login =
                request.uri().path() == "/v4/token" && *request.method() == axum::http::Method::POST;
            let has_token = token == "Bearer t";
            let body = axum::body::to_bytes(request.into_body(), 4096).await.expect("is read");
            seen.lock().push(format!("{line} {}", String::from_utf8_lossy(&body)));
            match (is_login, has_token) {
                (true, _) if body.windows(5).any(|part| part == b"right") => {
                    JsonReply(json!({"token": "t"})).into_response()
                }
                (_, true) => {
                    JsonReply(json!({"data": [{"name": "root", "roles": ["admin"]}]})).into_response()
                }
                _ => {
                    let code = if is_login { "401202" } else { "401201" };
                    let body = json!({"errorCode": code, "errorMessage": "refused"});
                    (StatusCode::UNAUTHORIZED, JsonReply(body)).into_response()
                }
            }
        }
    };
    let router = Router::new().fallback(answer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test]
async fn a_login_is_used_by_every_command_until_the_logout() {
    let fake = FakeRegistry::default();
    let server = start_closed(&fake).await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let credentials = at("credentials.json");
    for (name, text) in [("right", "right\n"), ("wrong", "other\n")] {
        std::fs::write(at(name), text).expect("is written");
    }
    let run = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let credentials = credentials.clone();
        let server = server.clone();
        async move {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.extend(["--credentials", &credentials]);
            muster(&server, &words).await
        }
    };
    let before = run(&["account", "list"]).await;
    assert_eq!(before.status, 77, "{before:?}");
    assert!(before.notes.contains("muster login"), "{before:?}");
    let wrong = run(&["login", "--account", "root", "--password-file", &at("wrong")]).await;
    assert_eq!(wrong.status, 1, "a login cannot be helped by a login: {wrong:?}");
    let login = run(&["login", "--account", "root", "--password-file", &at("right")]).await;
    assert_eq!(login.status, 0, "{login:?}");
    let list = run(&["account", "list"]).await;
    assert!(list.status == 0 && list.out.contains("root  admin  active"), "{list:?}");
    let watch = run(&["watch", "--service", "s1"]).await;
    assert_ne!(watch.status, 77, "{watch:?}");
    assert!(fake.requests.lock().iter().any(|line| line.contains("watcher") && line.contains("Bearer t")));
    assert_eq!(run(&["logout"]).await.status, 0);
    assert_eq!(run(&["services"]).await.status, 77);
    let lines = [before, wrong, login, list].map(|done| done.out + &done.notes).concat();
    assert!(!lines.contains("right"), "a password is shown: {lines}");
}

#[tokio::test]
async fn roles_are_given_in_words_and_checked_in_files() {
    let fake = FakeRegistry::default();
    let server = start_closed(&fake).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("token"), "t\n").expect("is written");
    let token = ["--token-file".to_owned(), path("token")];
    let [flag, token] = &token;
    let create = ["role", "create", "team", flag, token, "--allow", "service:get[appId=shop]"];
    assert_eq!(muster(&server, &create).await.status, 0);
    let sent = fake.requests.lock().last().cloned().expect("is sent");
    assert!(sent.contains(r#""resources":[{"labels":{"appId":"shop"},"type":"service"}]"#), "{sent}");
    std::fs::write(path("perms"), r#"[{"resources":[{"type":"servce"}],"verbs":["*"]}]"#)
        .expect("is written");
    let wrong = muster(&server, &["role", "update", "team", flag, token, "--file", &path("perms")]).await;
    assert!(wrong.status == 64 && wrong.notes.contains("no type of resource"), "{wrong:?}");
}
