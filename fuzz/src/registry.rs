//! Requests to the registry, values in its store, and version rules.

use access::Policy;
use control_plane::keys::{Key, ROOT};
use control_plane::record::{Record, render};
use control_plane::store::{KeyValue, KvEvent};
use control_plane::version::{Version, VersionRule};
use control_plane::view::{self, History, Protection};
use parking_lot::Mutex;
use serde_json::Value;
use shared::clock::Clock;
use shared::model::{Instance, Revision, Service};
use tokio::runtime::{Builder, Runtime};

use crate::probe::Probe;

/// A rule takes the versions that its kind promises.
pub(crate) fn versions(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let (rule, text) = text.split_once('\n').unwrap_or((&text, "1.0.0"));
    let Some(rule) = VersionRule::parse(rule) else { return };
    let version = Version::parse(text).unwrap_or_default();
    let taken = rule.takes(text, version, version);
    match rule {
        VersionRule::Latest => assert!(taken),
        VersionRule::AtLeast(least) => assert_eq!(taken, version >= least),
        VersionRule::Range(from, to) => assert!(from <= to && taken == (from <= version && version < to)),
        VersionRule::Exact(exact) => assert_eq!(taken, exact == text),
    }
}

/// Lines of keys and values in turn; without a value the key is deleted.
fn events_of(text: &str) -> Vec<KvEvent> {
    let mut lines = text.lines();
    let mut events = Vec::new();
    while let Some(key) = lines.next() {
        let rev = Revision::new(events.len() as u64 + 1);
        // The view watches the root only, so no other key can reach it.
        let key = if key.starts_with(ROOT) { key.to_owned() } else { format!("{ROOT}{key}") };
        events.push(match lines.next().unwrap_or_default() {
            "" => KvEvent::Delete { key, rev },
            value => {
                let value = value.to_owned().into();
                KvEvent::Put(KeyValue { key, value, create_rev: rev, mod_rev: rev, version: 1, lease: None })
            }
        });
    }
    events
}

/// Whatever the store holds, the view goes on; a record that is understood is written back unchanged, with
/// the members of other writers.
pub(crate) fn stored(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let events = events_of(&text);
    let last = events.len() as u64;
    for event in &events {
        _ = Key::parse(event.key());
        if let KvEvent::Put(kv) = event {
            if let Ok(record) = Record::<Instance>::parse(&kv.value) {
                let written = render(&record.value, Some(&record.unknown));
                let again = Record::<Instance>::parse(&written).expect("our own");
                assert_eq!(again.value, record.value, "{text}");
            }
            _ = Record::<Service>::parse(&kv.value);
        }
    }
    let (writer, view) = view::empty(History::new(100), Protection::default(), Clock::system());
    let mut writer = writer.guarding(Policy { enabled: true, ..Policy::default() });
    writer.apply(events);
    assert_eq!(writer.revision(), Revision::new(last), "nothing stops the view");
    _ = view.now().is_ok();
}

/// A registry that requests reach without a socket.
struct Registry {
    runtime: Runtime,
    probe: Probe,
    requests: usize,
}

/// The requests after which a registry makes room for an empty one: a long run must not fill the memory, and
/// a fault must not need a million requests before the one that shows it.
const REQUESTS: usize = 1000;

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

impl Registry {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let probe = runtime.block_on(Probe::start());
        Self { runtime, probe, requests: 0 }
    }

    fn stop(self) {
        self.runtime.block_on(self.probe.stop());
    }
}

/// A request of any kind gets an answer that is no fault of the server, and an error is Service-Center's
/// JSON. The first line is the method and the target, the rest the body.
pub(crate) fn bodies(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    let Some((method, path)) = head.split_once(' ') else { return };
    if method.parse::<http::Method>().is_err() || path.parse::<http::Uri>().is_err() {
        return;
    }
    let mut held = REGISTRY.lock();
    if let Some(full) = held.take_if(|registry| registry.requests >= REQUESTS) {
        full.stop();
    }
    let registry = held.get_or_insert_with(Registry::start);
    registry.requests += 1;
    let answer = registry.runtime.block_on(registry.probe.send(method, path, &[], body.to_owned()));
    assert!(answer.status < 500, "{text}\n{} {}", answer.status, String::from_utf8_lossy(&answer.body));
    // A target that breaks the guard's rules is refused in plain text, as by Service-Center.
    if answer.status == 400 && !answer.body.starts_with(b"Invalid Request URI") {
        let error: Value = serde_json::from_slice(&answer.body).expect("an error is JSON");
        assert!(error["errorCode"].is_string(), "{text}\n{error}");
    }
}
