//! Certificates of clients stand for accounts, on every transport, at a registry of one process and across
//! both planes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use harness::port::local;
use harness::{Authority, Client, Etcd, Nats, Process, eventually};
use host::tls::{ClientFiles, client};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::operate::{Registry, write, write_identity};

const SERVICES: &str = "/v4/default/registry/microservices";
const SHOP: &str = "spiffe://site/ns/shop/sa/cart";
const STRANGER: &str = "spiffe://site/ns/other/sa/x";
const RULES: &str = "boss=root,spiffe://site/ns/shop/sa/*=shop";
const PASSWORD: &str = "Complicated_password1";

/// An authority, the certificate of all servers, and those of clients.
struct Site {
    directory: tempfile::TempDir,
    authority: Authority,
    ca: String,
    certificate: String,
    key: String,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new();
        let ca = write(directory.path(), "ca.pem", &authority.certificate_pem());
        let (certificate, key) = write_identity(directory.path(), &authority.issue(&["127.0.0.1"]));
        Self { directory, authority, ca, certificate, key }
    }

    /// The flags of a listener that asks for certificates.
    fn listener(&self) -> [&str; 6] {
        ["--tls-certificate", &self.certificate, "--tls-key", &self.key, "--tls-client-ca", &self.ca]
    }

    /// The files of a client's certificate.
    fn files(&self, name: &str) -> (String, String) {
        let directory = self.directory.path().join(name.replace('/', "_"));
        std::fs::create_dir_all(&directory).expect("is made");
        write_identity(Path::new(&directory), &self.authority.issue_client(name))
    }

    /// A client of `server` with a certificate of this name.
    fn client(&self, server: SocketAddr, name: &str) -> Certified {
        let (certificate, key) = self.files(name);
        let identity = Some((certificate.into(), key.into()));
        Certified { server, files: ClientFiles { ca: Some(self.ca.clone().into()), identity } }
    }
}

/// A client with a certificate.
struct Certified {
    server: SocketAddr,
    files: ClientFiles,
}

impl Certified {
    async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut config = client(&self.files).expect("a client");
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.server).await.expect("connects");
        let name = ServerName::from(self.server.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("is trusted")
    }

    /// The status and the body of an answer.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
        let io = TokioIo::new(self.connect("http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("speaks HTTP");
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", "registry");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn status(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.send(method, path, headers, &Value::Null).await.0
    }

    /// A watch over a WebSocket, or the status of the refusal.
    async fn watch(
        &self,
        path: &str,
    ) -> Result<tokio_tungstenite::WebSocketStream<TlsStream<TcpStream>>, u16> {
        let request = format!("wss://{}{path}", self.server).into_client_request().expect("a request");
        match tokio_tungstenite::client_async(request, self.connect("http/1.1").await).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(refusal)) => Err(refusal.status().as_u16()),
            Err(error) => panic!("neither a watch nor a refusal: {error}"),
        }
    }

    /// The status with which an empty question of gRPC is refused.
    async fn grpc(&self) -> String {
        let io = TokioIo::new(self.connect("h2").await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.expect("speaks HTTP/2");
        tokio::spawn(connection);
        let request = http::Request::post(format!("https://{}/muster.watch.v1.Watch/Watch", self.server))
            .header("content-type", "application/grpc")
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        answer.headers()["grpc-status"].to_str().expect("text").to_owned()
    }
}

