//! A program of `tests/sdks` that calls a provider without a pause, whose instances it learns from its SDK.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Threads of each caller.
pub(super) const THREADS: usize = 4;
/// The pause between two polls that are more frequent than usual, so that many restarts fit in a short time.
const OFTEN: Duration = Duration::from_secs(1);
/// Fetching and compiling included.
const PATIENCE: Duration = Duration::from_mins(3);

/// The polls of the callers, which find beside their watches.
#[derive(Clone, Copy, Debug)]
pub(super) enum Polls {
    /// Every second.
    Often,
    /// As often as each SDK does if it is not told otherwise. Each drain may take as long.
    Usual,
}

/// A call that got no answer, or another than 200.
#[derive(Clone)]
pub(super) struct Failure {
    /// The port that was called, where the failure names it.
    pub(super) port: Option<u16>,
    pub(super) text: String,
}

pub(super) struct Caller {
    /// Ends with this.
    _child: Child,
    input: ChildStdin,
    counts: mpsc::Receiver<u64>,
    failures: Arc<Mutex<Vec<Failure>>>,
}

impl Caller {
    /// Starts the caller of an SDK, `go` or `java`, against the registry at this address.
    pub(super) fn start(sdk: &str, polls: Polls, registry: SocketAddr, provider: &str) -> Self {
        let (folder, usual, command) = match sdk {
            "go" => ("go-chassis", Duration::from_secs(30), vec!["go", "run", ".", "calls"]),
            "java" => (
                "service-center-client",
                Duration::from_secs(15),
                vec![
                    "mvn",
                    "-q",
                    "-B",
                    "compile",
                    "exec:java",
                    "-Dclient=2.8.30",
                    "-Dexec.mainClass=muster.Calls",
                ],
            ),
            _ => panic!("there are callers of go and java, not of {sdk}"),
        };
        let poll = match polls {
            Polls::Often => OFTEN,
            Polls::Usual => usual,
        };
        let mut program = Command::new(command[0]);
        program
            .args(&command[1..])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdks").join(folder))
            .env("REGISTRY", registry.to_string())
            .env("PROVIDER", provider)
            .env("THREADS", THREADS.to_string())
            .env("POLL", poll.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = program
            .spawn()
            .unwrap_or_else(|error| panic!("it is needed and cannot be started: {program:?}: {error}"));
        let input = child.stdin.take().expect("its input");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let failures = Arc::<Mutex<Vec<Failure>>>::default();
        let (send, counts) = mpsc::channel(1);
        let sdk = sdk.to_owned();
        tokio::spawn({
            let failures = failures.clone();
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Some(text) = line.strip_prefix("FAILED ") {
                        failures.lock().push(Failure { port: port_of(text), text: format!("{sdk}: {text}") });
                    } else if let Some(count) = line.strip_prefix("CALLS ") {
                        let count = count.parse().expect("a number of calls");
                        if send.send(count).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self { _child: child, input, counts, failures }
    }

    /// Waits until the first call has been answered.
    pub(super) async fn first_call(&mut self) {
        while self.calls().await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Calls so far, those that failed included. All failures of these calls are known then.
    pub(super) async fn calls(&mut self) -> u64 {
        self.input.write_all(b"count\n").await.expect("the caller takes a question");
        let count = timeout(PATIENCE, self.counts.recv()).await.expect("the caller answers in time");
        count.expect("the caller runs")
    }

    pub(super) fn failures(&self) -> Vec<Failure> {
        self.failures.lock().clone()
    }
}

/// The last port of this machine that a text names.
fn port_of(text: &str) -> Option<u16> {
    let (_, rest) = text.rsplit_once("127.0.0.1:")?;
    let end = rest.find(|one: char| !one.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
