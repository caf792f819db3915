//! Ways around the door: paths, headers, upgrades, gRPC, the admin port, and guessed passwords.

use proto::watch::v1::WatchRequest;
use proto::watch::v1::watch_client::WatchClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use super::crossing::UPGRADE;
use super::*;

/// Sends bytes as they are, and returns the status of the first answer; 0 when the connection just ends.
async fn raw(site: &Site, request: &str) -> u16 {
    let mut stream = TcpStream::connect(site.api).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.windows(2).any(|two| two == b"\r\n") {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return 0,
            Ok(read) => answer.extend_from_slice(&part[..read]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_and_no_header_goes_around_the_door() {
    let site = Site::start().await;
    let reader = site.login("reader").await;
    let reader = reader.as_str();
    let attacks: Vec<(&str, String)> = vec![
        ("a doubled slash", format!("GET /{LIST} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("a slash at the end", format!("GET {LIST}/ HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("dots", "GET /v4/token/../default/admin/dump HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("encoded dots", "GET /v4/token/%2e%2e/default/admin/dump HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("an encoded slash", "GET /v4%2fdefault/registry/microservices HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("an encoded letter", "GET /v4/default/registry/microservice%73 HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("capitals", "GET /V4/default/registry/microservices HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a parameter of the path", "GET /v4/default/registry/microservices;x=/version HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a whole address", format!("GET http://127.0.0.1/version@{LIST} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("another path in a header", format!("GET {LIST} HTTP/1.1\r\nHost: x\r\nX-Original-URL: /version\r\nX-Rewrite-URL: /version\r\n\r\n")),
        ("another method in a header", "POST /v4/accounts HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n".into()),
        ("another method", "PATCH /v4/accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".into()),
        ("HEAD", format!("HEAD {LIST} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("a token in the query", format!("GET {LIST}?access_token={token}&Authorization={token} HTTP/1.1\r\nHost: x\r\n\r\n", token = &reader[7..107])),
        ("a token in a cookie", format!("GET {LIST} HTTP/1.1\r\nHost: x\r\nCookie: Authorization={reader}; token={}\r\n\r\n", &reader[7..])),
        ("a token for a proxy", format!("GET {LIST} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {reader}\r\n\r\n")),
        ("two tokens", format!("GET {LIST} HTTP/1.1\r\nHost: x\r\nAuthorization: {reader}\r\nAuthorization: {reader}\r\n\r\n")),
        ("a header that means us", format!("GET {LIST} HTTP/1.1\r\nHost: x\r\nX-Muster-Identity: root\r\nX-Muster-Account: root\r\n\r\n")),
        ("an address that means us", format!("GET {LIST} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n\r\n")),
        ("two lengths", "POST /v4/accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into()),
        ("a second request in a body", format!("POST {LIST} HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\n\r\nGET /v4/accounts HTTP/1.1\r\nHost: x\r\n\r\n       ")),
        ("a watch without a token", format!("GET {LIST}/x/watcher HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")),
        ("heartbeats without a token", format!("GET {LIST}/x/instances/i/heartbeat HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")),
    ];
    for (attack, request) in &attacks {
        let status = raw(&site, request).await;
        assert!([400, 401, 404, 405].contains(&status), "{attack}: {status}");
    }
    // A client cannot have its own token removed on the way, nor a proxy's.
    let request = format!(
        "GET {LIST} HTTP/1.1\r\nHost: x\r\nAuthorization: {reader}\r\nConnection: authorization\r\n\r\n"
    );
    assert_eq!(raw(&site, &request).await, 200);
    let unauthorized =
        site.client.try_send("GET", &format!("{LIST}/x/watcher"), &UPGRADE, String::new()).await;
    let body: Value =
        serde_json::from_slice(&unauthorized.expect("an answer").body).expect("JSON before the upgrade");
    assert_eq!(body["errorCode"], "401204");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_asks_for_a_token_too() {
    let site = Site::start().await;
    let watch = async |token: Option<&str>, domain: &str| {
        let channel =
            Channel::from_shared(format!("http://{}", site.api)).expect("an address").connect().await;
        let message =
            WatchRequest { domain: domain.into(), consumer_id: "x".into(), ..WatchRequest::default() };
        let mut request = tonic::Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.parse().expect("a value"));
        }
        WatchClient::new(channel.expect("connects"))
            .watch(request)
            .await
            .map(drop)
            .map_err(|status| status.code())
    };
    let reader = site.login("reader").await;
    let bound = site.login("bound").await;
    let nobody = site.login("nobody").await;
    assert_eq!(watch(None, "").await, Err(Code::Unauthenticated));
    assert_eq!(watch(Some("Bearer x"), "").await, Err(Code::Unauthenticated));
    assert_eq!(watch(Some(&nobody), "").await, Err(Code::PermissionDenied));
    // The tenant stands in the message here.
    assert_eq!(watch(Some(&bound), "b").await, Err(Code::PermissionDenied));
    assert!(!matches!(watch(Some(&reader), "").await, Err(Code::Unauthenticated | Code::PermissionDenied)));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_cannot_be_guessed_from_many_addresses() {
    let site = Site::start().await;
    let mut last = 0;
    for attempt in 0..8 {
        // Nobody has said that this client is a proxy, so the header does not make it another one.
        let forwarded = format!("198.51.100.{attempt}");
        let headers = [("x-forwarded-for", forwarded.as_str()), ("x-real-ip", forwarded.as_str())];
        let body = json!({"name": "reader", "password": "Complicated_passwordX"}).to_string();
        let answer = site.client.try_send("POST", "/v4/token", &headers, body).await.expect("an answer");
        assert!([401, 403].contains(&answer.status), "{}", answer.text());
        last = answer.status;
    }
    assert_eq!(last, 403, "blocked after the third failure");
    let body = json!({"name": "reader", "password": PASSWORD});
    let answer = site.send("POST", "/v4/token", "", &body).await;
    assert!(answer.text().contains("403201"), "the right password does not help now: {}", answer.text());
    let locks = site.get("/v4/account-locks", &site.root).await.ok();
    assert!(locks.to_string().contains("reader::127.0.0.1"), "{locks}");
    // The answer does not tell whether an account exists.
    let answers = [json!({"name": "developer", "password": "x"}), json!({"name": "ghost", "password": "x"})];
    let mut texts = Vec::new();
    for body in &answers {
        let answer = site.send("POST", "/v4/token", "", body).await;
        texts.push((answer.status, answer.text()));
    }
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_cannot_use_the_operators_routes() {
    let site = Site::start().await;
    let host = site.api.to_string();
    let reader = site.login("reader").await;
    let bound = site.login("bound").await;
    let attacks: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("without a token", vec![]),
        ("from another page", vec![("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")]),
        ("by another name", vec![("host", "evil.example")]),
        (
            "by a form",
            vec![("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-site")],
        ),
        ("with a token of nobody", vec![("authorization", "Bearer x")]),
        ("as an account without the right", vec![("authorization", &reader)]),
        ("as an account of one tenant", vec![("authorization", &bound)]),
        ("with two tokens", vec![("authorization", &site.root), ("authorization", &reader)]),
        (
            "as root, from another page",
            vec![("authorization", &site.root), ("origin", "http://evil.example")],
        ),
    ];
    for (attack, headers) in &attacks {
        for (method, path) in [("POST", "/drain"), ("GET", "/config"), ("GET", "/known"), ("GET", "/access")]
        {
            let answer = site.client.try_send(method, path, headers, String::new()).await.expect("an answer");
            assert!(
                [400, 401, 403, 404].contains(&answer.status),
                "{attack}: {method} {path} at {host}: {}",
                answer.status
            );
        }
    }
    assert!(site.process.is_running());
    assert_eq!(site.get("/config", &site.root).await.status, 200, "root may");
    let log = site.process.log();
    assert!(
        !log.contains(PASSWORD) && !log.contains("PRIVATE KEY") && !log.contains("Bearer ey"),
        "a secret is in the log"
    );
}
