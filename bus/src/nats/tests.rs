//! Tests of the bus over a real server. Each test starts its own `nats-server` process on a port of its own.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::contract;

struct Server {
    process: Child,
    port: u16,
    /// That of its configuration file.
    directory: Option<TempDir>,
}

impl Server {
    /// A server with this configuration file.
    fn with(configuration: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("nats.conf");
        std::fs::write(&file, configuration).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let path = file.to_str().expect("plain text");
        let mut server = Self::launch(port, &["-c", path]);
        server.directory = Some(directory);
        server
    }

    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        Self::start_on(port)
    }

    fn start_on(port: u16) -> Self {
        Self::launch(port, &[])
    }

    fn launch(port: u16, arguments: &[&str]) -> Self {
        let process = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed");
        Self { process, port, directory: None }
    }

    fn config(&self) -> NatsConfig {
        NatsConfig::new(vec![format!("nats://127.0.0.1:{}", self.port)], "test")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("still ours");
        self.process.wait().expect("still ours");
    }
}

async fn joined(config: NatsConfig) -> NatsBus {
    let bus = NatsBus::connect(config, &Tasks::new()).await.expect("a good configuration");
    wait_for(&bus, |link| link.connected).await;
    bus
}

async fn wait_for(bus: &NatsBus, mut condition: impl FnMut(&Link) -> bool) -> Link {
    let mut link = bus.link();
    let found = tokio::time::timeout(Duration::from_secs(10), link.wait_for(|link| condition(link))).await;
    *found.expect("in time").expect("the bus lives")
}

#[tokio::test]
async fn keeps_the_contract_of_a_bus() {
    let server = Server::start();
    let narrow = NatsConfig { subscription_capacity: 4, ..server.config() };
    contract::holds(&joined(server.config()).await, &joined(narrow).await, 4).await;
}

#[tokio::test]
async fn a_late_server_is_awaited_and_a_restart_raises_generation() {
    let server = Server::start();
    let port = server.port;
    let config = server.config();
    // Only the port is wanted: nobody listens on it now, and the test can open it later.
    drop(server);
    let bus = NatsBus::connect(config, &Tasks::new()).await.expect("a good configuration");
    assert!(!bus.link().borrow().connected);
    assert!(matches!(bus.subscribe("a").await, Err(BusError::Disconnected)));
    assert!(matches!(bus.publish(Message::new("a", "b")).await, Err(BusError::Disconnected)));

    let server = Server::start_on(port);
    let first = wait_for(&bus, |link| link.connected).await;
    let mut messages = bus.subscribe("a").await.expect("connected");
    drop(server);
    wait_for(&bus, |link| !link.connected).await;
    let _server = Server::start_on(port);
    let second = wait_for(&bus, |link| link.connected).await;
    assert!(second.generation > first.generation);

    bus.publish(Message::new("a", "after")).await.expect("connected");
    assert_eq!(messages.next().await.map(|message| message.payload), Some("after".into()));
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_at_once() {
    for urls in [vec![], vec!["nats://".to_owned()], vec!["127.0.0.1:notaport".to_owned()]] {
        let refused = NatsBus::connect(NatsConfig::new(urls.clone(), "test"), &Tasks::new()).await;
        assert!(matches!(refused, Err(BusError::Refused(_))), "{urls:?}");
    }
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let hidden = || "hidden".to_owned();
    for auth in [
        NatsAuth::User { name: "n".into(), password: hidden() },
        NatsAuth::Token(hidden()),
        NatsAuth::Nkey(hidden()),
        NatsAuth::Credentials(hidden()),
    ] {
        assert!(!format!("{auth:?}").contains("hidden"));
    }
    let key = "0123456789abcdef0123456789abcdef";
    assert!(!format!("{:?}", Keys::parse(key).expect("a key")).contains(key));
}

/// A server that lets each client in and then closes its connection; returns its address and its count.
async fn closing_server() -> (String, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("nats://{}", listener.local_addr().expect("bound"));
    let accepted = Arc::new(AtomicU64::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(let_in_and_close(stream));
        }
    });
    (address, accepted)
}

