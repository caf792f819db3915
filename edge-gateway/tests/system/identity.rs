//! Names and tenants as clients give them, over every transport: bounded, taken once, and never stripped.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::any;
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use proto::servicecenter::WatchInstanceRequest;
use proto::servicecenter::service_instance_ctrl_client::ServiceInstanceCtrlClient;
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::{Selection, WatchRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::world::{PATIENCE, World, config};

const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The first bytes of the answer to an upgrade; `headers` are lines that end with CRLF.
async fn upgrade(world: &World, path: &str, headers: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{UPGRADE}");
    stream.write_all(&[head.as_bytes(), headers, b"\r\n"].concat()).await.expect("is sent");
    let mut answer = vec![0; 1024];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("an answer");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

async fn channel(world: &World) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", world.api)).expect("an address");
    endpoint.connect().await.expect("connects")
}

#[tokio::test]
async fn names_beyond_the_registrys_limits_are_refused_at_the_door() {
    let world = World::with_consumer("c", &["p"]).await;
    let id = "i".repeat(65);
    let name = "n".repeat(129);
    let huge = "h".repeat(4100);
    let plain = "Connection: Upgrade\r\n".to_owned();
    let services = "/v4/default/registry/microservices";
    for (path, headers) in [
        (format!("{services}/{id}/watcher"), plain.clone()),
        (format!("{services}/{huge}/watcher"), plain.clone()),
        (format!("{services}/c/watcher?providers=p,{id}"), plain.clone()),
        (format!("/v4/{name}/registry/microservices/c/watcher"), plain.clone()),
        (format!("/v4/{name}/registry/watcher?all"), plain.clone()),
        (format!("/v4/default/registry/watcher?app={}", "a".repeat(161)), plain.clone()),
        (format!("{services}/c/watcher"), format!("{plain}X-Domain-Name: {name}\r\n")),
        (format!("{services}/c/watcher"), format!("{plain}X-Domain-Name: {huge}\r\n")),
        ("/registry/v3/microservices/c/watcher".into(), format!("{plain}X-Tenant-Name: {name}\r\n")),
        (format!("{services}/{id}/instances/i/heartbeat"), plain.clone()),
        (format!("{services}/c/instances/{id}/heartbeat"), plain.clone()),
        (format!("{services}/c/instances/i/heartbeat"), format!("{plain}X-Domain-Name: {name}\r\n")),
        (format!("/v4/{name}/registry/microservices/c/instances/i/heartbeat"), plain.clone()),
    ] {
        let answer = upgrade(&world, &path, headers.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("400001"), "{path}: {answer}");
        assert!(answer.contains("characters"), "it says what is wrong: {answer}");
    }

    let mut old = ServiceInstanceCtrlClient::new(channel(&world).await);
    let refused = old.watch(WatchInstanceRequest { self_service_id: huge.clone() }).await;
    assert_eq!(refused.expect_err("refused").code(), Code::InvalidArgument);
    let mut new = WatchClient::new(channel(&world).await);
    let good = WatchRequest { consumer_id: "c".to_owned(), ..WatchRequest::default() };
    for request in [
        WatchRequest { consumer_id: id.clone(), ..good.clone() },
        WatchRequest { providers: vec![id.clone()], ..good.clone() },
        WatchRequest { domain: huge.clone(), ..good.clone() },
        WatchRequest { project: name.clone(), ..good.clone() },
        WatchRequest {
            selection: Some(Selection { app_id: Some("a".repeat(161)), ..Selection::default() }),
            ..WatchRequest::default()
        },
    ] {
        let refused = new.watch(request).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    // A refusal comes before a reservation: nothing of it may stay in a shard.
    assert_eq!(world.metric("muster_edge_sessions"), 0.0);

    // The longest names that the registry takes, in the characters that take most room in a subject.
    let longest = format!("/v4/default/registry/microservices/{}/watcher", "%F4%8F%BF%BF".repeat(64));
    assert!(upgrade(&world, &longest, plain.as_bytes()).await.starts_with("HTTP/1.1 101"));
}

/// A gateway that asks for consent, before a control plane that denies the domain `secret` and `default`.
async fn guarded() -> World {
    let consent = any(async |headers: HeaderMap| {
        let domain = headers.get("x-domain-name").map_or(&b"default"[..], |value| value.as_bytes());
        match domain {
            b"open" => StatusCode::OK,
            b"secret" | b"default" => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    });
    let forward = Arc::new(InProcess::new(Router::new().fallback_service(consent)));
    World::with_forward(Config { authorize: true, ..config() }, forward).await
}

#[tokio::test]
async fn consent_is_asked_for_the_tenant_that_is_watched() {
    let world = guarded().await;
    let v3 = "/registry/v3/microservices/c/watcher";
    let v4 = "/v4/default/registry/microservices/c/watcher";
    for (path, headers, status) in [
        (v4, &b"Connection: Upgrade\r\nX-Domain-Name: secret\r\n"[..], "403"),
        (v4, b"Connection: Upgrade\r\nX-Domain-Name: open\r\n", "101"),
        // The path of v3 takes the domain from another header first.
        (v3, b"Connection: Upgrade\r\nX-Tenant-Name: secret\r\nX-Domain-Name: open\r\n", "403"),
        (v3, b"Connection: Upgrade\r\nX-Tenant-Name: open\r\nX-Domain-Name: secret\r\n", "101"),
        (v3, b"Connection: Upgrade\r\nX-Domain-Name: secret\r\n", "403"),
        // A connection's own headers never change the tenant.
        (v4, b"Connection: Upgrade, X-Domain-Name\r\nX-Domain-Name: open\r\n", "101"),
        (v4, b"Connection: Upgrade, X-Domain-Name\r\nX-Domain-Name: secret\r\n", "403"),
        // A name that is no text stands for no tenant, and not for the default one either.
        (v4, b"Connection: Upgrade\r\nX-Domain-Name: \xff\r\n", "400"),
        (v3, b"Connection: Upgrade\r\nX-Tenant-Name: \xff\r\nX-Domain-Name: open\r\n", "400"),
    ] {
        let answer = upgrade(&world, path, headers).await;
        let shown = String::from_utf8_lossy(headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {shown}: {answer}");
    }

    let mut client = WatchClient::new(channel(&world).await);
    for (domain, header, code) in [
        ("secret", "open", Some(Code::PermissionDenied)),
        (" secret", "open", Some(Code::PermissionDenied)),
        ("", "secret", Some(Code::PermissionDenied)),
        ("s\u{e9}cret", "open", Some(Code::InvalidArgument)),
        ("open", "secret", None),
    ] {
        let message = WatchRequest {
            consumer_id: "c".to_owned(),
            domain: domain.to_owned(),
            ..WatchRequest::default()
        };
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-domain-name", header.parse().expect("a value"));
        let refused = client.watch(request).await.err().map(|status| status.code());
        assert_eq!(refused, code, "the message names {domain:?}, the header {header:?}");
    }
}

#[tokio::test]
async fn no_connection_header_strips_identity() {
    let router = any(async |headers: HeaderMap| {
        let mut kept = Vec::new();
        for name in ["authorization", "x-domain-name", "x-tenant-name", "x-consumerid", "x-forwarded-for"] {
            kept.push(headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned());
        }
        kept.push(format!("{}", headers.contains_key("x-private")));
        kept.join(" ")
    });
    let forward = Arc::new(InProcess::new(Router::new().fallback_service(router)));
    let world = World::with_forward(config(), forward).await;
    let mut stream = TcpStream::connect(world.api).await.expect("connects");
    let request = "GET /v4/default/registry/microservices HTTP/1.1\r\nHost: test\r\n\
                   Connection: close, Authorization, x-domain-name, X-Tenant-Name\r\n\
                   Connection: X-ConsumerId, X-Forwarded-For, X-Private\r\n\
                   Authorization: token\r\nX-Domain-Name: d\r\nX-Tenant-Name: t\r\nX-ConsumerId: c\r\n\
                   X-Forwarded-For: 10.0.0.1\r\nX-Private: between us\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    assert!(answer.ends_with("token d t c 10.0.0.1, 127.0.0.1 false"), "{answer}");
}
