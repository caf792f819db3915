//! Tokens of a real OpenID Connect issuer, the library oidc-provider (`tests/oidc`), at both planes. It needs
//! Node and fetches the library from its package registry; so it runs by `cargo xtask oidc`, not with the
//! other tests.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use futures_util::StreamExt as _;
use harness::{Authority, Client, Node, World, deadline, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::key_files::KeyFiles;

const SERVICES: &str = "/v4/default/registry/microservices";
/// The lifetime of a token that ends while its watch is looked at, in seconds.
const SHORT: u32 = 8;
const LONG: u32 = 3600;

/// The issuer, in a process of its own.
struct Issuer {
    /// Its name.
    address: String,
    /// The address at which programs log in.
    login: SocketAddr,
    process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Issuer {
    /// Starts one with this certificate, which is for `localhost`.
    async fn start(folder: &Path) -> Self {
        let mut process = Command::new("node")
            .arg("issuer.mjs")
            .arg(folder)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node is needed");
        let input = process.stdin.take().expect("its input");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let line = line(&mut lines, "READY ").await;
        let mut words = line.split(' ').skip(1);
        let address = words.next().expect("its address").to_owned();
        let login = words.next().and_then(|login| login.parse().ok()).expect("the address for logins");
        Self { address, login, process, input, lines }
    }

    /// Changes its keys: `rotate` or `retire`.
    async fn change_keys(&mut self, change: &str) {
        self.input.write_all(format!("{change}\n").as_bytes()).await.expect("it reads");
        line(&mut self.lines, change).await;
    }

    /// A token for a program, as a header.
    async fn token(&self, program: &str, audience: &str, seconds: u32) -> String {
        let basic = data_encoding::BASE64.encode(format!("{program}:secret").as_bytes());
        let basic = format!("Basic {basic}");
        let headers =
            [("authorization", basic.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let body = format!(
            "grant_type=client_credentials&resource=https%3A%2F%2Fany%2F{audience}%3Fseconds%3D{seconds}"
        );
        let answer = Client::new(self.login).try_send("POST", "/token", &headers, body).await;
        let answer = answer.expect("an answer").ok();
        format!("Bearer {}", answer["access_token"].as_str().expect("a token"))
    }
}

/// Reads lines until one begins so.
async fn line(lines: &mut Lines<BufReader<ChildStdout>>, beginning: &str) -> String {
    let found = async {
        loop {
            let line = lines.next_line().await.expect("text").expect("the issuer goes on");
            if line.starts_with(beginning) {
                return line;
            }
        }
    };
    tokio::time::timeout(deadline(), found).await.expect("in time")
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn watch(gateway: &Node, provider: &str, token: &str) -> Socket {
    let url = format!("ws://{}/v4/default/registry/watcher?providers={provider}&rev=0", gateway.api);
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("authorization", token.parse().expect("a value"));
    tokio_tungstenite::connect_async(request).await.expect("a watch is granted").0
}

/// Reads until a text holds this word.
async fn hears(socket: &mut Socket, word: &str) {
    let heard = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) if text.contains(word) => return,
                Some(Ok(Message::Close(_)) | Err(_)) | None => panic!("the watch ended before {word}"),
                Some(Ok(_)) => {}
            }
        }
    };
    tokio::time::timeout(deadline(), heard).await.expect("in time");
}

/// The code with which a watch ends.
async fn ends(socket: &mut Socket) -> u16 {
    let end = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(close)))) => return close.code.into(),
                Some(Ok(_)) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    };
    tokio::time::timeout(deadline(), end).await.expect("in time")
}

/// Waits until every control plane and gateway answers a request for the services so.
async fn everywhere(world: &World, token: &str, status: u16) {
    for node in world.nodes() {
        eventually(&format!("{} answers {status}", node.api), || async {
            let headers = [("authorization", token)];
            let answer = Client::new(node.api).try_send("GET", SERVICES, &headers, String::new()).await?;
            (answer.status == status).then_some(())
        })
        .await;
    }
}

