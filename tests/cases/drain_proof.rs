//! Drains under a crowd of readers: watchers that do not read, watchers that move, clients that poll, and a
//! gateway that is killed. Each of them remembers what it was given; whenever a drain says that everybody
//! knows, all of these records are looked at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use harness::World;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

mod crowd;

use crowd::{Crowd, Fault};

/// Watchers of the same consumer.
const PER_CONSUMER: usize = 100;
/// Every so many of them is one that does not read, moves or polls.
const ONE_IN: usize = 100;
/// The time after which a client that has left and has not come back is none any more.
const MOVING: Duration = Duration::from_secs(9);
/// The time between two lines of a drain, at most.
const SILENCE: Duration = Duration::from_secs(20);

/// The end of a drain, and the time that it took.
struct Outcome {
    last: Value,
    took: Duration,
}

impl Outcome {
    fn is_proven(&self) -> bool {
        self.last["proven"] == true
    }

    /// The readers of a kind, and those that are known to have been told.
    fn figures(&self) -> String {
        let Self { last, took } = self;
        let of = |all: &str, told: &str| format!("{} of {}", last[told], last[all]);
        let [watchers, pollers] = [of("watchers", "reached"), of("pollers", "pollersReached")];
        let proof = if self.is_proven() { "proven" } else { "not proven" };
        format!("{proof} after {:.1} s: {watchers} watchers, {pollers} that poll", took.as_secs_f64())
    }
}

/// Drains an instance. Each line that says that everybody knows is held against the records of the readers.
async fn drain(gateway: SocketAddr, path: &str, instance: &str, deadline: u64, crowd: &Crowd) -> Outcome {
    let began = Instant::now();
    let mut stream = BufReader::new(TcpStream::connect(gateway).await.expect("connects"));
    let request = format!(
        "POST {path}/instances/{instance}/drain?deadline={deadline}s&names=1000 HTTP/1.1\r\nHost: x\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.get_mut().write_all(request.as_bytes()).await.expect("is sent");
    loop {
        let mut line = String::new();
        timeout(SILENCE, stream.read_line(&mut line)).await.expect("a line in time").expect("a line");
        assert!(!line.is_empty(), "the drain ends before its last line");
        let Ok(last @ Value::Object(_)) = serde_json::from_str::<Value>(&line) else {
            assert!(!line.starts_with("HTTP/1.1") || line.contains(" 200 "), "{line}");
            continue;
        };
        if last["proven"] == true {
            crowd.judge(instance, MOVING);
        }
        if last["done"] == true {
            return Outcome { last, took: began.elapsed() };
        }
    }
}

/// The time that a drain may take after a gateway was killed: it counts as one that may have watchers for a
/// minute, and as one that may have answered clients for four seconds more.
const AFTER_A_DEATH: u64 = 150;

/// A crowd of so many watchers on two gateways. With `kills`, one of the gateways is killed during a drain.
async fn crowd_of(watchers: usize, drains: usize, kills: bool) {
    // Clients ask often here, so that a minute need not pass for each that has moved.
    let world = World::with().planes(2).gateways(2).gateway_flag("--edge-polls", "5s").start().await;
    let gateways: Vec<SocketAddr> = world.gateways.iter().map(|gateway| gateway.api).collect();
    let client = world.client(0);
    let provider = client.service("order").await;
    for number in 0..drains + 4 {
        client.instance_with(&provider, &format!("i{number}"), 3600).await;
    }
    let mut consumers = Vec::new();
    for number in 0..watchers.div_ceil(PER_CONSUMER) {
        let consumer = client.service(&format!("consumer-{number}")).await;
        client.find(&consumer, "order", "").await.ok();
        consumers.push(consumer);
    }
    let path = format!("/v4/default/registry/microservices/{provider}");
    let crowd = Crowd::gather(&gateways, &consumers, watchers, watchers.div_ceil(ONE_IN)).await;
    let mut next = (0..).map(|number| format!("i{number}"));
    let mut instance = || next.next().expect("there are more");

    // The watchers that do not read are named, and nothing is proven.
    crowd.stall(ONE_IN, None);
    let stalled = crowd.stalled();
    let outcome = drain(gateways[0], &path, &instance(), if kills { 20 } else { 12 }, &crowd).await;
    println!("{stalled} of {watchers} watchers do not read: {}", outcome.figures());
    assert!(!outcome.is_proven(), "{}", outcome.last);
    let waiting = outcome.last["waiting"].as_array().map_or(0, Vec::len);
    assert!(waiting >= 1 && waiting <= stalled, "{}", outcome.last);

    if kills {
        // A gateway is killed while a drain is under way; its watchers and clients go to the other one.
        let instance = instance();
        let draining = drain(gateways[0], &path, &instance, 20, &crowd);
        let killing = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.gateways[1].process.kill();
        };
        let (outcome, ()) = tokio::join!(draining, killing);
        println!("one of two gateways is killed meanwhile: {}", outcome.figures());
        assert!(!outcome.is_proven(), "{}", outcome.last);
    }
    // They read again, and a drain ends.
    crowd.wake();
    let outcome = drain(gateways[0], &path, &instance(), AFTER_A_DEATH, &crowd).await;
    println!("all read again: {}", outcome.figures());
    assert!(outcome.is_proven(), "{}", outcome.last);
    if kills {
        world.gateways[1].process.start();
        world.gateways[1].ready().await;
    }

    // Again and again: one in a hundred stops reading for a while, as many move to the other gateway.
    let mut took = Vec::new();
    let mut ends = BTreeMap::new();
    for _ in 0..drains {
        crowd.stall(ONE_IN, Some(Duration::from_secs(2)));
        crowd.move_some(ONE_IN);
        let outcome = drain(gateways[0], &path, &instance(), AFTER_A_DEATH, &crowd).await;
        *ends.entry(outcome.is_proven()).or_insert(0) += 1;
        took.push(outcome.took);
    }
    took.sort();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let longest = took.last().copied().unwrap_or_default();
    println!(
        "{drains} drains while readers stop and move: proven {ends:?}, median {median:.1?}, longest {longest:.1?}"
    );
    assert_eq!(ends.get(&false), None, "everybody reads in the end");
    let (judged, faults) = crowd.verdict();
    println!("records that were looked at: {judged}; false proofs: {}", faults.len());
    assert!(faults.is_empty(), "{:?}", faults.iter().take(5).collect::<Vec<&Fault>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_drain_is_proven_before_everybody_knows() {
    crowd_of(60, 3, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask drain"]
async fn no_drain_is_proven_before_five_thousand_know() {
    crowd_of(5000, 20, true).await;
}
