//! The answers of this gateway to the questions of all, its own among them.

use std::net::SocketAddr;
use std::time::Duration;

use bus::{Message, Messages};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::maybe::or_pending;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{ROUND, Surveys};
use crate::fanout::reach::{ShardReach, WaitingWatcher};
use crate::polls::WaitingPoller;
use crate::upstream::Change;
use crate::xds::{Point, WaitingStream};

/// Questions that are answered at the same time. Further ones get no answer, which proves nothing.
const MOST_AT_ONCE: usize = 32;
/// Instances that a question may name.
pub(crate) const MOST_INSTANCES: usize = 512;
/// Watchers that an answer names, whatever the question allows: the bus limits the size of a message.
const MOST_NAMED: usize = 1000;
/// The pause between two attempts to subscribe.
const RETRY: Duration = Duration::from_secs(1);

impl Surveys {
    /// Answers questions until `stop`.
    pub(crate) async fn answer_others(self, stop: CancellationToken) {
        let mut questions: Option<Messages> = None;
        let mut answering = FuturesUnordered::new();
        let mut pace = interval(RETRY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = pace.tick(), if questions.is_none() => {
                    questions = self.bus.subscribe(subject::GATEWAYS_REACH).await.ok();
                }
                question = or_pending(questions.as_mut().map(StreamExt::next)) => match question {
                    Some(question) if answering.len() < MOST_AT_ONCE => answering.push(self.answer(question)),
                    Some(_) => debug!("too many questions about watchers; one is not answered"),
                    None => questions = None,
                },
                Some(()) = answering.next() => {}
            }
        }
    }

    async fn answer(&self, message: Message) {
        let request = match pb::ReachRequest::decode(&*message.payload) {
            Ok(request) => request,
            Err(error) => return debug!(%error, "a question about watchers cannot be decoded and is ignored"),
        };
        let asker = request.asker;
        let question = request.question;
        let reply = match change_of(request) {
            // An answer that is late counts in no round.
            Some(change) => timeout(ROUND, self.look(change)).await.ok().flatten().unwrap_or_default(),
            None => pb::ReachReply::default(),
        };
        let reply = pb::ReachReply { gateway: self.peers.own, name: self.name.clone(), question, ..reply };
        if let Err(error) =
            self.bus.publish(Message::new(subject::reached(asker), reply.encode_to_vec())).await
        {
            debug!(%error, "a question about watchers was not answered");
        }
    }

    /// All clients here that read the provider. `None` when this gateway is not that far, or is too busy.
    async fn look(&self, change: Change) -> Option<pb::ReachReply> {
        let Change { provider, after, rev, age, incarnation, most, .. } = change.clone();
        // First: a find that is forwarded after this contains the change.
        let reach = self.upstream.reach(change).await?;
        let mut reply = reply_of(reach);
        let view = self.upstream.reads().view();
        let topic = view.read.topics.get(&provider);
        if let Some(xds) = &self.xds {
            let key = topic.and_then(|topic| topic.key.as_deref());
            let incarnation = incarnation.or(self.upstream.incarnation());
            let streams = xds.reach(&provider, key, Point::new(incarnation, rev), age, most)?;
            reply.streams = streams.streams;
            reply.streams_reached = streams.reached;
            reply.moving += u64::from(streams.moving);
            reply.waiting.extend(streams.waiting.into_iter().map(describe_stream));
        }
        // Without a change there is nothing that a client should have asked for since.
        if after < rev {
            self.polls.of_incarnation(self.upstream.incarnation());
            // Sound up to the bookmark alone: before, its last position may lie before the change.
            let at = topic.filter(|topic| topic.sound && view.read.bookmark >= rev).map(|topic| topic.at);
            let polls = self.polls.ask(&provider, rev, at, most);
            reply.pollers = polls.pollers;
            reply.pollers_reached = polls.reached;
            reply.waiting.extend(polls.waiting.into_iter().map(describe_poller));
        }
        reply.counts_polls = true;
        reply.waiting.truncate(most);
        Some(reply)
    }
}

fn change_of(request: pb::ReachRequest) -> Option<Change> {
    if request.instances.len() > MOST_INSTANCES {
        return None;
    }
    Some(Change {
        provider: ServiceRef::from(request.provider?),
        after: Revision::new(request.after),
        rev: Revision::new(request.rev),
        instances: request.instances,
        age: Duration::from_millis(request.age_ms),
        incarnation: request.incarnation,
        most: (request.most as usize).min(MOST_NAMED),
    })
}

fn reply_of(reach: ShardReach) -> pb::ReachReply {
    let ShardReach { watchers, reached, moving, waiting } = reach;
    let waiting = waiting.into_iter().map(describe).collect();
    pb::ReachReply { ready: true, watchers, reached, moving, waiting, ..pb::ReachReply::default() }
}

fn describe(watcher: WaitingWatcher) -> pb::WaitingWatcher {
    let WaitingWatcher { consumer, transport, peer, state, since } = watcher;
    waiting(consumer.as_ref(), transport, peer, state.word(), since)
}

fn describe_poller(poller: WaitingPoller) -> pb::WaitingWatcher {
    let WaitingPoller { consumer, peer, state, since } = poller;
    waiting(Some(&consumer), "find", peer, state.word(), since)
}

fn describe_stream(stream: WaitingStream) -> pb::WaitingWatcher {
    let WaitingStream { client, peer, is_refused, since } = stream;
    waiting(Some(&client), "xds", peer, if is_refused { "refused" } else { "unanswered" }, since)
}

fn waiting(
    consumer: Option<&ServiceRef>,
    transport: &str,
    peer: Option<SocketAddr>,
    state: &str,
    since: Duration,
) -> pb::WaitingWatcher {
    pb::WaitingWatcher {
        consumer: consumer.map(Into::into),
        transport: transport.to_owned(),
        peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        state: state.to_owned(),
        for_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}
