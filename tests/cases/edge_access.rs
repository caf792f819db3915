//! Access control across processes: gateways follow the policy of the control planes over a signed bus.

use access::keys::{KeyPairText, SigningKey};
use access::token::{Claims, Issuer};
use futures_util::StreamExt as _;
use harness::{Node, World, eventually};
use shared::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const SIGNING_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SERVICES: &str = "/v4/default/registry/microservices";

/// The status of a request for the services; 0 without an answer.
async fn status(node: &Node, token: Option<&str>) -> u16 {
    let Ok(mut stream) = TcpStream::connect(node.api).await else { return 0 };
    let line = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET {SERVICES} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{line}\r\n");
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_err()
        || stream.read_to_string(&mut answer).await.is_err()
    {
        return 0;
    }
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

async fn becomes(node: &Node, token: Option<&str>, expected: u16) {
    let what = format!("{} answers {expected}", node.api);
    eventually(&what, || async { (status(node, token).await == expected).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_watch_at_every_gateway() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let pair = KeyPairText::generate().expect("is made");
    let private = write("private.key", &pair.private);
    let public = write("public.key", &pair.public);
    let signing = write("signing", SIGNING_KEY);
    // The gateways are not told that access control is on: the policy says so.
    let world = World::with()
        .planes(2)
        .gateways(2)
        .plane_flag("--nats-signing-keys", &signing)
        .gateway_flag("--nats-signing-keys", &signing)
        .plane_flag("--rbac-enable", "true")
        .plane_flag("--rbac-private-key", &private)
        .plane_flag("--rbac-public-key", &public)
        .start()
        .await;
    let mut etcd = etcd_client::Client::connect([world.etcd.endpoint()], None).await.expect("connects");
    let account = r#"{"name":"peter","roles":["developer"],"status":"active"}"#;
    let stored = etcd.put("/cse-sr/accounts/peter", account, None).await.expect("is stored");
    let revision = stored.header().expect("a header").revision() as f64;

    let now = Clock::system().micros() / 1_000_000;
    let claims = Claims {
        account: "peter".to_owned(),
        exp: now + 3600,
        iat: Some(now),
        jti: "one".to_owned(),
        ..Claims::default()
    };
    let issuer = Issuer::new(SigningKey::from_pem(pair.private.as_bytes()).expect("a key"));
    let token = issuer.issue(&claims).expect("is signed");
    let mut watches = Vec::new();
    for gateway in &world.gateways {
        // A control plane refuses as well, so a refusal does not show that the gateway has the policy.
        eventually("the gateway has the policy", || async {
            let known = gateway.try_metric("muster_edge_policy_revision", "").await?;
            (known >= revision).then_some(())
        })
        .await;
        becomes(gateway, None, 401).await;
        becomes(gateway, Some(&token), 200).await;
        let url = format!("ws://{}/v4/default/registry/watcher?all&rev=0", gateway.api);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
        let (watch, _) = tokio_tungstenite::connect_async(request).await.expect("is admitted");
        watches.push(watch);
    }

    // All sessions of the account end, as after a change of its password.
    let reset = format!(r#"{{"notBefore":{}}}"#, now + 60);
    etcd.put("/cse-sr/muster/access/account/peter", reset, None).await.expect("is stored");
    for watch in &mut watches {
        let close = loop {
            match tokio::time::timeout(harness::deadline(), watch.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(close)))) => break close,
                Some(Ok(_)) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), 4102, "{}", close.reason);
    }
    for gateway in &world.gateways {
        becomes(gateway, Some(&token), 401).await;
        assert_eq!(gateway.metric("muster_bus_refused_total", "").await, 0.0);
    }
}
