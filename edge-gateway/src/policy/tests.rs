//! The choice among policies, and the behaviour of a gateway without a good one.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::collections::VecDeque;

use access::Bundle;
use bus::{Bus as _, LocalBus, Message};
use futures_util::StreamExt as _;
use host::admin::access::{AccessControl as _, AccessState};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::Revision;
use shared::subject;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::hedge::Hedge;
use crate::metrics::UpstreamMetrics;

fn handle(enable: bool) -> PolicyHandle {
    let config = PolicyConfig { enable, ..PolicyConfig::default() };
    PolicyHandle::new(config, Clock::system(), PolicyMetrics::none())
}

fn policy(revision: u64, enabled: bool) -> Policy {
    Policy { revision: Revision::new(revision), enabled, ..Policy::default() }
}

fn version(revision: u64, enabled: bool) -> PolicyVersion {
    Bundle::of(&policy(revision, enabled)).version
}

fn held(handle: &PolicyHandle) -> Option<(u64, bool)> {
    handle.last().map(|policy| (policy.revision.get(), policy.enabled))
}

#[test]
fn versions_never_go_back_unless_the_store_did() {
    let handle = handle(true);
    handle.give(policy(7, true));
    assert!(!handle.take(None, version(6, false), policy(6, false)));
    assert!(handle.take(None, version(9, true), policy(9, true)));
    assert_eq!((held(&handle), handle.generation()), (Some((9, true)), 2));

    handle.restored();
    assert!(handle.take(Some(version(3, false)), version(3, false), policy(3, false)));
    assert_eq!(held(&handle), Some((3, false)));
    assert!(!handle.take(None, version(2, true), policy(2, true)), "that was once");
}

#[test]
fn a_publisher_with_other_settings_is_right() {
    // A replica without access control listed the store after the publisher, which has it on.
    let handle = handle(false);
    handle.give(policy(90, false));
    let on = version(80, true);
    handle.heard(Some(on), Revision::new(89));
    assert_eq!(*handle.0.wanted.borrow(), None, "its view is behind");
    assert!(!handle.take(Some(on), on, policy(80, true)));
    handle.heard(Some(on), Revision::new(90));
    assert_eq!(*handle.0.wanted.borrow(), Some(on));
    assert!(!handle.take(Some(on), version(95, false), policy(95, false)), "again the other replica");
    assert!(handle.take(Some(on), on, policy(80, true)));
    assert_eq!(held(&handle), Some((80, true)));
    // The same content counts at whatever revision.
    assert!(handle.satisfies(Some(version(70, true))));
}

#[test]
fn the_publishers_policy_counts_where_replicas_differ() {
    let handle = handle(false);
    let wanted = Some(version(7, true));
    assert!(!handle.take(wanted, version(7, false), policy(7, false)), "another replica has it off still");
    assert!(handle.take(wanted, version(7, true), policy(7, true)));
    // The publisher was restarted without access control; nothing in the store has changed.
    assert!(!handle.satisfies(Some(version(7, false))));
    assert!(handle.take(Some(version(7, false)), version(7, false), policy(7, false)));
    assert_eq!(held(&handle), Some((7, false)));
}

#[tokio::test(start_paused = true)]
async fn nothing_new_is_decided_without_a_good_policy() {
    let demanded = handle(true);
    assert!(matches!(demanded.standing(), Standing::Closed(NO_POLICY, None)));
    demanded.give(policy(1, false));
    assert!(matches!(demanded.standing(), Standing::Closed(DISABLED, None)));
    demanded.give(policy(2, true));
    assert!(matches!(demanded.standing(), Standing::Guarded(_)));

    let optional = handle(false);
    assert!(matches!(optional.standing(), Standing::Open));
    optional.give(policy(1, false));
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(matches!(optional.standing(), Standing::Open), "there is nothing to protect");
    optional.give(policy(2, true));
    assert!(matches!(optional.standing(), Standing::Guarded(_)), "the control planes have it on");

    tokio::time::advance(Duration::from_secs(59)).await;
    optional.heard(Some(version(2, true)), Revision::new(9));
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(matches!(optional.standing(), Standing::Guarded(_)), "a bookmark has confirmed it");
    // Bookmarks that name another policy, or none, confirm nothing.
    optional.heard(Some(version(3, false)), Revision::new(9));
    optional.heard(None, Revision::new(9));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(matches!(optional.standing(), Standing::Closed(STALE, Some(_))));
    optional.give(policy(3, true));
    assert!(matches!(optional.standing(), Standing::Guarded(_)));
}