async fn send(world: &World, token: &str, method: &str, path: &str, body: Value) -> Value {
    let headers = [("authorization", token)];
    let answer = world.client(0).try_send(method, path, &headers, body.to_string()).await;
    answer.expect("an answer").ok()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node; run by cargo xtask oidc"]
async fn an_oidc_provider_is_followed() {
    let folder = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let identity = authority.issue(&["localhost"]);
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("certificate.pem"), &identity.certificate_pem).expect("written");
    std::fs::write(file("key.pem"), &identity.key_pem).expect("written");
    std::fs::write(file("authority.pem"), authority.certificate_pem()).expect("written");
    let mut issuer = Issuer::start(folder.path()).await;
    let keys = KeyFiles::new();
    let world = keys
        .guard(World::with().planes(2).gateways(2))
        .plane_flag("--rbac-oidc-issuer", &issuer.address)
        .plane_flag("--rbac-oidc-audience", "muster")
        .plane_flag("--rbac-oidc-roles", "engineers=developer")
        .plane_flag("--rbac-oidc-ca", &file("authority.pem").display().to_string())
        .plane_flag("--rbac-oidc-refresh", "1s")
        .start()
        .await;

    let first = issuer.token("builder", "muster", LONG).await;
    everywhere(&world, &first, 200).await;
    everywhere(&world, &issuer.token("guest", "muster", LONG).await, 403).await;
    everywhere(&world, &issuer.token("builder", "another", LONG).await, 401).await;

    let service = json!({"service": {"serviceName": "order", "appId": "shop", "version": "1.0.0"}});
    let made = send(&world, &first, "POST", SERVICES, service).await;
    let provider = made["serviceId"].as_str().expect("an id").to_owned();
    let instances = format!("{SERVICES}/{provider}/instances");
    let instance = json!({"instance": {"instanceId": "i", "hostName": "n", "endpoints": ["rest://10.0.0.1:80"],
        "healthCheck": {"mode": "push", "interval": 60, "times": 10}}});
    send(&world, &first, "POST", &instances, instance).await;
    let tagged = async |token: &str, tag: &str| {
        let properties = json!({"properties": {"tag": tag}});
        send(&world, token, "PUT", &format!("{instances}/i/properties"), properties).await;
    };
    let mut watches = Vec::new();
    for gateway in &world.gateways {
        watches.push(watch(gateway, &provider, &first).await);
    }
    tagged(&first, "before").await;
    for socket in &mut watches {
        hears(socket, "before").await;
    }

    // A new key: tokens of both count, and no watch ends.
    issuer.change_keys("rotate").await;
    let second = issuer.token("builder", "muster", LONG).await;
    let head = |token: &str| token.split('.').next().map(str::to_owned);
    assert_ne!(head(&first), head(&second), "the new key signs");
    everywhere(&world, &second, 200).await;
    everywhere(&world, &first, 200).await;
    tagged(&second, "between").await;
    for socket in &mut watches {
        hears(socket, "between").await;
    }
    let mut stays = watch(&world.gateways[0], &provider, &second).await;

    // The old key is gone: so are its tokens, and their watches.
    issuer.change_keys("retire").await;
    everywhere(&world, &first, 401).await;
    for socket in &mut watches {
        assert_eq!(ends(socket).await, 4102);
    }
    everywhere(&world, &second, 200).await;

    let short = issuer.token("builder", "muster", SHORT).await;
    let mut ending = watch(&world.gateways[1], &provider, &short).await;
    assert_eq!(ends(&mut ending).await, 4101);
    everywhere(&world, &short, 401).await;

    // An issuer that is away is not missed, not even by a control plane that starts.
    issuer.process.kill().await.expect("killed");
    let plane = &world.control_planes[0];
    assert_eq!(plane.process.terminate().await, Some(0), "a drain ends well");
    plane.process.start();
    plane.ready().await;
    everywhere(&world, &second, 200).await;
    tagged(&second, "after").await;
    hears(&mut stays, "after").await;
}
