//! The findings of one round: the answers of the gateways, and the gateways without one.

use std::collections::HashSet;
use std::time::Duration;

use proto::event::v1 as pb;
use serde::Serialize;

/// The most gateways that fall silent and are named.
const MOST_NAMED: usize = 100;

/// The answers of one round, added up.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Findings {
    /// Watchers of the provider.
    pub(crate) watchers: u64,
    /// The clients among them that have been given the change.
    pub(crate) reached: u64,
    /// Clients that have found the provider lately, and those of them that have been given an answer with the
    /// change.
    pub(crate) pollers: u64,
    pub(crate) pollers_reached: u64,
    /// Streams of xDS with endpoints of the provider, and those of them that have acknowledged the change.
    pub(crate) streams: u64,
    pub(crate) streams_reached: u64,
    /// Clients may have asked a gateway that is not there any more, or does not count them. The time after
    /// which they have asked another one or do not poll.
    #[serde(
        rename = "pollersKnownInMs",
        serialize_with = "maybe_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) pollers_known_in: Option<Duration>,
    /// Groups from which a watcher has left a moment ago without having acknowledged the change.
    pub(crate) moving: u64,
    /// Gateways that have answered.
    pub(crate) gateways: u64,
    /// Gateways that have not followed the store up to the change yet, or are too busy.
    pub(crate) behind: u64,
    /// This gateway has listened long enough to know all others.
    pub(crate) fleet_known: bool,
    /// Gateways that may have watchers and have not answered.
    pub(crate) silent: Vec<Silent>,
    /// Gateways that have not been heard for a minute and count as dead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) gone: Vec<String>,
    /// The first watchers that have not acknowledged the change.
    pub(crate) waiting: Vec<Waiting>,
    /// The answers one by one.
    #[serde(skip)]
    at: Vec<GatewayFindings>,
    #[serde(skip)]
    most: usize,
    #[serde(skip)]
    answered: HashSet<u64>,
    /// A gateway of an older version has answered, which does not know the clients that poll.
    #[serde(skip)]
    pub(super) some_do_not_count: bool,
}

/// The answer of one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayFindings {
    /// Its name in metrics.
    gateway: String,
    watchers: u64,
    reached: u64,
    /// It has not followed the store so far, or is too busy.
    behind: bool,
}

/// A gateway that has not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Silent {
    #[serde(skip)]
    pub(crate) id: u64,
    /// Its name in metrics; empty for one of an older version.
    #[serde(rename = "gateway")]
    pub(crate) name: String,
    /// The time since anything was heard of it.
    #[serde(rename = "silentMs", serialize_with = "millis")]
    pub(crate) silent_for: Duration,
}

/// A watcher that has not acknowledged the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Waiting {
    /// The service that watches; its id is empty when the client named none.
    pub(crate) consumer: String,
    pub(crate) transport: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) peer: String,
    /// The gateway that has it.
    pub(crate) gateway: String,
    pub(crate) state: String,
    /// Milliseconds since the gateway first looked for its acknowledgement.
    pub(crate) for_ms: u64,
}

impl Findings {
    /// No answers yet. At most so many watchers are named.
    pub(super) fn new(most: usize, fleet_known: bool) -> Self {
        Self { most, fleet_known, ..Self::default() }
    }

    /// True when every watcher has been given the change.
    pub(crate) fn is_proof(&self) -> bool {
        self.fleet_known
            && self.silent.is_empty()
            && self.behind == 0
            && self.moving == 0
            && self.reached == self.watchers
            && self.pollers_reached == self.pollers
            && self.streams_reached == self.streams
            && self.pollers_known_in.is_none()
    }

    pub(super) fn has_answered(&self, id: u64) -> bool {
        self.answered.contains(&id)
    }

