//! The clients in `examples/` against a real registry: over cut connections and restarts they print every
//! change once.

use std::path::Path;
use std::time::Duration;

use harness::{Client, Link, Process, eventually, port};
use tokio::time::sleep;

/// Changes that are made while the connection is cut and mended.
const CHANGES: usize = 300;
/// The instance must outlive the test without heartbeats.
const LEASE_SECONDS: u32 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_resumes_without_a_gap() {
    check(Process::ours("resumable-client")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_resumes_without_a_gap() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/resumable_client.py");
    check(Process::installed("python3", "python3").args([script])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_read_a_state_that_comes_in_several_frames() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/resumable_client.py");
    for example in
        [Process::ours("resumable-client"), Process::installed("python3", "python3").args([script])]
    {
        let run = ExampleRun::start_with(example, 40).await;
        for id in (0..40).map(large).chain(["i".to_owned()]) {
            run.example.line(&["PRESENT", &format!(" {id} ")], 0).await;
        }
    }
}

/// The id of a large instance.
fn large(number: usize) -> String {
    format!("large-{number}")
}

/// A registry with one instance, and an example that watches it over a link.
struct ExampleRun {
    registry: Process,
    client: Client,
    link: Link,
    example: Process,
    provider: String,
}

impl ExampleRun {
    async fn start(example: Process) -> Self {
        Self::start_with(example, 0).await
    }

    /// With so many instances as well, of 3 KB each.
    async fn start_with(example: Process, count: usize) -> Self {
        let api = std::net::SocketAddr::from(([127, 0, 0, 1], port::free()));
        let registry =
            Process::ours("muster").args(["standalone", "--data-dir", "data", "--listen", &api.to_string()]);
        let link = Link::to(api.to_string()).await;
        let watch = format!("ws://{}/v4/default/registry/watcher?app=shop", link.endpoint());
        let example = example.args([watch]);
        let client = Client::new(api);
        let mut run = Self { registry, client, link, example, provider: String::new() };
        run.start_registry().await;
        run.provider = run.client.service("order").await;
        run.client.instance_with(&run.provider, "i", LEASE_SECONDS).await;
        for id in (0..count).map(large) {
            run.client.instance_with(&run.provider, &id, LEASE_SECONDS).await;
            run.client.tag(&run.provider, &id, &"x".repeat(3_000)).await;
        }
        run.example.start();
        run
    }

    async fn start_registry(&self) {
        self.registry.start();
        eventually("the registry is ready", || async {
            assert!(self.registry.is_running(), "the registry has ended");
            (self.client.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
    }

    /// Makes the changes with these numbers, one after the other.
    async fn change(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.client.tag(&self.provider, "i", &number.to_string()).await;
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a bookmark has covered a revision. Before that a client resumes from where it began, when
    /// the service may not have been there yet, and is then sent a state and no changes.
    async fn covered(&self, revision: u64) {
        eventually(&format!("a bookmark covers revision {revision}"), || async {
            let text = self.client.try_get("/metrics").await?.text();
            let line = text.lines().find_map(|line| line.strip_prefix("muster_publisher_revision "))?;
            (line.parse::<f64>().ok()? >= revision as f64).then_some(())
        })
        .await;
    }

    /// Waits until the example has printed the change with this number, and returns its lines.
    async fn printed(&self, number: usize) -> Vec<PrintedChange> {
        eventually(&format!("change {number} is printed"), || async {
            assert!(self.example.is_running(), "the example has ended");
            let lines: Vec<_> = self.example.log().lines().filter_map(PrintedChange::parse).collect();
            lines.iter().any(|line| line.tag == Some(number)).then_some(lines)
        })
        .await
    }
}

/// A line about the instance.
#[derive(Debug)]
struct PrintedChange {
    revision: u64,
    action: String,
    tag: Option<usize>,
}

impl PrintedChange {
    /// `12 UPDATE shop/order 1.0.0 i UP {"tag":"7"}`; other lines are notes of the example.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let revision = words.next()?.parse().ok()?;
        let action = words.next()?.to_owned();
        let tag =
            line.split_once("{\"tag\":\"").and_then(|(_, rest)| rest.trim_end_matches("\"}").parse().ok());
        Some(Self { revision, action, tag })
    }
}

async fn check(example: Process) {
    let run = ExampleRun::start(example).await;
    run.change(0..1).await;
    let revision = run.printed(0).await.last().map_or(0, |line| line.revision);
    run.covered(revision).await;
    // This change brings the client the revision from which it would resume.
    run.change(1..2).await;
    let first = run.printed(1).await.len();

    // Cuts only: history reaches back to each of them, so every change comes, once and in order.
    let cutting = async {
        for _ in 0..3 {
            sleep(Duration::from_millis(200)).await;
            run.link.cut().await;
            sleep(Duration::from_millis(200)).await;
            run.link.mend().await;
        }
    };
    tokio::join!(run.change(2..CHANGES), cutting);
    let lines = run.printed(CHANGES - 1).await;
    let tags: Vec<_> = lines[first..].iter().map(|line| line.tag).collect();
    let expected: Vec<_> = (2..CHANGES).map(Some).collect();
    assert_eq!(tags, expected, "{lines:?}");
    assert!(run.example.log().contains("resuming after"), "no connection was cut: {}", run.example.log());

    // A restart with changes that the example has not seen. History does not survive it, so the example may
    // be sent the present state instead of each change; nothing may come twice, and the last change must
    // come.
    let before = lines.len();
    run.link.cut().await;
    run.change(CHANGES..CHANGES + 5).await;
    run.registry.kill();
    run.start_registry().await;
    run.link.mend().await;
    run.change(CHANGES + 5..CHANGES + 10).await;
    let lines = run.printed(CHANGES + 9).await;
    let mut last = CHANGES - 1;
    for line in &lines[before..] {
        let Some(tag) = line.tag else {
            assert_eq!(line.action, "RESET", "{lines:?}");
            continue;
        };
        let is_next = tag == last + 1;
        assert!(is_next || line.action == "PRESENT" && tag > last, "{tag} after {last}: {lines:?}");
        last = tag;
    }
    assert!(lines.is_sorted_by_key(|line| line.revision), "{lines:?}");
}
