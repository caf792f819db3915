//! Tests of the bus over a real server. Each test starts its own `nats-server` process on a port of its own.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::contract;

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        Self::start_on(port)
    }

    fn start_on(port: u16) -> Self {
        let process = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed");
        Self { process, port }
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
    let auth = NatsAuth::User { name: "n".into(), password: "hidden".into() };
    assert!(!format!("{auth:?}{:?}", NatsAuth::Token("hidden".into())).contains("hidden"));
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