async fn let_in_and_close(mut stream: tokio::net::TcpStream) {
    let info = r#"INFO {"server_id":"x","server_name":"x","version":"2.10.0","proto":1,"go":"go","host":"127.0.0.1","port":1,"headers":true,"max_payload":1048576}"#;
    stream.write_all(format!("{info}\r\n").as_bytes()).await.expect("is sent");
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"PING") {
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
    }
    stream.write_all(b"PONG\r\n").await.expect("is sent");
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_called_ever_less_often() {
    let (address, accepted) = closing_server().await;
    let _bus =
        NatsBus::connect(NatsConfig::new(vec![address], "test"), &Tasks::new()).await.expect("connects");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let accepted = accepted.load(Ordering::Acquire);
    assert!((2..=15).contains(&accepted), "{accepted} connections in three seconds");
}

#[test]
fn a_good_connection_is_replaced_at_once() {
    let mut reconnects = Reconnects::default();
    let mut now = Instant::now();
    assert_eq!(reconnects.wait(1, now), Duration::ZERO);
    now += GOOD_CONNECTION;
    assert_eq!(reconnects.wait(1, now), Duration::ZERO, "it had lasted");
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        now += Duration::from_millis(10);
        let pause = reconnects.wait(1, now);
        longest = longest.max(pause);
        now += pause;
    }
    assert!(longest >= LONGEST_RECONNECT_WAIT / 2, "{longest:?} after ten short connections");
    assert!(reconnects.wait(2, now) > Duration::ZERO, "a failed attempt has its pause too");
    now += GOOD_CONNECTION + LONGEST_RECONNECT_WAIT;
    assert_eq!(reconnects.wait(1, now), Duration::ZERO, "a good connection clears the count");
}

/// Asserts that the server accepts a client with this login, and no other client.
async fn lets_in_only(server: &Server, auth: NatsAuth, wrong: NatsAuth) {
    let bus = joined(NatsConfig { auth: auth.clone(), ..server.config() }).await;
    let mut messages = bus.subscribe("a").await.expect("connected");
    bus.publish(Message::new("a", "payload")).await.expect("connected");
    assert_eq!(messages.next().await.map(|message| message.payload), Some("payload".into()));
    let probe = |auth| Box::pin(NatsBus::probe(NatsConfig { auth, ..server.config() }));
    probe(auth).await.expect("is let in");
    for auth in [wrong, NatsAuth::None] {
        probe(auth).await.expect_err("is kept out");
    }
}

#[tokio::test]
async fn an_nkey_logs_in() {
    let user = KeyPair::new_user();
    let server = Server::with(&format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key()));
    let seed = |pair: KeyPair| NatsAuth::Nkey(pair.seed().expect("a seed"));
    lets_in_only(&server, seed(user), seed(KeyPair::new_user())).await;
}

/// A token in which `issuer` says something about `subject`.
fn token(issuer: &KeyPair, subject: &KeyPair, says: Value) -> String {
    let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let claims = json!({
        "jti": "t", "iat": 1_700_000_000, "name": "test", "nats": says,
        "iss": issuer.public_key(), "sub": subject.public_key(),
    });
    let text = format!("{}.{}", encode(json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(claims));
    let signature = issuer.sign(text.as_bytes()).expect("a private key");
    format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[tokio::test]
async fn a_credentials_file_logs_in() {
    let [operator, account] = [KeyPair::new_operator(), KeyPair::new_account()];
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1});
    let of_operator = token(&operator, &operator, json!({"type": "operator", "version": 2}));
    let says = json!({"type": "account", "version": 2, "limits": unlimited});
    let of_account = token(&operator, &account, says);
    let server = Server::with(&format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    ));
    let credentials = |issuer: &KeyPair| {
        let user = KeyPair::new_user();
        let says = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        NatsAuth::Credentials(format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            token(issuer, &user, says),
            user.seed().expect("a seed")
        ))
    };
    lets_in_only(&server, credentials(&account), credentials(&KeyPair::new_account())).await;
}

