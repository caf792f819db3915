//! The registry as a zone of DNS, asked over UDP and TCP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Client, Process, World, eventually, port};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::operate::muster;

/// An answer, as far as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) records: Vec<String>,
}

fn answer(code: ResponseCode, records: &[&str]) -> Answer {
    Answer { code, records: records.iter().map(|record| (*record).to_owned()).collect() }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a message")
}

fn read(bytes: &[u8]) -> Answer {
    let message = Message::from_vec(bytes).expect("a message");
    let text = |data: &RData| data.to_string();
    let mut records: Vec<_> = message.answers.iter().map(|record| text(&record.data)).collect();
    records.sort();
    Answer { code: message.metadata.response_code, records }
}

/// Asks over UDP. `None` when there is no answer yet.
pub(crate) async fn try_ask(server: SocketAddr, name: &str, kind: RecordType) -> Option<Answer> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(server).await.expect("an address");
    socket.send(&question(name, kind)).await.ok()?;
    let mut bytes = [0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut bytes)).await.ok()?.ok()?;
    Some(read(&bytes[..length]))
}

/// The records of a question, sorted. `None` when there is no answer yet.
pub(crate) async fn answer_of(server: SocketAddr, name: &str, kind: RecordType) -> Option<Vec<String>> {
    Some(try_ask(server, name, kind).await?.records)
}

async fn ask_over_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Answer {
    let mut stream = TcpStream::connect(server).await.expect("connects");
    let bytes = question(name, kind);
    stream.write_u16(bytes.len() as u16).await.expect("is sent");
    stream.write_all(&bytes).await.expect("is sent");
    let mut bytes = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
    stream.read_exact(&mut bytes).await.expect("an answer");
    read(&bytes)
}

async fn until(server: SocketAddr, name: &str, kind: RecordType, expected: Answer) {
    eventually(&format!("{name} has {expected:?}"), || async {
        (try_ask(server, name, kind).await? == expected).then_some(())
    })
    .await;
}

pub(crate) async fn register(client: &Client, service: &str, id: &str, address: &str, more: Value) {
    let mut instance = json!({
        "instanceId": id,
        "hostName": id,
        "endpoints": [format!("rest://{address}:8080")],
        "healthCheck": {"mode": "push", "interval": 3600, "times": 3},
    });
    if let (Some(instance), Value::Object(more)) = (instance.as_object_mut(), more) {
        instance.extend(more);
    }
    let path = format!("/microservices/{service}/instances");
    client.call("POST", &path, "", &json!({ "instance": instance })).await.ok();
}

/// A registry that answers DNS, when it is ready.
async fn standalone(api: SocketAddr, server: SocketAddr) -> Process {
    let listen = api.to_string();
    let dns = server.to_string();
    let flags = ["standalone", "--data-dir", "data", "--listen", &listen, "--dns-listen", &dns];
    let process = Process::ours("muster").args(flags);
    process.start();
    ready(api).await;
    process
}