    /// Adds the answer of a gateway; the first one counts.
    pub(super) fn add(&mut self, reply: pb::ReachReply) {
        if !self.answered.insert(reply.gateway) {
            return;
        }
        self.gateways += 1;
        self.at.push(GatewayFindings {
            gateway: reply.name.clone(),
            watchers: reply.watchers,
            reached: reply.reached.min(reply.watchers),
            behind: !reply.ready,
        });
        if !reply.ready {
            self.behind += 1;
            return;
        }
        self.watchers = self.watchers.saturating_add(reply.watchers);
        self.reached = self.reached.saturating_add(reply.reached.min(reply.watchers));
        self.moving = self.moving.saturating_add(reply.moving);
        self.pollers = self.pollers.saturating_add(reply.pollers);
        self.pollers_reached = self.pollers_reached.saturating_add(reply.pollers_reached.min(reply.pollers));
        self.streams = self.streams.saturating_add(reply.streams);
        self.streams_reached = self.streams_reached.saturating_add(reply.streams_reached.min(reply.streams));
        self.some_do_not_count |= !reply.counts_polls;
        for watcher in reply.waiting {
            if self.waiting.len() >= self.most {
                break;
            }
            self.waiting.push(Waiting {
                consumer: watcher.consumer.map(|consumer| consumer.service_id).unwrap_or_default(),
                transport: watcher.transport,
                peer: watcher.peer,
                gateway: reply.name.clone(),
                state: watcher.state,
                for_ms: watcher.for_ms,
            });
        }
    }

    /// The answers one by one, in the order of the gateways' names.
    pub(crate) fn at(&self) -> &[GatewayFindings] {
        &self.at
    }

    /// Shortens the lists of a large fleet.
    pub(crate) fn shorten(&mut self) {
        self.at.sort_by(|a, b| a.gateway.cmp(&b.gateway));
        self.at.truncate(MOST_NAMED);
        self.silent.truncate(MOST_NAMED);
        self.gone.truncate(MOST_NAMED);
    }
}

fn millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn maybe_millis<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    millis(&time.unwrap_or_default(), serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(gateway: u64, watchers: u64, reached: u64) -> pb::ReachReply {
        pb::ReachReply { gateway, ready: true, watchers, reached, counts_polls: true, ..Default::default() }
    }

    fn of(replies: Vec<pb::ReachReply>) -> Findings {
        let mut findings = Findings::new(10, true);
        replies.into_iter().for_each(|reply| findings.add(reply));
        findings
    }

    #[test]
    fn only_whole_answers_of_everybody_are_a_proof() {
        assert!(of(vec![reply(1, 3, 3), reply(2, 0, 0)]).is_proof());
        assert!(!of(vec![reply(1, 3, 2)]).is_proof(), "one watcher waits");
        assert!(!of(vec![pb::ReachReply { ready: false, ..reply(1, 3, 3) }]).is_proof(), "it is behind");
        assert!(!of(vec![pb::ReachReply { moving: 1, ..reply(1, 3, 3) }]).is_proof(), "one has moved");
        assert!(!Findings { fleet_known: false, ..of(vec![reply(1, 3, 3)]) }.is_proof());
        assert!(!of(vec![pb::ReachReply { pollers: 2, pollers_reached: 1, ..reply(1, 3, 3) }]).is_proof());
        assert!(!of(vec![pb::ReachReply { streams: 1, ..reply(1, 3, 3) }]).is_proof(), "a stream waits");
        let soon = Some(Duration::from_secs(1));
        assert!(!Findings { pollers_known_in: soon, ..of(vec![reply(1, 3, 3)]) }.is_proof());
        let silent = Silent { id: 7, name: String::new(), silent_for: Duration::ZERO };
        assert!(!Findings { silent: vec![silent], ..of(vec![reply(1, 3, 3)]) }.is_proof());
    }

    #[test]
    fn a_gateway_cannot_hide_the_watchers_of_another() {
        assert!(!of(vec![reply(1, 3, 9), reply(2, 5, 0)]).is_proof(), "more reached than there are");
        let twice = of(vec![reply(1, 3, 2), reply(1, 3, 3)]);
        assert_eq!((twice.watchers, twice.reached), (3, 2), "the first answer counts");
    }
}