/// Answers requests for the policy with these, one after the other, each in pieces of ten bytes.
async fn replica(bus: &LocalBus, mut answers: VecDeque<Option<Policy>>) {
    let bus = bus.clone();
    let mut requests = bus.serve(subject::RPC_POLICY, subject::REPLICAS).await.expect("serves");
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.expect("a request names its reply subject");
            let Some(policy) = answers.pop_front().flatten() else {
                let declined = pb::PolicyReply { error: "not yet".to_owned(), ..Default::default() };
                bus.publish(Message::new(reply, declined.encode_to_vec())).await.expect("is sent");
                continue;
            };
            let bundle = Bundle::of(&policy);
            let pieces: Vec<&[u8]> = bundle.json.chunks(10).collect();
            for (number, piece) in pieces.iter().enumerate() {
                let part = pb::PolicyReply {
                    rev: bundle.version.revision.get(),
                    digest: bundle.version.digest,
                    policy: piece.to_vec(),
                    part: number as u32,
                    more: number + 1 < pieces.len(),
                    ..pb::PolicyReply::default()
                };
                bus.publish(Message::new(reply.clone(), part.encode_to_vec())).await.expect("is sent");
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_requested_until_it_is_the_one_named() {
    let bus = LocalBus::new();
    let answers = [None, Some(policy(4, false)), Some(policy(4, true)), Some(policy(6, true))];
    replica(&bus, answers.into()).await;
    let handle = handle(false);
    let follower = Follower {
        handle: handle.clone(),
        bus: Arc::new(bus),
        hedge: Hedge::new(UpstreamMetrics::none()),
        timeout: Duration::from_secs(3),
        condition: None,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(follower.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(held(&handle), None, "no bookmark has named a policy");
    handle.heard(Some(version(4, true)), Revision::new(4));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(held(&handle), Some((4, true)), "declined once, and once the wrong one");
    handle.heard(Some(version(5, false)), Revision::new(5));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(held(&handle), Some((6, true)), "a later one will do");
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn the_parts_of_the_first_of_all_replicas_make_a_policy() {
    let bus = LocalBus::new();
    let _stands_still = bus.serve(subject::RPC_POLICY, subject::REPLICAS).await.expect("serves");
    let mut requests = bus.subscribe(&subject::to_all(subject::RPC_POLICY)).await.expect("subscribes");
    let answering = bus.clone();
    tokio::spawn(async move {
        let request = requests.next().await.expect("a request to all");
        let reply = request.reply.expect("a request names its reply subject");
        let bundle = Bundle::of(&policy(4, true));
        let pieces: Vec<&[u8]> = bundle.json.chunks(10).collect();
        for (number, piece) in pieces.iter().enumerate() {
            for answer in [1, 2] {
                let part = pb::PolicyReply {
                    rev: bundle.version.revision.get(),
                    digest: bundle.version.digest,
                    policy: piece.to_vec(),
                    part: number as u32,
                    more: number + 1 < pieces.len(),
                    answer,
                    ..pb::PolicyReply::default()
                };
                answering.publish(Message::new(reply.clone(), part.encode_to_vec())).await.expect("is sent");
            }
        }
    });
    let handle = handle(true);
    let follower = Follower {
        handle: handle.clone(),
        bus: Arc::new(bus),
        hedge: Hedge::new(UpstreamMetrics::none()),
        timeout: Duration::from_secs(3),
        condition: None,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(follower.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(held(&handle), Some((4, true)), "before the request to one replica has ended");
    stop.cancel();
    running.await.expect("ends");
}

/// A policy that knows the account `root`, and the header with a token of its that names a revision.
fn known_to(revision: u64, names: u64) -> (Policy, http::HeaderMap) {
    let account = access::AccountState { roles: vec!["admin".to_owned()], ..Default::default() };
    let keys = access::keys::KeyPairText::generate().expect("is made");
    let key = access::keys::SigningKey::from_pem(keys.private.as_bytes()).expect("a key");
    let guarded = Policy {
        keys: vec![key.public().clone()],
        accounts: [("root".to_owned(), account)].into(),
        ..policy(revision, true)
    };
    let (exp, rev) = (u64::MAX / 2, Revision::new(names));
    let claims = access::token::Claims { account: "root".into(), exp, rev, ..Default::default() };
    let token = access::token::Issuer::new(key).issue(&claims).expect("is signed");
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().expect("a value"));
    (guarded, headers)
}

#[tokio::test(start_paused = true)]
async fn a_token_newer_than_the_policy_is_waited_for() {
    let (known, headers) = known_to(9, 9);
    let header = Some(headers["authorization"].as_bytes());
    let behind = Policy { accounts: Default::default(), revision: Revision::new(7), ..known.clone() };
    let policies = handle(true);
    assert_eq!(
        policies.owed_to(header, policies.known()),
        None,
        "without a policy nobody knows the token's key"
    );
    policies.give(behind);
    assert_eq!(policies.owed_to(header, policies.known()), Some(Revision::new(9)));
    assert_eq!(policies.owed_to(Some(b"Bearer x.y.z"), policies.known()), None, "not one of ours");
    let began = tokio::time::Instant::now();
    policies.reached(Revision::new(9)).await;
    assert_eq!(began.elapsed(), POLICY_WAIT, "it does not come");
    tokio::join!(policies.reached(Revision::new(9)), async { policies.give(known.clone()) });
    assert_eq!(began.elapsed(), POLICY_WAIT, "it has come");
    assert_eq!(policies.owed_to(header, policies.known()), None);

    // The same policy counts for every revision that a bookmark confirms.
    let (_, later) = known_to(9, 12);
    let bookmarked = Bundle::of(&known).version;
    policies.heard(Some(bookmarked), Revision::new(12));
    tokio::join!(policies.reached(Revision::new(12)));
    assert_eq!(began.elapsed(), POLICY_WAIT);
    assert_eq!(policies.owed_to(Some(later["authorization"].as_bytes()), policies.known()), None);
}

/// The policy is taken while a request is refused by the one before it.
#[test]
fn a_refusal_by_a_policy_that_has_been_replaced_is_not_final() {
    let (known, headers) = known_to(9, 9);
    let header = Some(headers["authorization"].as_bytes());
    let behind = Policy { accounts: Default::default(), revision: Revision::new(7), ..known.clone() };
    let policies = handle(true);
    policies.give(behind);

    let before = policies.known();
    let Standing::Guarded(policy) = policies.standing() else { panic!("it is guarded") };
    policies.give(known);
    assert!(policies.identify(&policy, header, None).is_err(), "the account is younger than this policy");
    assert_eq!(policies.owed_to(header, before), Some(Revision::new(9)), "the next decision lets it in");
}

#[test]
fn the_admin_port_trusts_no_policy_that_is_too_old() {
    let (guarded, headers) = known_to(7, 0);
    let may = |handle: &PolicyHandle| {
        handle.operator(&http::Method::POST, &headers).map(|shown| shown.is_permitted)
    };

    let fresh = handle(true);
    assert_eq!((may(&fresh), fresh.report().state), (None, AccessState::Closed), "no policy yet");
    fresh.give(guarded.clone());
    assert_eq!((may(&fresh), fresh.report().state), (Some(true), AccessState::Guarded));
    assert_eq!(fresh.report().revision, Revision::new(7));
    let config = PolicyConfig { enable: true, stale_for: Duration::ZERO, ..PolicyConfig::default() };
    let stale = PolicyHandle::new(config, Clock::system(), PolicyMetrics::none());
    stale.give(guarded);
    assert_eq!((may(&stale), stale.report().state), (None, AccessState::Closed));
    assert_eq!(stale.report().revision, Revision::new(7), "the last one is shown all the same");
}
