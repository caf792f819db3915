//! The registry as a zone of DNS, by real packets and connections.

use std::net::SocketAddr;
use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{DnsConfig, UpstreamConfig};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use shared::event::Action::{Create, Delete};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::tokens;
use crate::world::{PATIENCE, World, config};

/// A gateway that answers DNS.
async fn world(dns: DnsConfig) -> World {
    World::with(Config { dns: with_port(dns), ..config() }).await
}

fn with_port(dns: DnsConfig) -> DnsConfig {
    DnsConfig { listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))), ..dns }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a message")
}

async fn ask(world: &World, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(world.dns.expect("DNS is on")).await.expect("an address");
    socket.send(&question(name, kind)).await.expect("is sent");
    let mut answer = [0; 4096];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
    Message::from_vec(&answer[..received.expect("in time").expect("an answer")]).expect("a message")
}

/// Registers a service with one instance.
async fn begin(world: &World, service: &str, instance: &str) {
    world.control_plane.change(service, Create, instance).await;
    world.control_plane.register(service).await;
}

/// The machines behind a service of the application `app`.
async fn targets(world: &World, service: &str) -> (ResponseCode, Vec<String>) {
    let answer = ask(world, &format!("{service}.app.muster."), RecordType::SRV).await;
    let target = |data: &RData| match data {
        RData::SRV(srv) => srv.target.to_ascii(),
        other => panic!("{other:?}"),
    };
    let mut targets: Vec<_> = answer.answers.iter().map(|record| target(&record.data)).collect();
    targets.sort();
    (answer.metadata.response_code, targets)
}

async fn until(world: &World, service: &str, expected: (ResponseCode, &[&str])) {
    let waiting = async {
        loop {
            let (code, found) = targets(world, service).await;
            if (code, found.iter().map(String::as_str).collect::<Vec<_>>().as_slice()) == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    if waited.is_err() {
        panic!("{service} stays {:?} instead of {expected:?}", targets(world, service).await);
    }
}

#[tokio::test]
async fn names_follow_the_registry() {
    let world = world(DnsConfig::default()).await;
    begin(&world, "p", "1").await;
    until(&world, "p", (ResponseCode::NoError, &["1.example."])).await;
    world.control_plane.change("p", Create, "2").await;
    until(&world, "p", (ResponseCode::NoError, &["1.example.", "2.example."])).await;
    assert_eq!(targets(&world, "q").await, (ResponseCode::NXDomain, vec![]));
    begin(&world, "q", "3").await;
    until(&world, "q", (ResponseCode::NoError, &["3.example."])).await;
    for instance in ["1", "2"] {
        world.control_plane.change("p", Delete, instance).await;
    }
    until(&world, "p", (ResponseCode::NoError, &[])).await;

    let mut stream = TcpStream::connect(world.dns.expect("DNS is on")).await.expect("connects");
    let bytes = question("q.app.muster.", RecordType::SRV);
    stream.write_u16(bytes.len() as u16).await.expect("is sent");
    stream.write_all(&bytes).await.expect("is sent");
    let mut answer = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(Message::from_vec(&answer).expect("a message").answers.len(), 1);
}

#[tokio::test]
async fn dns_fails_until_the_services_are_known() {
    let upstream = UpstreamConfig { open_timeout: Duration::from_millis(50), ..config().upstream };
    let dns = with_port(DnsConfig::default());
    let world = World::without_answers(Config { dns, upstream, ..config() }).await;
    world.control_plane.change("p", Create, "1").await;
    assert_eq!(targets(&world, "p").await.0, ResponseCode::ServFail);
    assert_eq!(targets(&world, "nothing").await.0, ResponseCode::ServFail);
    assert_eq!(world.metric("muster_edge_dns_known"), 0.0);
    world.control_plane.decline(0);
    until(&world, "p", (ResponseCode::NoError, &["1.example."])).await;
    // All that follows is answered from what is known.
    world.control_plane.decline(1_000_000);
    assert_eq!(targets(&world, "nothing").await.0, ResponseCode::NXDomain);
    assert_eq!(world.metric("muster_edge_dns_known"), 1.0);
}

#[tokio::test]
async fn no_name_is_denied_while_what_was_missed_is_being_requested() {
    let world = world(DnsConfig::default()).await;
    begin(&world, "p", "1").await;
    world.control_plane.bookmark().await;
    until(&world, "p", (ResponseCode::NoError, &["1.example."])).await;
    until(&world, "q", (ResponseCode::NXDomain, &[])).await;
    world.control_plane.lose("q", "2").await;
    until(&world, "q", (ResponseCode::ServFail, &[])).await;
    assert_eq!(targets(&world, "p").await, (ResponseCode::NoError, vec!["1.example.".to_owned()]));
    world.control_plane.decline(0);
    until(&world, "q", (ResponseCode::NoError, &["2.example."])).await;
    // The new one may be there before all else is confirmed.
    until(&world, "r", (ResponseCode::NXDomain, &[])).await;
}

#[tokio::test]
async fn an_account_decides_what_dns_tells() {
    let account = |name: &str| DnsConfig { account: Some(name.into()), ..DnsConfig::default() };
    let anonymous = DnsConfig { anonymous: true, ..DnsConfig::default() };
    use ResponseCode::{NXDomain, NoError, Refused};
    for (dns, shop, bank) in [
        (DnsConfig::default(), Refused, Refused),
        (account("nobody"), Refused, Refused),
        (account("idle"), Refused, Refused),
        (account("bound"), Refused, Refused),
        (account("shop"), NoError, NXDomain),
        (account("reader"), NoError, NoError),
        (anonymous, NoError, NoError),
    ] {
        let world = world(dns).await;
        for service in ["shop-a", "bank"] {
            begin(&world, service, service).await;
        }
        until(&world, "shop-a", (NoError, &["shop-a.example."])).await;
        // Access control is switched on while the gateway runs.
        world.control_plane.policy(tokens::policy()).await;
        let expected = |code, target| (code, if code == NoError { vec![target] } else { vec![] });
        let (code, targets) = expected(bank, "bank.example.");
        until(&world, "bank", (code, &targets)).await;
        let (code, targets) = expected(shop, "shop-a.example.");
        until(&world, "shop-a", (code, &targets)).await;
    }
}

#[tokio::test]
async fn the_last_known_names_stay_when_the_bus_is_silent() {
    let world = world(DnsConfig::default()).await;
    begin(&world, "p", "1").await;
    world.control_plane.bookmark().await;
    until(&world, "p", (ResponseCode::NoError, &["1.example."])).await;
    // Nobody tells anything any more.
    world.control_plane.decline(1_000_000);
    world.until("muster_edge_dns_age_seconds", |age| age > 1.0).await;
    assert_eq!(targets(&world, "p").await, (ResponseCode::NoError, vec!["1.example.".to_owned()]));
}

#[tokio::test]
async fn dns_ends_with_the_gateway() {
    let world = world(DnsConfig::default()).await;
    let mut stream = TcpStream::connect(world.dns.expect("DNS is on")).await.expect("connects");
    world.tasks.drain().cancel();
    assert!(world.tasks.finish(PATIENCE).await, "every task ends");
    assert!(stream.read_u16().await.is_err());
}