fn account(name: &str, role: &str) -> Value {
    json!({"name": name, "password": PASSWORD, "roles": [role]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_acts_as_its_account_on_every_transport() {
    let site = Site::new();
    let mut flags = vec!["--rbac-enable", "--rbac-root-password", PASSWORD, "--rbac-certificates", RULES];
    flags.extend(site.listener());
    let registry = Registry::start(&flags).await;
    let client = |name| site.client(registry.api, name);
    let (boss, shop, stranger) = (client("boss"), client(SHOP), client(STRANGER));
    eventually("root is there", || async { (boss.status("GET", SERVICES, &[]).await == 200).then_some(()) })
        .await;
    // The account of a rule need not exist; until then its certificates are refused.
    assert_eq!(shop.send("GET", SERVICES, &[], &Value::Null).await.1["errorCode"], "401206");
    assert_eq!(boss.send("POST", "/v4/accounts", &[], &account("shop", "developer")).await.0, 200);
    eventually("the account is known", || async {
        (shop.status("GET", SERVICES, &[]).await == 200).then_some(())
    })
    .await;
    assert_eq!(shop.status("GET", "/v4/accounts", &[]).await, 403);
    assert_eq!(stranger.send("GET", SERVICES, &[], &Value::Null).await.1["errorCode"], "401204");
    // A token decides, and a bad one is not made up for.
    assert_eq!(boss.status("GET", SERVICES, &[("authorization", "Bearer junk")]).await, 401);
    let (_, login) =
        shop.send("POST", "/v4/token", &[], &json!({"name": "shop", "password": PASSWORD})).await;
    let token = format!("Bearer {}", login["token"].as_str().expect("a token"));
    assert_eq!(boss.status("GET", "/v4/accounts", &[("authorization", &token)]).await, 403);
    // Nobody chooses an account, and a request that was passed on is not the certificate's owner's.
    for name in ["x-muster-account", "X-Muster-Account"] {
        assert_eq!(stranger.status("GET", SERVICES, &[(name, "root")]).await, 401);
        assert_eq!(shop.status("GET", "/v4/accounts", &[(name, "root")]).await, 403);
    }
    assert_eq!(boss.status("GET", SERVICES, &[("x-forwarded-for", "10.0.0.1")]).await, 401);
    assert_eq!(boss.status("POST", SERVICES, &[("origin", "https://evil.example")]).await, 401);
    // Without a token there is nothing to log out.
    assert_eq!(boss.status("DELETE", "/v4/token", &[]).await, 400);

    let path = "/v4/default/registry/watcher?all&rev=0";
    assert_eq!(stranger.watch(path).await.err(), Some(401));
    assert_eq!((stranger.grpc().await, shop.grpc().await), ("16".to_owned(), "3".to_owned()));
    let mut watch = shop.watch(path).await.expect("a watch");
    let off = json!({"status": "inactive", "roles": ["developer"]});
    assert_eq!(boss.send("PUT", "/v4/accounts/shop", &[], &off).await.0, 200);
    let close = loop {
        match tokio::time::timeout(harness::deadline(), watch.next()).await.expect("in time") {
            Some(Ok(Message::Close(close))) => break close.expect("a reason"),
            Some(Ok(_)) => {}
            other => panic!("a close frame was expected, not {other:?}"),
        }
    };
    assert!(close.reason.contains("active"), "{close:?}");
    assert_eq!(shop.status("GET", SERVICES, &[]).await, 401);
    assert_eq!(shop.watch(path).await.err(), Some(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_believes_gateways_and_nobody_else() {
    let site = Site::new();
    let (etcd, nats) = tokio::join!(Etcd::start(), Nats::start());
    let [plane, plane_admin, edge, edge_admin] = [local(), local(), local(), local()];
    let plane_process = Process::ours("control-plane")
        .args(["--etcd", &format!("http://{}", etcd.endpoint()), "--nats", &nats.url()])
        .args(["--listen", &plane.to_string(), "--admin-listen", &plane_admin.to_string()])
        .args(["--rbac-enable", "--rbac-root-password", PASSWORD, "--rbac-certificates", RULES])
        .args(["--rbac-gateways", "spiffe://site/gateway/*"])
        .args(site.listener());
    let (certificate, key) = site.files("spiffe://site/gateway/1");
    let edge_process = Process::ours("edge-gateway")
        .args(["--nats", &nats.url(), "--listen", &edge.to_string(), "--rbac-enable"])
        .args(["--admin-listen", &edge_admin.to_string(), "--control-plane", &format!("https://{plane}")])
        .args(["--control-plane-ca", &site.ca, "--control-plane-certificate", &certificate])
        .args(["--control-plane-key", &key, "--rbac-certificates", RULES])
        .args(site.listener());
    plane_process.start();
    edge_process.start();
    eventually("both are ready", || async {
        let answer = Client::new(edge_admin).try_get("/ready").await?;
        (answer.status == 200 && Client::new(plane_admin).try_get("/ready").await?.status == 200)
            .then_some(())
    })
    .await;
    let (boss, shop, stranger) =
        (site.client(edge, "boss"), site.client(edge, SHOP), site.client(edge, STRANGER));
    eventually("root is there", || async { (boss.status("GET", SERVICES, &[]).await == 200).then_some(()) })
        .await;
    let perms = json!([{"resources": [{"type": "service", "labels": {"appId": "default"}}], "verbs": ["*"]}]);
    let role = json!({"name": "shopper", "perms": perms});
    assert_eq!(boss.send("POST", "/v4/roles", &[], &role).await.0, 200);
    assert_eq!(boss.send("POST", "/v4/accounts", &[], &account("shop", "shopper")).await.0, 200);
    let service = json!({"service": {"serviceName": "cart", "appId": "default", "version": "1.0.0"}});
    let created = eventually("the account may register", || async {
        let (status, created) = shop.send("POST", SERVICES, &[], &service).await;
        (status == 200).then_some(created)
    })
    .await;
    let id = created["serviceId"].as_str().expect("an id").to_owned();
    // The right has labels, so the gateway asks in the client's name.
    assert!(shop.watch(&format!("{SERVICES}/{id}/watcher")).await.is_ok());
    assert_eq!(stranger.status("GET", SERVICES, &[("x-muster-account", "root")]).await, 401);
    assert_eq!(shop.status("GET", "/v4/accounts", &[("x-muster-account", "root")]).await, 403);
    let named = [("x-muster-account", "root"), ("connection", "x-muster-account")];
    assert_eq!(shop.status("GET", "/v4/accounts", &named).await, 403);

    // The same control plane, without a gateway between.
    let direct = |name| site.client(plane, name);
    assert_eq!(direct("boss").status("GET", SERVICES, &[]).await, 200);
    for name in [STRANGER, SHOP, "spiffe://site/gateway/", "spiffe://site/gateway/1/x"] {
        let (status, refusal) =
            direct(name).send("GET", SERVICES, &[("x-muster-account", "root")], &Value::Null).await;
        assert_eq!((status, &refusal["errorCode"]), (401, &json!("401201")), "{name}: {refusal}");
    }
    let gateway = direct("spiffe://site/gateway/1");
    assert_eq!(gateway.status("GET", SERVICES, &[]).await, 401);
    assert_eq!(gateway.status("GET", SERVICES, &[("x-muster-account", "shop")]).await, 200);
    assert_eq!(gateway.status("GET", SERVICES, &[("x-muster-account", "developer")]).await, 401);
}
