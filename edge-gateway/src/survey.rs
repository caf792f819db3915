//! Surveys: how many watchers of all gateways have been given a change.
//!
//! ```text
//! a drain ──▶ Survey ──question on the bus──▶ every gateway ──▶ its upstream ──▶ its shards
//!                ▲                                  │
//!                └──── answers, until all known ────┘
//! ```
//!
//! In: a change, and the gateways that the fleet knows. Out: the [`Findings`] of one round. Nothing is proven
//! while a gateway that may have watchers has not answered. One that has fallen silent counts as one of those
//! for a minute; then it counts as dead, and its watchers as moved to gateways that have answered. A gateway
//! answers its own questions over the bus too, so there is one way for all.
//!
//! A client that polls is known only to the gateways that it has asked. So for the time for which such a
//! client may be silent nothing is proven after a gateway has left, or if this one is younger than that and
//! cannot know whether one has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, Message, Messages};
use futures_util::StreamExt as _;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::subject;
use tokio::time::{Instant, timeout_at};

use crate::fleet::{self, Peers};
use crate::polls::Polls;
use crate::upstream::{Change, UpstreamHandle};
use crate::xds::Discovery;

mod answering;
mod findings;

pub(crate) use answering::MOST_INSTANCES;
pub(crate) use findings::{Findings, GatewayFindings, Silent};

/// The time that gateways have for their answers. A late one counts in no round.
const ROUND: Duration = Duration::from_secs(2);

/// The way to ask all gateways. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Surveys {
    upstream: UpstreamHandle,
    peers: Peers,
    bus: Arc<dyn Bus>,
    name: String,
    polls: Polls,
    /// `None` when xDS is switched off.
    xds: Option<Discovery>,
}

/// The survey of one change.
pub(crate) struct Survey {
    peers: Peers,
    bus: Arc<dyn Bus>,
    name: String,
    answers: Messages,
    /// The other gateways that have been known since the survey began.
    known: HashMap<u64, String>,
    /// The names of those that have fallen silent for good.
    gone: Vec<String>,
    polls: Polls,
}

impl Surveys {
    /// Surveys over the bus. `name` is that of this gateway in metrics.
    pub(crate) fn new(
        upstream: UpstreamHandle,
        peers: Peers,
        bus: Arc<dyn Bus>,
        name: String,
        polls: Polls,
        xds: Option<Discovery>,
    ) -> Self {
        Self { upstream, peers, bus, name, polls, xds }
    }

    /// Begins a survey.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    pub(crate) async fn begin(&self) -> Result<Survey, BusError> {
        let answers = self.bus.subscribe(&subject::reached(self.peers.own)).await?;
        Ok(Survey {
            peers: self.peers.clone(),
            bus: self.bus.clone(),
            name: self.name.clone(),
            answers,
            known: HashMap::new(),
            gone: Vec::new(),
            polls: self.polls.clone(),
        })
    }
}

impl Survey {
    /// Asks every gateway once.
    pub(crate) async fn ask(&mut self, change: &Change) -> Findings {
        let began = Instant::now();
        let question = fastrand::u64(..);
        let request = pb::ReachRequest {
            asker: self.peers.own,
            question,
            provider: Some((&change.provider).into()),
            after: change.after.get(),
            rev: change.rev.get(),
            instances: change.instances.clone(),
            age_ms: u64::try_from(change.age.as_millis()).unwrap_or(u64::MAX),
            incarnation: change.incarnation,
            most: u32::try_from(change.most).unwrap_or(u32::MAX),
        };
        // Before the question: the watchers of a gateway that comes later were either at a gateway that is
        // asked, or are new and know nothing from before the change.
        let expected = self.expected();
        let mut findings = Findings::new(change.most, expected.is_some());
        let message = Message::new(subject::GATEWAYS_REACH, request.encode_to_vec());
        // Without the question nobody answers, and the findings say so.
        if self.bus.publish(message).await.is_ok() {
            let expected: Vec<u64> = expected.iter().flatten().map(|silent| silent.id).collect();
            self.collect(question, &expected, began + ROUND, &mut findings).await;
        }
        for silent in expected.into_iter().flatten() {
            if !findings.has_answered(silent.id) {
                findings.silent.push(silent);
            }
        }
        findings.gone.clone_from(&self.gone);
        // After the answers: a gateway that has left meanwhile has been noted by now.
        findings.pollers_known_in = self.pollers_known_in(change, &findings);
        findings
    }

    /// The time after which everybody who may have asked a gateway that cannot be asked has asked another one,
    /// or does not poll. `None` when there is nobody like that.
    fn pollers_known_in(&self, change: &Change, findings: &Findings) -> Option<Duration> {
        let silent_after = self.polls.silent_after();
        if silent_after.is_zero() || change.after >= change.rev {
            return None;
        }
        // A gateway counts from its last announcement, and may have answered until the next one.
        let known_after = silent_after + 2 * fleet::PERIOD;
        // Every client that was given something older before the change has asked since.
        let since_change = known_after.checked_sub(change.age).filter(|left| !left.is_zero())?;
        if findings.some_do_not_count {
            return Some(since_change);
        }
        let lost = self.peers.lost_within(known_after, self.polls.none_before())?;
        Some(since_change.min(lost))
    }

    async fn collect(&mut self, question: u64, expected: &[u64], until: Instant, findings: &mut Findings) {
        while !expected.iter().all(|id| findings.has_answered(*id)) {
            let Ok(Some(message)) = timeout_at(until, self.answers.next()).await else { return };
            // Answers to other surveys of this gateway, and late ones, come on the same subject.
            if let Ok(reply) = pb::ReachReply::decode(&*message.payload)
                && reply.question == question
            {
                findings.add(reply);
            }
        }
    }

    /// The gateways that must answer. `None` while this gateway may not have heard of all.
    fn expected(&mut self) -> Option<Vec<Silent>> {
        let others = self.peers.others()?;
        self.known.retain(|id, name| {
            let is_there = others.iter().any(|peer| peer.id == *id);
            if !is_there && !self.peers.has_ended(*id) {
                self.gone.push(std::mem::take(name));
            }
            is_there
        });
        let own = Silent { id: self.peers.own, name: self.name.clone(), silent_for: Duration::ZERO };
        let mut expected = vec![own];
        for peer in others {
            self.known.insert(peer.id, peer.name.clone());
            expected.push(Silent { id: peer.id, name: peer.name, silent_for: peer.silent_for });
        }
        Some(expected)
    }
}