async fn ready(api: SocketAddr) {
    let client = Client::new(api);
    eventually("the registry is ready", || async {
        (client.try_get("/ready").await?.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_registry_answers_dns() {
    let api = port::local();
    let server = port::local();
    let process = standalone(api, server).await;
    let client = Client::new(api);
    let service = client.service("order").await;
    register(&client, &service, "a", "10.0.0.1", json!({"properties": {"weight": "30"}})).await;
    register(&client, &service, "b", "10.0.0.2", json!({"status": "DOWN"})).await;
    let name = "order.shop.muster.";
    until(server, name, RecordType::A, answer(ResponseCode::NoError, &["10.0.0.1"])).await;
    assert_eq!(ask_over_tcp(server, name, RecordType::A).await.records, ["10.0.0.1"]);
    let endpoint = ask_over_tcp(server, &format!("_rest._tcp.{name}"), RecordType::SRV).await;
    assert_eq!(endpoint.records, ["0 30 8080 a.instance.order.shop.muster."]);
    let back = ask_over_tcp(server, "1.0.0.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(back.records, ["a.instance.order.shop.muster."]);
    // While a service loads for the first time, as this process's own may, no absence is proven.
    eventually("a name that nobody has is denied", || async {
        let told = ask_over_tcp(server, "cart.shop.muster.", RecordType::A).await;
        assert!(told.records.is_empty(), "{told:?}");
        (told.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
    let at = server.to_string();
    let url = format!("http://{api}");
    let doctor = ["doctor", "--server", &url, "--read-only", "--dns", &at];
    let well = muster(&doctor).await.1;
    assert!(well.contains("answers for muster. over UDP and TCP, and refuses other zones"), "{well}");
    let other = muster(&[&doctor[..], &["--dns-domain", "other."]].concat()).await;
    assert!(other.0 == 1 && other.1.contains("dns.domain"), "{other:?}");
    let find = ["find", "--server", &url, "--app", "shop", "--name", "order", "--as", "dns"];
    let shown = muster(&find).await;
    assert!(shown.0 == 0 && shown.1.contains("0 30 8080 a.instance.order.shop.muster."), "{shown:?}");
    assert!(!shown.1.contains("10.0.0.2"), "{shown:?}");
    // A status is taken over like every other change.
    let path = format!("/microservices/{service}/instances/b/status?value=UP");
    client.call("PUT", &path, "", &Value::Null).await.ok();
    until(server, name, RecordType::A, answer(ResponseCode::NoError, &["10.0.0.1", "10.0.0.2"])).await;
    for id in ["a", "b"] {
        client.unregister(&service, id).await;
    }
    until(server, name, RecordType::A, answer(ResponseCode::NoError, &[])).await;
    // Names are there again after a restart, and none is denied before they are known.
    register(&client, &service, "c", "10.0.0.3", json!({})).await;
    until(server, name, RecordType::A, answer(ResponseCode::NoError, &["10.0.0.3"])).await;
    process.kill();
    process.start();
    eventually("the names are back", || async {
        let told = try_ask(server, name, RecordType::A).await?;
        assert!(told.code == ResponseCode::ServFail || told.records == ["10.0.0.3"], "{told:?}");
        (told.code == ResponseCode::NoError).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_goes_on_without_planes_store_and_bus() {
    let server = port::local();
    let world = World::with().gateway_flag("--dns-listen", &server.to_string()).start().await;
    let client = world.client(0);
    let service = client.service("order").await;
    register(&client, &service, "a", "10.0.0.1", json!({})).await;
    let name = "order.shop.muster.";
    let expected = answer(ResponseCode::NoError, &["10.0.0.1"]);
    until(server, name, RecordType::A, expected.clone()).await;
    for plane in &world.control_planes {
        plane.process.kill();
    }
    world.etcd.kill();
    world.nats.kill();
    eventually("the gateway has heard nothing for a while", || async {
        let age = world.gateways[0].metric("muster_edge_dns_age_seconds", "").await;
        assert_eq!(try_ask(server, name, RecordType::A).await.as_ref(), Some(&expected));
        (age > 2.0).then_some(())
    })
    .await;
    assert_eq!(ask_over_tcp(server, name, RecordType::A).await, expected);
}

/// Asks by `dnspython`, over the transport that it chooses: prints a record a line, or the error.
const PYTHON: &str = "
import sys, dns.resolver
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = ['127.0.0.1'], int(sys.argv[1])
try:
    for record in resolver.resolve(sys.argv[2], sys.argv[3]):
        print(record)
except dns.exception.DNSException as error:
    print(type(error).__name__)
";

/// The sorted lines that a program prints.
fn lines(program: &Path, arguments: &[&str]) -> Vec<String> {
    let output = std::process::Command::new(program).args(arguments).output().expect("starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The commands of the first block of the documentation, for other ports.
fn example(api: SocketAddr, server: SocketAddr) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(repository().join("docs/dns.md")).expect("the page");
    let block = page.split("```").nth(1).and_then(|block| block.strip_prefix("sh")).expect("a block");
    let lines = block.trim().lines().filter(|line| *line != "sleep 1");
    lines
        .map(|line| {
            let line = line
                .trim_end_matches(" &")
                .replace("127.0.0.1:5353", &server.to_string())
                .replace("-p 5353", &format!("-p {}", server.port()))
                .replace("muster standalone", &format!("muster standalone --data-dir data --listen {api}"))
                .replace("muster register", &format!("muster register --server http://{api}"));
            line.split_whitespace().map(str::to_owned).collect()
        })
        .collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// The output of `dig`, a line an element.
fn dig(arguments: &[&str]) -> Vec<String> {
    lines(Path::new("dig"), arguments)
}

/// Registers the service `crowd` with more addresses than a packet holds, and returns these.
async fn register_crowd(client: &Client) -> BTreeSet<String> {
    let service = client.service("crowd").await;
    let addresses: BTreeSet<_> = (1..=120).map(|n| format!("10.0.1.{n}")).collect();
    for address in &addresses {
        register_at(client, &service, address).await;
    }
    addresses
}

/// A registry that answers at `server`, with one instance of `order` and the service `crowd`, and the
/// addresses of the latter.
async fn registry_with_crowd(server: SocketAddr) -> (Process, BTreeSet<String>) {
    let api = port::local();
    let registry = standalone(api, server).await;
    let client = Client::new(api);
    let service = client.service("order").await;
    register_at(&client, &service, "10.0.0.1").await;
    (registry, register_crowd(&client).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_reads_what_the_page_says() {
    let api = port::local();
    let server = port::local();
    let commands = example(api, server);
    let [start, register, addresses, endpoints] = &commands[..] else { panic!("{commands:?}") };
    let registry = Process::ours("muster").args(start[1..].iter().cloned());
    registry.start();
    ready(api).await;
    let client = Client::new(api);
    let registering = Process::ours("muster").args(register[1..].iter().cloned());
    registering.start();
    let run = |command: &[String]| {
        assert_eq!(command[0], "dig");
        dig(&command[1..].iter().map(String::as_str).collect::<Vec<_>>())
    };
    eventually("dig finds the address", || async { (run(addresses) == ["10.0.0.1"]).then_some(()) }).await;
    let [endpoint] = &run(endpoints)[..] else { panic!("one endpoint") };
    assert!(endpoint.starts_with("0 100 8080 ") && endpoint.ends_with(".order.shop.muster."), "{endpoint}");
    let at = format!("@{}", server.ip());
    let port = server.port().to_string();
    let whole = dig(&[&at, "-p", &port, "+dnssec", "example.com"]).join("\n");
    assert!(whole.contains("REFUSED") && whole.contains("EDE: 20"), "{whole}");
    let transfer = dig(&[&at, "-p", &port, "muster", "AXFR"]).join("\n");
    assert!(transfer.contains("Transfer failed"), "{transfer}");
    register_crowd(&client).await;
    let all = format!("{at} -p {port} +short crowd.shop.muster");
    eventually("all addresses are there", || async {
        (dig(&all.split(' ').collect::<Vec<_>>()).len() == 120).then_some(())
    })
    .await;
    assert_eq!(dig(&[&at, "-p", &port, "+tcp", "+short", "crowd.shop.muster"]).len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dnspython: cargo xtask dns"]
async fn dnspython_reads_the_answers() {
    let server = port::local();
    let (_registry, expected) = registry_with_crowd(server).await;
    let port = server.port().to_string();
    let python = repository().join("target/dnspython/bin/python");
    let ask = |name: &str, kind: &str| lines(&python, &["-c", PYTHON, &port, name, kind]);
    eventually("all addresses are there", || async {
        (ask("crowd.shop.muster", "A").into_iter().collect::<BTreeSet<_>>() == expected).then_some(())
    })
    .await;
    assert_eq!(ask("crowd.shop.muster", "SRV").len(), 120);
    assert_eq!(ask("order.shop.muster", "AAAA"), ["NoAnswer"]);
    assert_eq!(ask("nothing.shop.muster", "A"), ["NXDOMAIN"]);
    assert_eq!(ask("example.com", "A"), ["NoNameservers"], "another zone is refused");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go and a JDK: cargo xtask dns"]
async fn resolvers_of_go_and_java_read_the_answers() {
    let server = port::local();
    let (_registry, expected) = registry_with_crowd(server).await;
    until(server, "order.shop.muster.", RecordType::A, answer(ResponseCode::NoError, &["10.0.0.1"])).await;
    let port = server.port().to_string();
    let go = repository().join("target/dns-go/lookup");
    let source = repository().join("tests/dns/Lookup.java").display().to_string();
    // Go does not tell a name without such records from one that does not exist.
    for (library, program, first, nothing) in
        [("Go", go.as_path(), None, "not found"), ("Java", Path::new("java"), Some(&*source), "no records")]
    {
        let ask = |name: &str, kind: &str| {
            let arguments: Vec<&str> = first.into_iter().chain([&*port, name, kind]).collect();
            lines(program, &arguments)
        };
        eventually(&format!("{library} has all addresses"), || async {
            (ask("crowd.shop.muster", "A").into_iter().collect::<BTreeSet<_>>() == expected).then_some(())
        })
        .await;
        assert_eq!(ask("_rest._tcp.crowd.shop.muster", "SRV").len(), 120, "{library}");
        assert_eq!(
            ask("_rest._tcp.order.shop.muster", "SRV"),
            ["0 100 8080 10-0-0-1.instance.order.shop.muster."],
            "{library}"
        );
        assert_eq!(ask("order.shop.muster", "AAAA"), [nothing], "{library}");
        assert_eq!(ask("nothing.shop.muster", "A"), ["not found"], "{library}");
        assert_eq!(ask("example.com", "A"), ["failed"], "{library}: another zone is refused");
    }
}

async fn register_at(client: &Client, service: &str, address: &str) {
    let id = address.replace('.', "-");
    register(client, service, &id, address, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_tells_nobody_by_oversight() {
    for flags in
        [&["--dns-listen", "0.0.0.0:0"][..], &["--dns-listen", "127.0.0.1:0", "--rbac-enable", "true"]]
    {
        for (program, first) in [("muster", Some("standalone")), ("edge-gateway", None)] {
            let process = Process::ours(program).args(first.into_iter().chain(flags.iter().copied()));
            process.start();
            assert_eq!(process.ended().await, Some(64), "{program} {flags:?}");
            assert!(process.log().contains("dns-listen"), "{program}: {}", process.log());
        }
    }
}
