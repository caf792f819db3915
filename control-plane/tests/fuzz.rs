//! Arbitrary requests and stored values: each is understood or refused, and the view goes on.
//! The inputs come from the crate `fuzz`.

mod probe;

use control_plane::keys::{Key, ROOT};
use control_plane::record::{Record, render};
use control_plane::store::{KeyValue, KvEvent};
use control_plane::version::{Version, VersionRule};
use control_plane::view::{self, History, Protection};
use fuzz::Corpus;
use probe::Probe;
use serde_json::Value;
use shared::clock::Clock;
use shared::model::{Instance, Revision, Service};

#[test]
fn versions() {
    let corpus = Corpus::of("versions");
    corpus.smoke(10_000, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
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
    });
}

/// Lines of keys and values in turn; without a value the key is deleted.
fn events(text: &str) -> Vec<KvEvent> {
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

#[test]
fn stored_values() {
    let corpus = Corpus::of("stored");
    corpus.smoke(2000, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let events = events(&text);
        let last = events.len() as u64;
        for event in &events {
            _ = Key::parse(event.key());
            if let KvEvent::Put(kv) = event {
                // A record that is understood is written back unchanged, with the members of other writers.
                if let Ok(record) = Record::<Instance>::parse(&kv.value) {
                    let written = render(&record.value, Some(&record.unknown));
                    let again = Record::<Instance>::parse(&written).expect("our own");
                    assert_eq!(again.value, record.value, "{text}");
                }
                _ = Record::<Service>::parse(&kv.value);
            }
        }
        let (mut writer, view) = view::empty(History::new(100), Protection::default(), Clock::system());
        writer.apply(events);
        assert_eq!(writer.revision(), Revision::new(last), "nothing stops the view");
        _ = view.now().is_ok();
    });
}

#[test]
fn bodies() {
    let corpus = Corpus::of("bodies");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let probe = runtime.block_on(Probe::start());
    corpus.smoke(500, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
        let Some((method, path)) = head.split_once(' ') else { return };
        if method.parse::<http::Method>().is_err() || path.parse::<http::Uri>().is_err() {
            return;
        }
        let answer = runtime.block_on(probe.send(method, path, &[], body.to_owned()));
        assert!(answer.status < 500, "{text}\n{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        // A target that breaks the guard's rules is refused in plain text, as by Service-Center.
        if answer.status == 400 && !answer.body.starts_with(b"Invalid Request URI") {
            let error: Value = serde_json::from_slice(&answer.body).expect("an error is JSON");
            assert!(error["errorCode"].is_string(), "{text}\n{error}");
        }
    });
    runtime.block_on(probe.stop());
}
