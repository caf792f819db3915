//! What follows from what was heard: pushes for the shards, and questions, each in a task of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bus::Messages;
use futures_util::StreamExt as _;
use shared::model::Revision;
use shared::subject;

use super::core::{Departed, Digests, Effect, Interest, Want};
use super::joining::Place;
use super::requests::AskError;
use super::topic::Replayed;
use super::{Cause, Upstream};
use crate::fanout::ToShard;
use crate::push::Push;
use crate::trace;
use crate::watch::GroupId;

/// Subscriptions made at once for one consumer.
const SUBSCRIBING: usize = 32;

/// What came out of a question.
pub(super) enum Done {
    Interest(GroupId, Option<Messages>, Interest),
    Loaded(Vec<(Want, Messages, Replayed)>),
    Replayed(Vec<(Want, Replayed)>),
    CaughtUp(GroupId, Want, Replayed),
    Resumed(Place, Vec<(Want, Replayed)>),
    Departed(GroupId, Departed),
    /// The store's own revision, for a session that resumes from a later one than is known here.
    Probed(Place, Revision),
    /// The same for this gateway, which was as far as the second when it asked.
    Confirmed(Result<Revision, AskError>, Revision),
    Bookmarks(Messages),
    Digest(Digests, Result<(Vec<u32>, Vec<u32>), AskError>),
}

impl Upstream {
    pub(super) async fn carry_out(&mut self, effect: Effect) {
        let asker = self.asker.clone();
        match effect {
            Effect::Append(push, groups) => self.append(push, groups).await,
            Effect::End(group, reason) => {
                for shard in &self.shards {
                    shard.send(ToShard::End { group, reason }).await;
                }
            }
            Effect::OpenInterest(group, selector) => {
                let question = self.questions.spawn(async move {
                    let messages = asker.subscribe(&selector.subject()).await;
                    let interest = asker.interest(&selector).await;
                    Done::Interest(group, Some(messages), interest)
                });
                self.asking.insert(group, question);
            }
            Effect::AskInterest(group, selector) => {
                let jitter = self.config.resync_jitter;
                let question = self.questions.spawn(async move {
                    tokio::time::sleep(jitter.mul_f64(fastrand::f64())).await;
                    Done::Interest(group, None, asker.interest(&selector).await)
                });
                self.asking.insert(group, question);
            }
            Effect::Opened(group) => {
                for (done, joined) in self.opening.remove(&group).into_iter().flatten() {
                    let _ = done.send(Ok(joined));
                }
            }
            Effect::Refused(group, full) => self.refuse(group, full).await,
            Effect::CloseInterest(group) => {
                if let Some(handle) = self.interests.remove(&group) {
                    handle.abort();
                }
                if let Some(question) = self.asking.remove(&group) {
                    question.abort();
                }
            }
            Effect::OpenTopics(wants) => {
                for wants in batches(wants, self.config.replay_batch) {
                    let asker = asker.clone();
                    self.ask(async move {
                        let subscribe = |want: Want| {
                            let asker = &asker;
                            async move {
                                let messages = asker.subscribe(&subject::event(&want.provider)).await;
                                (want, messages)
                            }
                        };
                        let opened: Vec<(Want, Messages)> = futures_util::stream::iter(wants)
                            .map(subscribe)
                            .buffered(SUBSCRIBING)
                            .collect()
                            .await;
                        let (wants, messages): (Vec<Want>, Vec<Messages>) = opened.into_iter().unzip();
                        let replayed = asker.replay(&wants).await;
                        let loaded = wants.into_iter().zip(messages).zip(replayed);
                        Done::Loaded(loaded.map(|((want, messages), it)| (want, messages, it)).collect())
                    });
                }
            }
            Effect::CloseTopic(provider) => {
                if let Some(handle) = self.topics.remove(&provider) {
                    handle.abort();
                }
            }
            Effect::Replay(cause, wants) => {
                self.metrics.resync(cause, wants.len() as u64);
                let jitter = match cause {
                    Cause::Gap => Duration::ZERO,
                    Cause::Link | Cause::Bookmark | Cause::Digest | Cause::Again | Cause::Restored => {
                        self.config.resync_jitter
                    }
                };
                for wants in batches(wants, self.config.replay_batch) {
                    let (asker, replays) = (asker.clone(), self.replays.clone());
                    self.ask(async move {
                        tokio::time::sleep(jitter.mul_f64(fastrand::f64())).await;
                        let _permit = replays.acquire().await;
                        let replayed = asker.replay(&wants).await;
                        Done::Replayed(wants.into_iter().zip(replayed).collect())
                    });
                }
            }
            Effect::CatchUp(group, want) => {
                self.ask(async move {
                    let replayed = asker.replay(std::slice::from_ref(&want)).await;
                    Done::CaughtUp(group, want, replayed.into_iter().next().unwrap_or_default())
                });
            }
        }
    }

    async fn append(&mut self, push: Arc<Push>, groups: Vec<GroupId>) {
        // Before the shards: whoever reacts to the push finds that reads ask for at least its revision.
        self.pushed.fetch_max(push.at.rev, Ordering::Relaxed);
        if let Some(cause) = &push.via.trace {
            let dispatched = trace::dispatched(cause, push.via.received_at, push.at.rev, self.clock.micros());
            if let Some(span) = dispatched {
                push.is_dispatched_in(span);
            }
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let has_sessions =
                |group: &&GroupId| self.core.sessions(**group).get(number).is_some_and(|n| *n > 0);
            let groups: Vec<GroupId> = groups.iter().filter(has_sessions).copied().collect();
            if !groups.is_empty() {
                shard.send(ToShard::Append { push: push.clone(), groups }).await;
            }
        }
    }

    pub(super) fn ask(&mut self, question: impl Future<Output = Done> + Send + 'static) {
        self.questions.spawn(question);
    }
}

fn batches(mut wants: Vec<Want>, size: usize) -> Vec<Vec<Want>> {
    let mut batches = Vec::new();
    while wants.len() > size.max(1) {
        batches.push(wants.split_off(wants.len() - size.max(1)));
    }
    batches.push(wants);
    batches
}
