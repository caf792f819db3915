//! Requests of gateways over the bus: one replica answers or refuses, and of all replicas those answer that can.

use std::time::Duration;

use crate::probe::Probe;
use bus::{BusError, Message};
use futures_util::StreamExt as _;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::{Scope, Tenant};
use shared::subject;

/// A field without an end.
const UNDECODABLE: &[u8] = &[0xff];
const LONG: Duration = Duration::from_secs(30);

/// The first part of the answer.
async fn ask(probe: &Probe, subject: &str, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, BusError> {
    let mut parts = probe.bus().request(Message::new(subject, request), timeout).await?;
    Ok(parts.next().await.expect("a part").payload.to_vec())
}

fn decoded<T: prost::Message + Default>(payload: &[u8]) -> T {
    T::decode(payload).expect("an answer")
}

#[tokio::test]
async fn a_request_to_all_replicas_is_answered_as_one_to_a_single_replica() {
    let probe = Probe::start().await;
    let scope = Some((&Scope::all(Tenant::default())).into());
    let interest = pb::InterestRequest { scope, ..pb::InterestRequest::default() }.encode_to_vec();
    let confirm = pb::DigestRequest { confirm: true, ..pb::DigestRequest::default() }.encode_to_vec();
    let to_all = |subject: &str| [subject.to_owned(), subject::to_all(subject)];
    for subject in to_all(subject::RPC_INTEREST) {
        let reply: pb::InterestReply =
            decoded(&ask(&probe, &subject, interest.clone(), LONG).await.expect("answered"));
        assert!(reply.error.is_empty() && reply.rev > 0 && reply.answer > 0, "{subject}: {reply:?}");
    }
    for subject in to_all(subject::RPC_REPLAY) {
        let reply: pb::ReplayReply =
            decoded(&ask(&probe, &subject, Vec::new(), LONG).await.expect("answered"));
        assert!(reply.error.is_empty() && reply.last && reply.answer > 0, "{subject}: {reply:?}");
    }
    for subject in to_all(subject::RPC_DIGEST) {
        let reply: pb::DigestReply =
            decoded(&ask(&probe, &subject, confirm.clone(), LONG).await.expect("answered"));
        assert!(reply.error.is_empty() && reply.confirmed, "{subject}: {reply:?}");
    }
    for subject in to_all(subject::RPC_POLICY) {
        let reply: pb::PolicyReply =
            decoded(&ask(&probe, &subject, Vec::new(), LONG).await.expect("answered"));
        assert!(
            reply.error.is_empty() && !reply.policy.is_empty() && reply.answer > 0,
            "{subject}: {reply:?}"
        );
    }
    probe.stop().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_answered_is_refused_only_by_a_single_replica() {
    let probe = Probe::start().await;
    let refuse =
        async |subject: &str| ask(&probe, subject, UNDECODABLE.to_vec(), LONG).await.expect("refused");
    let refusals = [
        decoded::<pb::InterestReply>(&refuse(subject::RPC_INTEREST).await).error,
        decoded::<pb::ReplayReply>(&refuse(subject::RPC_REPLAY).await).error,
        decoded::<pb::DigestReply>(&refuse(subject::RPC_DIGEST).await).error,
        decoded::<pb::PolicyReply>(&refuse(subject::RPC_POLICY).await).error,
    ];
    assert!(refusals.iter().all(|error| error.contains("cannot be decoded")), "{refusals:?}");
    for subject in [subject::RPC_INTEREST, subject::RPC_REPLAY, subject::RPC_DIGEST, subject::RPC_POLICY] {
        // A refusal would come within a millisecond.
        let silent =
            ask(&probe, &subject::to_all(subject), UNDECODABLE.to_vec(), Duration::from_millis(300)).await;
        assert!(matches!(silent, Err(BusError::Timeout(_))), "{subject}: {silent:?}");
    }
    probe.stop().await;
}
