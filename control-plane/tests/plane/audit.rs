//! The audit log. It has a test program of its own: a subscriber of one thread misses events that another
//! thread met first, because the first one to meet an event decides for all threads who is interested.

use std::sync::Arc;

use crate::session::{guarded, root};

/// The log lines of this test's thread.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("is not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn writes_and_refusals_are_audited_without_secrets() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let probe = guarded().await;
    let root = root(&probe).await.header.expect("a token");
    // From here on, so that the login is not among the records.
    let before = lines.0.lock().expect("is not poisoned").len();
    let services = "/v4/default/registry/microservices?secret=in-the-query";
    let body = r#"{"service":{"serviceName":"in-the-body"}}"#;
    probe.send("POST", services, &[("authorization", &root)], body.into()).await;
    probe.send("GET", services, &[("authorization", &root)], String::new()).await;
    probe.send("GET", services, &[("authorization", "Bearer in-the-header")], String::new()).await;
    probe.stop().await;
    let text =
        String::from_utf8(lines.0.lock().expect("is not poisoned")[before..].to_vec()).expect("is text");
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("is JSON"))
        .filter(|line: &serde_json::Value| line["target"] == "audit")
        .collect();
    assert_eq!(events.len(), 2, "{text}");
    let (write, refusal) = (&events[0], &events[1]);
    assert_eq!(write["decision"], "allowed");
    assert_eq!(write["account"], "root");
    assert!(write["token"].as_str().is_some_and(|id| !id.is_empty()), "{write}");
    assert_eq!(write["path"], "/v4/default/registry/microservices");
    assert!(write["revision"].as_u64().is_some_and(|revision| revision > 0), "{write}");
    assert_eq!((&refusal["decision"], &refusal["status"]), (&"denied".into(), &401.into()));
    for secret in ["in-the-query", "in-the-body", "in-the-header", root.as_str()] {
        assert!(!format!("{events:?}").contains(secret), "{secret}: {events:?}");
    }
}
