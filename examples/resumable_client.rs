//! A client that watches a registry and misses nothing, over breaks of its connection and restarts of the
//! registry.
//!
//! `resumable-client ws://127.0.0.1:30100/v4/default/registry/watcher?all` keeps a map of all instances and
//! prints each change once. It follows `docs/wire-protocol.md`, and `resumable_client.py` beside it does the
//! same line by line.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The server pings every 30 seconds, so a longer silence means that the connection is dead.
const MAX_SILENCE: Duration = Duration::from_secs(95);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "ws://127.0.0.1:30100/v4/default/registry/watcher?all".into());
    let joint = if address.contains('?') { '&' } else { '?' };
    let mut mirror = Mirror::default();
    let mut wait = FIRST_WAIT;
    loop {
        match connect_async(format!("{address}{joint}rev={}", mirror.since)).await {
            Ok((mut socket, _)) => {
                while let Ok(Some(Ok(message))) = timeout(MAX_SILENCE, socket.next()).await {
                    wait = FIRST_WAIT;
                    // The library answers pings while we read.
                    let Message::Text(text) = message else { continue };
                    match serde_json::from_str(&text) {
                        Ok(frame) => mirror.apply(&frame),
                        // By contract such a text is the reason for which the server ends the watch.
                        Err(_) => eprintln!("the server says: {text}"),
                    }
                }
                eprintln!("the connection is lost; resuming after {}", mirror.since);
            }
            Err(error) => eprintln!("cannot connect: {error}"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(MAX_WAIT);
    }
}

#[derive(Default)]
struct Mirror {
    /// Nothing is missing up to this revision. The next connection resumes after it.
    since: u64,
    /// Instance and revision of the changes applied after `since`: the server may send them once more.
    applied: HashSet<(String, u64)>,
    providers: HashMap<String, ProviderState>,
}

#[derive(Default)]
struct ProviderState {
    instances: HashMap<String, Value>,
    /// The revision of the last RESET, which contains every change up to there.
    reset: u64,
}

impl Mirror {
    fn apply(&mut self, frame: &Value) {
        let rev = frame["rev"].as_u64().unwrap_or(0);
        let key = &frame["key"];
        let name = format!("{}/{} {}", text(&key["appId"]), text(&key["serviceName"]), text(&key["version"]));
        match text(&frame["action"]) {
            "BOOKMARK" => self.since = self.since.max(rev),
            "RESET" => {
                if rev < self.since {
                    // The registry was restored from a backup: nothing of the history before is valid.
                    *self = Self::default();
                }
                if key.is_null() {
                    // The states of all providers follow, each in a RESET of its own.
                    self.providers.clear();
                    println!("{rev} RESET everything");
                    return;
                }
                println!("{rev} RESET {name}");
                let provider = self.providers.entry(name.clone()).or_default();
                *provider = ProviderState { reset: rev, ..ProviderState::default() };
                for instance in frame["instances"].as_array().into_iter().flatten() {
                    print(rev, "PRESENT", &name, instance);
                    provider.instances.insert(text(&instance["instanceId"]).to_owned(), instance.clone());
                }
            }
            action => {
                let instance = &frame["instance"];
                let id = text(&instance["instanceId"]);
                let provider = self.providers.entry(name.clone()).or_default();
                // Both kinds of repetition are possible only after a break.
                if rev > provider.reset && self.applied.insert((id.to_owned(), rev)) {
                    print(rev, action, &name, instance);
                    match action {
                        "DELETE" => provider.instances.remove(id),
                        _ => provider.instances.insert(id.to_owned(), instance.clone()),
                    };
                }
            }
        }
        self.since = self.since.max(frame["since"].as_u64().unwrap_or(0));
        self.applied.retain(|(_, rev)| *rev > self.since);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn print(rev: u64, action: &str, provider: &str, instance: &Value) {
    let id = text(&instance["instanceId"]);
    let status = text(&instance["status"]);
    println!("{rev} {action} {provider} {id} {status} {}", instance["properties"]);
}
