//! Messages and subjects of the bus. They are decoded or refused, and a decoded message encodes to the same
//! message again.

use prost::Message;
use proto::event::v1 as pb;
use shared::event::InstanceEvent;
use shared::subject;

/// A parsed subject is built the same again.
pub(crate) fn subjects(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let Some(service) = subject::service_of(&text) else { return };
    for built in [subject::event(&service), subject::interest(&service)] {
        assert_eq!(subject::service_of(&built).as_ref(), Some(&service), "{text}");
        assert!(!built.contains(['*', '>', ' ']), "{built}");
        assert_eq!(built.split('.').count(), 5, "{built}");
    }
}

/// A decoded event is encoded the same again.
pub(crate) fn events(input: &[u8]) {
    if let Ok(event) = InstanceEvent::decode(input) {
        assert_eq!(InstanceEvent::decode(&event.encode()).expect("our own"), event);
    }
    // None of these may panic or allocate without bound, whatever the bytes claim.
    _ = pb::Bookmark::decode(input);
    _ = pb::InterestChange::decode(input);
    _ = pb::InterestReply::decode(input);
    _ = pb::ReplayRequest::decode(input);
    _ = pb::ReplayReply::decode(input);
    _ = pb::DigestRequest::decode(input);
    _ = pb::DigestReply::decode(input);
}
