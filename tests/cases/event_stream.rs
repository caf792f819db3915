//! Server-sent events, read by a library that real programs use (`tests/eventsource`). It needs Node and
//! fetches the library from its package registry; so it runs by `cargo xtask eventsource`, not with the other
//! tests.

use std::path::Path;
use std::process::Stdio;

use harness::{Client, Link, Pair, World, deadline};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A program that follows a stream.
struct Reader {
    lines: Lines<BufReader<ChildStdout>>,
    /// Ends with this value.
    _process: Child,
}

impl Reader {
    fn start(url: &str) -> Self {
        let mut process = Command::new("node")
            .args(["client.mjs", url])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("eventsource"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node is needed");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { lines, _process: process }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(deadline(), self.lines.next_line()).await.expect("in time");
        line.expect("text").expect("the program goes on")
    }

    async fn opens(&mut self) {
        while self.line().await != "OPEN" {}
    }
}

/// A consumer that keeps to the rules of a resumable watch: it skips what it has received already.
#[derive(Default)]
struct Receipts {
    tags: Vec<String>,
    last: u64,
}

impl Receipts {
    /// Takes in a line until it is a change with this tag.
    async fn until(&mut self, reader: &mut Reader, tag: &str) {
        loop {
            let line = reader.line().await;
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let rev = event["rev"].as_u64().unwrap_or_default();
            let is_change = matches!(event["action"].as_str(), Some("CREATE" | "UPDATE" | "DELETE"));
            assert_ne!(event["action"], "RESET", "the history reaches back: {line}");
            if !is_change || rev <= self.last {
                continue;
            }
            self.last = rev;
            self.tags.push(event["instance"]["properties"]["tag"].as_str().unwrap_or_default().to_owned());
            if self.tags.last().is_some_and(|last| last == tag) {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and packages of a registry; run by `cargo xtask eventsource`"]
async fn an_event_source_loses_nothing_and_takes_nothing_twice() {
    let world = World::with().planes(2).gateways(2).start().await;
    let Pair { provider, consumer, .. } = world.pair(0).await;
    let writer = Client::new(world.gateways[1].api);
    let link = Link::to(world.gateways[0].api.to_string()).await;
    let url = format!("http://{}/v4/default/registry/events?consumer={consumer}", link.endpoint());
    let mut reader = Reader::start(&url);
    reader.opens().await;
    let mut receipts = Receipts::default();
    writer.instance(&provider, "i").await;
    let mut sent = vec![String::new()];
    for round in 0..4 {
        for n in 0..5 {
            let tag = format!("{round}-{n}");
            writer.tag(&provider, "i", &tag).await;
            sent.push(tag);
        }
        receipts.until(&mut reader, &format!("{round}-4")).await;
        // The link breaks, and changes go on while the reader is away.
        link.cut().await;
        for n in 0..5 {
            let tag = format!("{round}-away-{n}");
            writer.tag(&provider, "i", &tag).await;
            sent.push(tag);
        }
        link.mend().await;
        receipts.until(&mut reader, &format!("{round}-away-4")).await;
    }
    assert_eq!(receipts.tags, sent);
}