/// Waits until the server has taken everything that this connection sent before. A flush does not wait for
/// the server; the server's own answer to a question on the same connection does.
async fn round_trip(bus: &NatsBus) {
    let nobody = bus.request(Message::new("nobody", "?"), Duration::from_secs(10)).await;
    assert!(matches!(nobody, Err(BusError::NoResponder(_))));
}

#[tokio::test]
async fn a_message_without_the_sites_key_is_dropped_and_counted() {
    let server = Server::start();
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, keys: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, keys).expect("written");
        Some(path)
    };
    let key = "0123456789abcdef0123456789abcdef";
    let with = |signing_keys| NatsConfig { signing_keys, ..server.config() };
    let gateway = joined(with(file("site", key))).await;
    let plane = joined(with(file("site", key))).await;
    let strangers = [
        joined(server.config()).await,
        joined(with(file("other", "fedcba9876543210fedcba9876543210"))).await,
    ];
    let mut messages = gateway.subscribe("a").await.expect("connected");
    let mut requests = plane.serve("b", "group").await.expect("connected");
    // The server must know both subscriptions before a stranger's message comes on another connection.
    round_trip(&gateway).await;
    round_trip(&plane).await;
    for stranger in &strangers {
        stranger.publish(Message::new("a", "a lie")).await.expect("connected");
        let request = stranger.request(Message::new("b", "?"), Duration::from_millis(100)).await;
        assert!(matches!(request, Err(BusError::Timeout(_))));
        round_trip(stranger).await;
    }
    let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let truth = Message { traceparent, ..Message::new("a", "the truth") };
    plane.publish(truth.clone()).await.expect("connected");
    assert_eq!(messages.next().await, Some(truth));
    let answering = tokio::spawn(async move {
        let request = requests.next().await.expect("a request");
        assert_eq!(request.payload, "genuine");
        let reply = request.reply.expect("a subject for the reply");
        strangers[0].publish(Message::new(reply.clone(), "a lie")).await.expect("connected");
        round_trip(&strangers[0]).await;
        plane.publish(Message::new(reply, "the truth")).await.expect("connected");
        plane
    });
    let mut reply =
        gateway.request(Message::new("b", "genuine"), Duration::from_secs(10)).await.expect("a reply");
    assert_eq!(reply.next().await.map(|part| part.payload), Some("the truth".into()));
    let plane = answering.await.expect("it answers");
    let nobody = gateway.request(Message::new("c", "?"), Duration::from_secs(10)).await;
    assert!(matches!(nobody, Err(BusError::NoResponder(_))));
    let counted = |bus: &NatsBus| Refusal::ALL.map(|reason| bus.signing.refused(reason));
    assert_eq!(counted(&gateway), [2, 1, 0]);
    assert_eq!(counted(&plane), [1, 1, 0]);
}

#[tokio::test]
async fn a_changed_file_of_keys_is_taken_while_running() {
    let server = Server::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys");
    let [old, new] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];
    std::fs::write(&path, old).expect("written");
    let bus = joined(NatsConfig { signing_keys: Some(path.clone()), ..server.config() }).await;
    let message = Message::new("a", "payload");
    let expected = Signing::new(Some(Keys::parse(new).expect("a key")), false).sign(&message);
    assert_ne!(bus.signing.sign(&message), expected);
    // Too short: the key before stays.
    std::fs::write(&path, "short").expect("written");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(bus.signing.sign(&message).is_some());
    std::fs::write(&path, new).expect("written");
    let changed = async {
        while bus.signing.sign(&message) != expected {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed).await.expect("the new key is taken");
}

#[tokio::test]
async fn a_server_that_takes_nothing_holds_nobody_up_for_ever() {
    let server = Server::start();
    let bus = joined(server.config()).await;
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &server.process.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    };
    signal("-STOP");
    let payload = Bytes::from(vec![0; 64 << 10]);
    // More than sockets and the client's queue hold.
    let sending = async {
        for _ in 0..10_000 {
            bus.publish(Message::new("a", payload.clone())).await?;
        }
        Ok::<(), BusError>(())
    };
    let outcome = tokio::time::timeout(SEND_TIMEOUT * 6, sending).await;
    signal("-CONT");
    assert!(matches!(outcome, Ok(Err(BusError::Disconnected))), "{outcome:?}");
}
