//! The answers of this gateway to the questions of all, its own among them.

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
use crate::upstream::Change;

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
        let reach = match change_of(request) {
            // An answer that is late counts in no round.
            Some(change) => timeout(ROUND, self.upstream.reach(change)).await.ok().flatten(),
            None => None,
        };
        let reply =
            pb::ReachReply { gateway: self.peers.own, name: self.name.clone(), question, ..reply_of(reach) };
        if let Err(error) =
            self.bus.publish(Message::new(subject::reached(asker), reply.encode_to_vec())).await
        {
            debug!(%error, "a question about watchers was not answered");
        }
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

fn reply_of(reach: Option<ShardReach>) -> pb::ReachReply {
    let Some(ShardReach { watchers, reached, moving, waiting }) = reach else {
        return pb::ReachReply::default();
    };
    let waiting = waiting.into_iter().map(describe).collect();
    pb::ReachReply { ready: true, watchers, reached, moving, waiting, ..pb::ReachReply::default() }
}

fn describe(watcher: WaitingWatcher) -> pb::WaitingWatcher {
    pb::WaitingWatcher {
        consumer: watcher.consumer.as_ref().map(Into::into),
        transport: watcher.transport.to_owned(),
        peer: watcher.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        state: watcher.state.word().to_owned(),
        for_ms: u64::try_from(watcher.since.as_millis()).unwrap_or(u64::MAX),
    }
}
