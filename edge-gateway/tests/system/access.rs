//! Access control at the gateway: nothing passes without a right, over any transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use access::token::Claims;
use access::{Access, LabelSource, Policy, route};
use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::any;
use console::Console;
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use edge_gateway::settings::PolicyConfig;
use proto::watch::v1::WatchRequest;
use proto::watch::v1::watch_client::WatchClient;
use shared::event::Action;
use shared::model::Revision;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::tokens::{self, bearer};
use crate::world::{PATIENCE, World, config};

const SERVICES: &str = "/v4/default/registry/microservices";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A gateway whose control plane has this policy, and the number of requests that were forwarded.
async fn guarded(config: Config, policy: Policy) -> (World, Arc<AtomicUsize>) {
    let forwarded = Arc::new(AtomicUsize::new(0));
    let count = forwarded.clone();
    let router = any(async move |uri: Uri, headers: HeaderMap| {
        count.fetch_add(1, Ordering::Relaxed);
        assert_eq!(headers.get_all("authorization").iter().count(), 1, "the token is passed on");
        match uri.path().rsplit('/').next() {
            Some("hidden") => (StatusCode::FORBIDDEN, r#"{"errorCode":"403205"}"#),
            Some("missing") => (StatusCode::BAD_REQUEST, r#"{"errorCode":"400012"}"#),
            Some("strange") => (StatusCode::NOT_FOUND, ""),
            _ => (StatusCode::OK, "{}"),
        }
    });
    let forward = InProcess::new(Router::new().fallback_service(router));
    let world = World::with_forward(config, Arc::new(forward)).await;
    world.control_plane.policy(policy).await;
    world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    (world, forwarded)
}

/// The whole answer to a request; `headers` are lines that end with CRLF.
async fn ask(world: &World, method: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    let end = if headers.contains("Upgrade") { "" } else { "Connection: close\r\nContent-Length: 0\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{end}{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // An upgraded connection, and one that was refused an upgrade, stay open.
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time").unwrap_or(0);
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        if read == 0
            || (!end.is_empty() && text.ends_with('}'))
            || (end.is_empty() && text.contains("\r\n\r\n"))
        {
            return text;
        }
    }
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

fn filled(path: &str) -> String {
    path.replace("{project}", "default").replace(['{', '}'], "")
}

#[tokio::test]
async fn every_route_is_refused_without_a_token() {
    let (world, forwarded) = guarded(config(), tokens::policy()).await;
    let mut refused = 0;
    for (method, path, access) in route::all() {
        let path = filled(&path);
        if access == Access::Free {
            continue;
        }
        let is_watch = matches!(access, Access::Needs(_, LabelSource::Watch));
        let is_grpc = method == "POST" && is_watch;
        let is_upgraded = method == "GET" && (is_watch || path.ends_with("/heartbeat"));
        let kinds: &[&str] = match (is_grpc, is_upgraded) {
            (true, _) => &["Content-Type: application/grpc\r\n", ""],
            // Upgrade or not: a route must not be open to the wrong kind of request.
            (_, true) => &[UPGRADE, ""],
            _ => &[""],
        };
        for kind in kinds {
            for header in ["", "Authorization: Bearer \r\n", "Authorization: Bearer a.b.c\r\n"] {
                let answer = ask(&world, method, &path, &format!("{kind}{header}")).await;
                if is_grpc {
                    assert_eq!(status(&answer), "200", "{method} {path} {kind}: {answer}");
                    assert!(
                        answer.to_lowercase().contains("grpc-status: 16"),
                        "{method} {path} {kind}: {answer}"
                    );
                } else {
                    assert_eq!(status(&answer), "401", "{method} {path} {kind}: {answer}");
                    // A client of Eureka might take JSON for an application without instances.
                    let form = if path.starts_with("/eureka/") { "text/plain" } else { "application/json" };
                    assert!(answer.contains(form), "{method} {path} {kind}: {answer}");
                }
                refused += 1;
            }
        }
    }
    assert!(refused > 150, "{refused}");
    assert_eq!(forwarded.load(Ordering::Relaxed), 0, "nothing reached a control plane");
    let line = "muster_edge_access_decisions_total{outcome=\"unauthenticated\",transport=\"grpc\"}";
    assert!(world.metric(line) > 0.0);
}

#[tokio::test]
async fn a_token_newer_than_the_policy_waits_for_it() {
    let whole = tokens::policy();
    let without = Policy { accounts: Default::default(), ..whole.clone() };
    let (world, _) = guarded(config(), without).await;
    let next = Revision::new(world.metric("muster_edge_policy_revision") as u64).next();
    let newer = tokens::signed(Claims { account: "dev".to_owned(), rev: next, ..tokens::claims() });
    let headers = format!("Authorization: Bearer {newer}\r\n");
    let (answer, ()) =
        tokio::join!(ask(&world, "GET", SERVICES, &headers), world.control_plane.policy(whole));
    assert_eq!(status(&answer), "200", "{answer}");
    let nobody = tokens::signed(Claims { account: "nobody".to_owned(), rev: next, ..tokens::claims() });
    let answer = ask(&world, "GET", SERVICES, &format!("Authorization: Bearer {nobody}\r\n")).await;
    assert_eq!(status(&answer), "401", "{answer}");
}

#[tokio::test]
async fn a_right_is_decided_before_a_request_goes_on() {
    let (world, forwarded) = guarded(config(), tokens::policy()).await;
    let twice = format!("{}{}", bearer("dev"), bearer("dev"));
    let expired = format!("Authorization: Bearer {}\r\n", tokens::token("dev", 0));
    let bound = bearer("bound");
    for (method, path, headers, expected, code) in [
        ("GET", SERVICES, bearer("reader"), "200", ""),
        ("DELETE", &*format!("{SERVICES}/s"), bearer("reader"), "403", "403205"),
        ("GET", "/v4/default/admin/dump", bearer("reader"), "403", "403205"),
        ("GET", SERVICES, bearer("idle"), "403", "403205"),
        ("GET", SERVICES, bearer("nobody"), "401", "401206"),
        ("GET", SERVICES, expired, "401", "401205"),
        ("GET", SERVICES, twice, "401", "401201"),
        ("GET", "/v4/self-perms", bearer("idle"), "200", ""),
        // The tenant of the path or of a header, whichever counts there.
        ("GET", SERVICES, bound.clone(), "403", "403205"),
        ("GET", SERVICES, format!("{bound}X-Domain-Name: mine\r\n"), "200", ""),
        (
            "GET",
            "/registry/v3/microservices",
            format!("{bound}X-Tenant-Name: theirs\r\nX-Domain-Name: mine\r\n"),
            "403",
            "403205",
        ),
        ("GET", "/v4/accounts", bound.clone(), "403", "403205"),
        ("GET", "/v4/default/nothing", String::new(), "401", "401204"),
        ("GET", "/v4/default/nothing", bearer("dev"), "404", "404 page"),
        ("GET", "/v4/default/registry/microservice%73", bearer("dev"), "404", "404 page"),
        ("PATCH", SERVICES, String::new(), "401", "401204"),
    ] {
        let before = forwarded.load(Ordering::Relaxed);
        let answer = ask(&world, method, path, &headers).await;
        assert_eq!(status(&answer), expected, "{method} {path}: {answer}");
        assert!(answer.contains(code), "{method} {path}: {answer}");
        let is_forwarded = forwarded.load(Ordering::Relaxed) > before;
        assert_eq!(is_forwarded, expected == "200", "{method} {path}");
    }
    for free in ["/health", "/version", "/v4/default/registry/health"] {
        // The router of this test wants a token; the gateway does not.
        let answer = ask(&world, "GET", free, &bearer("nobody")).await;
        assert_eq!(status(&answer), "200", "{free}: {answer}");
    }
}

#[tokio::test]
async fn a_watch_needs_a_right_over_every_transport() {
    let (world, forwarded) = guarded(config(), tokens::policy()).await;
    world.control_plane.consumer("c", &["p"]);
    let watcher = format!("{SERVICES}/c/watcher");
    for (path, account, extra, expected) in [
        (&*watcher, "dev", "", "101"),
        (&watcher, "reader", "", "101"),
        (&watcher, "idle", "", "403"),
        (&watcher, "bound", "", "403"),
        (&watcher, "bound", "X-Domain-Name: mine\r\n", "101"),
        ("/v4/default/registry/watcher?all", "reader", "", "101"),
        ("/v4/default/registry/events?all", "reader", "", "200"),
        ("/v4/default/registry/events?all", "idle", "", "403"),
        ("/v4/default/registry/events?consumer=c", "bound", "", "403"),
    ] {
        let headers = format!("{UPGRADE}{}{extra}", bearer(account));
        let answer = ask(&world, "GET", path, &headers).await;
        assert_eq!(status(&answer), expected, "{account} {path}: {answer}");
    }
    let endpoint = Channel::from_shared(format!("http://{}", world.api)).expect("an address");
    let mut client = WatchClient::new(endpoint.connect().await.expect("connects"));
    for (account, domain, code) in [
        (Some("reader"), "", None),
        (None, "", Some(Code::Unauthenticated)),
        (Some("idle"), "", Some(Code::PermissionDenied)),
        // The tenant that the message names, whatever the header says.
        (Some("bound"), "theirs", Some(Code::PermissionDenied)),
        (Some("bound"), "mine", None),
    ] {
        let message = WatchRequest {
            consumer_id: "c".to_owned(),
            domain: domain.to_owned(),
            ..WatchRequest::default()
        };
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-domain-name", "mine".parse().expect("a value"));
        if let Some(account) = account {
            let value = format!("Bearer {}", tokens::token(account, 3600));
            request.metadata_mut().insert("authorization", value.parse().expect("a value"));
        }
        let refused = client.watch(request).await.err().map(|status| status.code());
        assert_eq!(refused, code, "{account:?} {domain:?}");
    }
    assert_eq!(forwarded.load(Ordering::Relaxed), 0, "whole rights need no question");
}

#[tokio::test]
async fn a_page_shows_its_token_as_a_sub_protocol() {
    let (world, _) = guarded(config(), tokens::policy()).await;
    world.control_plane.consumer("c", &["p"]);
    let watcher = "/v4/default/registry/watcher?all&rev=0";
    let good = tokens::token("reader", 3600);
    let offer = |token: &str| format!("Sec-WebSocket-Protocol: muster.watch, muster.bearer.{token}\r\n");
    for (offered, expected, code) in [
        (offer(&good), "101", ""),
        (offer(&tokens::token("idle", 3600)), "403", "403205"),
        (offer(&tokens::token("nobody", 3600)), "401", "401206"),
        (offer(&tokens::token("reader", 0)), "401", "401205"),
        (offer("a.b.c"), "401", "4012"),
        (offer(""), "401", "4012"),
        ("Sec-WebSocket-Protocol: muster.watch\r\n".to_owned(), "401", "401204"),
        // Two tokens are refused, wherever they stand.
        (format!("{}{}", offer(&good), bearer("reader")), "401", "401201"),
        (format!("{}{}", offer(&good), offer(&good)), "401", "401201"),
    ] {
        let answer = ask(&world, "GET", watcher, &format!("{UPGRADE}{offered}")).await;
        assert_eq!(status(&answer), expected, "{offered}: {answer}");
        assert!(answer.contains(code), "{offered}: {answer}");
        assert!(!answer.contains("muster.bearer"), "the token is never repeated: {answer}");
        let is_taken = answer.to_lowercase().contains("sec-websocket-protocol: muster.watch\r\n");
        assert_eq!(is_taken, expected == "101", "{offered}: {answer}");
    }
    // Nothing but a watch takes a token from there.
    let answer = ask(&world, "GET", SERVICES, &offer(&good)).await;
    assert_eq!(status(&answer), "401", "{answer}");
}

#[tokio::test]
async fn the_console_needs_no_account_and_no_control_plane() {
    let (world, forwarded) = guarded(config(), tokens::policy()).await;
    let answer = ask(&world, "GET", "/console/", "").await;
    assert_eq!(status(&answer), "200", "{answer}");
    let lower = answer.to_lowercase();
    for header in
        ["content-security-policy: default-src 'none';", "x-content-type-options: nosniff", "etag: "]
    {
        assert!(lower.contains(header), "{answer}");
    }
    let head = ask(&world, "HEAD", "/console/app.js", "").await;
    assert_eq!(status(&head), "200", "{head}");
    assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    for (path, expected) in [
        ("/console/nothing", "404"),
        ("/console/../Cargo.toml", "404"),
        ("/console/%2e%2e/Cargo.toml", "404"),
        ("/console", "302"),
        // Not a browser.
        ("/", "401"),
    ] {
        let answer = ask(&world, "GET", path, "").await;
        assert_eq!(status(&answer), expected, "{path}: {answer}");
    }
    let led = ask(&world, "GET", "/", "Accept: text/html,*/*;q=0.8\r\n").await;
    assert!(led.starts_with("HTTP/1.1 302") && led.to_lowercase().contains("location: console/"), "{led}");
    assert_eq!(forwarded.load(Ordering::Relaxed), 0);

    let off = Config { console: Console::off(), ..config() };
    let (world, forwarded) = guarded(off, tokens::policy()).await;
    for path in ["/console", "/console/", "/console/app.js"] {
        let answer = ask(&world, "GET", path, &bearer("dev")).await;
        assert_eq!(status(&answer), "404", "{path}: {answer}");
    }
    assert_eq!(forwarded.load(Ordering::Relaxed), 0, "the console of a control plane is not shown instead");
}

#[tokio::test]
async fn only_an_explicit_yes_opens_a_watch() {
    let (world, forwarded) = guarded(config(), tokens::policy()).await;
    for id in ["seen", "hidden", "strange"] {
        world.control_plane.consumer(id, &[]);
    }
    for (query, expected) in [
        ("/seen/watcher", "101"),
        ("/hidden/watcher", "403"),
        // The watch itself says that the service does not exist.
        ("/missing/watcher", "101"),
        ("/strange/watcher?rev=1", "503"),
    ] {
        let path = format!("{SERVICES}{query}");
        let answer = ask(&world, "GET", &path, &format!("{UPGRADE}{}", bearer("shop"))).await;
        assert_eq!(status(&answer), expected, "{path}: {answer}");
    }
    assert_eq!(forwarded.load(Ordering::Relaxed), 4);
    let selection = "/v4/default/registry/watcher?app=";
    for (app, expected) in [("app", "101"), ("other", "403")] {
        let answer =
            ask(&world, "GET", &format!("{selection}{app}"), &format!("{UPGRADE}{}", bearer("shop"))).await;
        assert_eq!(status(&answer), expected, "{app}: {answer}");
    }
    assert_eq!(forwarded.load(Ordering::Relaxed), 4, "a selection leaves out what may not be seen");
}

#[tokio::test]
async fn a_stale_policy_lets_nothing_new_in() {
    let access = PolicyConfig { stale_for: Duration::from_secs(2), ..PolicyConfig::default() };
    let (world, forwarded) = guarded(Config { access, ..config() }, tokens::policy()).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = world.watch_with("c", &tokens::token("dev", 3600)).await;
    // No bookmark comes.
    let stale = async {
        while status(&ask(&world, "GET", SERVICES, &bearer("dev")).await) != "503" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, stale).await.expect("becomes stale");
    let before = forwarded.load(Ordering::Relaxed);
    let answer = ask(&world, "GET", SERVICES, &bearer("dev")).await;
    assert!(answer.contains("500011") && answer.contains("too old"), "{answer}");
    let upgrade = format!("{UPGRADE}{}", bearer("dev"));
    let answer = ask(&world, "GET", &format!("{SERVICES}/c/watcher"), &upgrade).await;
    assert!(status(&answer) == "503" && answer.contains("500011"), "{answer}");
    assert_eq!(forwarded.load(Ordering::Relaxed), before);
    let heartbeat = format!("{SERVICES}/s/instances/i/heartbeat");
    assert_eq!(status(&ask(&world, "PUT", &heartbeat, &bearer("dev")).await), "200", "instances live on");
    assert_eq!(status(&ask(&world, "PUT", &heartbeat, "").await), "401");
    assert_eq!(status(&ask(&world, "PUT", &heartbeat, &bearer("reader")).await), "403");
    world.change_reaches(&mut watcher, "p", Action::Create, "1").await;

    world.control_plane.bookmark().await;
    let fresh = async {
        while status(&ask(&world, "GET", SERVICES, &bearer("dev")).await) != "200" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, fresh).await.expect("is confirmed");
}
