//! Drains of instances that clients read in other ways than by a watch: by finds, and over xDS.

use serde_json::Value;
use shared::event::Action;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::drain::Stage;
use crate::world::{PATIENCE, World};
use crate::xds::{ADS, ENDPOINTS, Whole, ask};

/// A client that polls, over one connection.
struct Poller(BufReader<TcpStream>);

impl Poller {
    async fn at(world: &World) -> Self {
        let mut poller = Self(BufReader::new(TcpStream::connect(world.api).await.expect("connects")));
        poller.find().await;
        poller
    }

    /// Asks, and reads the whole answer.
    async fn find(&mut self) {
        let request = "GET /v4/default/registry/instances?appId=app&serviceName=p&version=0%2B HTTP/1.1\r\n\
                       Host: x\r\nX-ConsumerId: c\r\n\r\n";
        self.0.get_mut().write_all(request.as_bytes()).await.expect("is sent");
        let mut length = 0;
        for number in 0.. {
            let mut line = String::new();
            timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("in time").expect("a line");
            assert!(number > 0 || line.contains(" 200 "), "{line}");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        timeout(PATIENCE, self.0.read_exact(&mut body)).await.expect("in time").expect("a body");
    }
}

/// The lines of a drain, as they come.
struct Lines(BufReader<TcpStream>);

impl Lines {
    async fn of(world: &World, query: &str) -> Self {
        let mut stream = TcpStream::connect(world.api).await.expect("connects");
        let request = format!(
            "POST /v4/default/registry/microservices/p/instances/1/drain?{query} HTTP/1.1\r\n\
             Host: x\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("is sent");
        Self(BufReader::new(stream))
    }

    async fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("in time").expect("a line");
            if line.starts_with('{') {
                return serde_json::from_str(&line).expect("JSON");
            }
        }
    }

    /// The next line once both gateways have answered that so many of these have been told. No line before
    /// it says that all have.
    async fn until(&mut self, field: &str, told: u64) -> Value {
        loop {
            let line = self.next().await;
            if line["fleetKnown"] == true
                && line["gateways"] == 2
                && line["behind"] == 0
                && line[field] == told
            {
                return line;
            }
            assert_ne!(line["proven"], true, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_polls_is_waited_for_until_it_has_found_the_change() {
    let stage = Stage::start().await;
    let second = &stage.second.as_ref().expect("it lives").1;
    let mut pollers = [Poller::at(&stage.first).await, Poller::at(second).await];
    let mut lines = Lines::of(&stage.first, "deadline=50s&then=give-back").await;
    let line = lines.until("pollersReached", 0).await;
    assert_eq!((&line["pollers"], &line["proven"]), (&2.into(), &false.into()), "{line}");
    let waiting = line["waiting"].as_array().expect("a list");
    let are_named = waiting.iter().all(|waiting| {
        let names = (&waiting["transport"], &waiting["state"], &waiting["consumer"]);
        names == (&"find".into(), &"not-asked".into(), &"c".into())
    });
    assert!(are_named && waiting.len() == 2, "{line}");
    for (told, poller) in pollers.iter_mut().enumerate() {
        let before = lines.until("pollersReached", told as u64).await;
        assert_eq!(before["proven"], false, "{before}");
        poller.find().await;
    }
    let last = lines.until("pollersReached", 2).await;
    let last = if last["done"] == true { last } else { lines.until("done", 1).await };
    assert_eq!((&last["proven"], &last["then"]), (&true.into(), &"given back".into()), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_ended_may_have_had_clients_that_poll() {
    let stage = Stage::start().await;
    let second = &stage.second.as_ref().expect("it lives").1;
    let _poller = Poller::at(second).await;
    second.tasks.drain().cancel();
    stage.first.until("muster_edge_other_gateways_ready", |ready| ready == 0.0).await;
    let lines = stage.drain("deadline=9s").await;
    assert!(lines.iter().all(|line| line["proven"] == false), "{lines:?}");
    let last = lines.last().expect("a line");
    assert_eq!(last["silent"].as_array().map(Vec::len), Some(0), "it has said that it ends: {last}");
    assert!(last["pollersKnownInMs"].as_u64().is_some_and(|left| left > 0), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_xds_is_waited_for_until_it_has_acknowledged_the_change() {
    let stage = Stage::start().await;
    let names = ["app/p"];
    let second = &stage.second.as_ref().expect("it lives").1;
    let mut stream = Whole::open(second, ADS, ask(ENDPOINTS, &names), None).await.expect("opens");
    let before = stream.next().await;
    stream.acknowledge(&before, &names).await;
    // One that is on its way when the drain begins, whose own change leaves these endpoints as they are.
    stage.plane.control_plane.change("p", Action::Create, "127.0.0.2").await;
    let changed = stream.next().await;
    let mut lines = Lines::of(&stage.first, "deadline=50s").await;
    let line = lines.until("streamsReached", 0).await;
    assert_eq!((&line["streams"], &line["proven"]), (&1.into(), &false.into()), "{line}");
    let waiting = &line["waiting"][0];
    assert_eq!((&waiting["transport"], &waiting["state"]), (&"xds".into(), &"unanswered".into()), "{line}");
    stream.acknowledge(&changed, &names).await;
    let last = lines.until("streamsReached", 1).await;
    assert_eq!((&last["proven"], &last["done"]), (&true.into(), &true.into()), "{last}");
}
