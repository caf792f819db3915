//! Messages on the bus that no process of the site has sent, in the protocol of NATS: unsigned, signed with an
//! unknown key, and with the signature of another message.
//!
//! Each would hurt where it was believed: instances that nobody registered, consumers without providers, bookmarks
//! that confirm what never was. Without keys they are believed (`a_forged_event_is_dropped_and_counted`).

use std::io;
use std::time::Duration;

use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::{ServiceRef, Tenant};
use shared::subject;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::site::Victim;
use super::visit::{Visit, hold_for};

/// A revision that no store here reaches.
const FAR: u64 = 1 << 40;
/// The time that a genuine bookmark, whose signature is taken, may take.
const BOOKMARKED: Duration = Duration::from_millis(1200);
const WAIT: Duration = Duration::from_millis(300);
/// The header of a signature.
const SIGNATURE: &str = "Muster-Signature: ";
/// A signature that a key of another site may have made.
const UNKNOWN_KEY: &str = "00000000.00000000000000000000000000000000000000000000000000000000000000ff";

pub(super) async fn forge(visit: &Visit) -> io::Result<()> {
    let mut stream = visit.connect().await?;
    stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n").await?;
    let taken = signature(&mut stream).await?;
    let mut messages = Vec::new();
    for (subject, payload) in forged(&visit.site.victim) {
        for payload in [&payload[..], b"\xff\xff\xff\xff no message"] {
            put(&subject, None, payload, &mut messages);
            for signature in [Some(UNKNOWN_KEY), taken.as_deref()].into_iter().flatten() {
                put(&subject, Some(signature), payload, &mut messages);
            }
        }
    }
    messages.extend_from_slice(b"PING\r\n");
    stream.write_all(&messages).await?;
    hold_for(&mut stream, WAIT).await;
    Ok(())
}

/// The signature of the next bookmark.
async fn signature(stream: &mut TcpStream) -> io::Result<Option<String>> {
    // One message and no more: a subscriber that NATS finds too slow would show in its log.
    stream.write_all(format!("SUB {} 1\r\nUNSUB 1 1\r\n", subject::BOOKMARK).as_bytes()).await?;
    let heard = hold_for(stream, BOOKMARKED).await;
    let value = heard.split_once(SIGNATURE).and_then(|(_, rest)| rest.split_once("\r\n"));
    Ok(value.map(|(value, _)| value.to_owned()))
}

/// The subjects of all that processes tell each other, each with a message that would do harm there.
fn forged(victim: &Victim) -> Vec<(String, Vec<u8>)> {
    let tenant = || Tenant::new("default", "default");
    let [provider, consumer] =
        [&victim.provider, &victim.consumer].map(|id| ServiceRef::new(tenant(), id.clone()));
    let named = |id: &str| pb::ServiceRef {
        domain: "default".into(),
        project: "default".into(),
        service_id: id.into(),
    };
    let event = pb::InstanceEvent {
        provider: Some(named(&victim.provider)),
        at: Some(pb::Position { rev: FAR, sub: 0 }),
        prev: Some(pb::Position { rev: FAR - 1, sub: 0 }),
        action: pb::Action::Delete.into(),
        instance: Some(pb::Instance {
            instance_id: "forged".into(),
            service_id: victim.provider.clone(),
            ..pb::Instance::default()
        }),
        mod_rev: FAR,
        ..pb::InstanceEvent::default()
    };
    let interest = pb::InterestChange {
        consumer: Some(named(&victim.consumer)),
        rev: FAR,
        removed: vec![named(&victim.provider)],
        consumer_deleted: true,
        ..pb::InterestChange::default()
    };
    let bookmark =
        pb::Bookmark { epoch: FAR, rev: FAR, publisher: "forged".into(), ..pb::Bookmark::default() };
    let tick = pb::BeatTick { number: u64::MAX, ..pb::BeatTick::default() };
    let mut all = vec![
        (subject::event(&provider), event.encode_to_vec()),
        (subject::interest(&consumer), interest.encode_to_vec()),
        (subject::BOOKMARK.to_owned(), bookmark.encode_to_vec()),
        (subject::BEATS_TICK.to_owned(), tick.encode_to_vec()),
        (subject::services(&tenant()), Vec::new()),
    ];
    let questions = [
        subject::RPC_INTEREST,
        subject::RPC_REPLAY,
        subject::RPC_HISTORY,
        subject::RPC_DIGEST,
        subject::RPC_POLICY,
        subject::BEATS_REPORT,
        subject::GATEWAYS,
        subject::GATEWAYS_REACH,
    ];
    all.extend(questions.map(|subject| (subject.to_owned(), Vec::new())));
    all.push((subject::to_all(subject::RPC_REPLAY), Vec::new()));
    all
}

/// A message with this signature, or with none.
fn put(subject: &str, signature: Option<&str>, payload: &[u8], out: &mut Vec<u8>) {
    let head = signature.map(|signature| format!("NATS/1.0\r\n{SIGNATURE}{signature}\r\n\r\n"));
    let head = head.unwrap_or_default();
    let total = head.len() + payload.len();
    let line = match head.len() {
        0 => format!("PUB {subject} {total}\r\n"),
        of_head => format!("HPUB {subject} {of_head} {total}\r\n"),
    };
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}
