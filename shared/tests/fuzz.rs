//! The bus may deliver any bytes. They are decoded or refused, never a panic, and a decoded message encodes
//! to the same message again. The crate `fuzz` makes the inputs.

use fuzz::Corpus;
use prost::Message;
use proto::event::v1 as pb;
use shared::event::InstanceEvent;
use shared::subject;

const TIMES: u32 = 10_000;

#[test]
fn parsed_subjects_are_built_the_same_again() {
    let corpus = Corpus::of("subjects");
    corpus.smoke(TIMES, |input| {
        let text = String::from_utf8_lossy(input).into_owned();
        let Some(service) = subject::service_of(&text) else { return };
        for built in [subject::event(&service), subject::interest(&service)] {
            assert_eq!(subject::service_of(&built).as_ref(), Some(&service), "{text}");
            assert!(!built.contains(['*', '>', ' ']), "{built}");
            assert_eq!(built.split('.').count(), 5, "{built}");
        }
    });
}

#[test]
fn decoded_events_are_encoded_the_same_again() {
    let corpus = Corpus::of("events");
    let read = |bytes: &[u8]| {
        if let Ok(event) = InstanceEvent::decode(bytes) {
            assert_eq!(InstanceEvent::decode(&event.encode()).expect("our own"), event);
        }
        // None of these may panic or allocate without bound, whatever the bytes claim.
        _ = pb::Bookmark::decode(bytes);
        _ = pb::InterestChange::decode(bytes);
        _ = pb::InterestReply::decode(bytes);
        _ = pb::ReplayRequest::decode(bytes);
        _ = pb::ReplayReply::decode(bytes);
        _ = pb::DigestRequest::decode(bytes);
        _ = pb::DigestReply::decode(bytes);
    };
    corpus.smoke(TIMES, read);
}
