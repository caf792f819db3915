//! The bus's side of the gateway: one task that owns every topic and group, their only writer.
//!
//! In: events, interest changes and bookmarks of the bus, answers of the control plane, sessions that come and
//! go. Out: pushes for the shards, in the order of each provider, each change once.
//!
//! The bus may lose, repeat or delay; this room makes up for it: a hole in a provider's chain of revisions, a
//! raised generation of the link, a bookmark beyond what is known or a differing digest lead to a question
//! whose answer is applied like events. All waiting is done in tasks that this one owns; it waits itself
//! only for a shard whose queue is full.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus::{Bus, Message, Messages};
use futures_util::StreamExt as _;
use futures_util::stream::AbortHandle;
use shared::clock::Clock;
use shared::model::ServiceRef;
use shared::subject;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::fanout::ShardHandle;
use crate::metrics::UpstreamMetrics;
use crate::watch::{Cause, GroupId, Selector, SessionsClosed, Ticket};

mod answers;
mod bookmarks;
mod config;
mod core;
mod effects;
mod handle;
mod inbox;
mod joining;
#[cfg(feature = "micro")]
pub(crate) mod micro;
mod offset;
mod requests;
mod restore;
mod standing;
mod topic;

pub use config::UpstreamConfig;
pub(crate) use handle::{Admission, Command, Joined, UpstreamHandle};
pub(crate) use standing::Standing;

use core::{Core, Digests};
use effects::Done;
use inbox::Subscriptions;
use joining::{Place, Resuming};
use offset::Offset;
use requests::Asker;

/// Commands that may wait.
const COMMANDS: usize = 1024;
/// The task's own pace for what is not urgent.
const PACE: Duration = Duration::from_secs(1);
/// Between two bookmarks for those who have been told of events, at least.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// Bytes that a name in a digest request takes at most, generously.
const DIGEST_ENTRY_BYTES: usize = 256;

/// The task's state.
pub(crate) struct Upstream {
    config: UpstreamConfig,
    core: Core,
    asker: Asker,
    shards: Vec<ShardHandle>,
    commands: mpsc::Receiver<Command>,
    left: Vec<mpsc::Receiver<SessionsClosed>>,
    messages: Subscriptions,
    bookmarks: Option<Messages>,
    topics: HashMap<ServiceRef, AbortHandle>,
    interests: HashMap<GroupId, AbortHandle>,
    questions: JoinSet<Done>,
    /// The question about each group's interest, the last one asked.
    asking: HashMap<GroupId, tokio::task::AbortHandle>,
    /// Who waits for a group's view to begin. Bounded by the connections that are being upgraded.
    opening: HashMap<GroupId, Vec<(Admission, Joined)>>,
    /// Sessions that resume. Bounded by the connections that are being upgraded.
    resuming: HashMap<Place, Resuming>,
    /// Groups of which it is being asked who has left them.
    departing: HashSet<GroupId>,
    next_bookmark: Instant,
    next_confirmation: Instant,
    replays: Arc<Semaphore>,
    pushed: Arc<AtomicU64>,
    joined: watch::Sender<bool>,
    generation: u64,
    heard: Instant,
    clock: Clock,
    offset: Offset,
    next_ticket: Ticket,
    comparing: bool,
    next_digest: Instant,
    /// Since when bookmarks have been behind what is known here, and what is found out about it.
    suspicion: restore::Suspicion,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream on `bus` that feeds `shards`; `left` has each shard's news of sessions that are gone.
    pub(crate) fn new(
        config: UpstreamConfig,
        bus: Arc<dyn Bus>,
        shards: Vec<ShardHandle>,
        left: Vec<mpsc::Receiver<SessionsClosed>>,
        metrics: UpstreamMetrics,
    ) -> (Self, UpstreamHandle) {
        let (commands_in, commands) = mpsc::channel(COMMANDS);
        let (joined, joined_out) = watch::channel(false);
        let pushed = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(AtomicU64::new(0));
        let asker = Asker { bus, timeout: config.request_timeout, seen, metrics: metrics.clone() };
        let handle = UpstreamHandle {
            commands: commands_in,
            pushed: pushed.clone(),
            joined: joined_out,
            open_timeout: config.open_timeout,
        };
        let it = Self {
            core: Core::new(shards.len()),
            asker,
            shards,
            commands,
            left,
            messages: Subscriptions::new(),
            bookmarks: None,
            topics: HashMap::new(),
            interests: HashMap::new(),
            questions: JoinSet::new(),
            asking: HashMap::new(),
            opening: HashMap::new(),
            resuming: HashMap::new(),
            departing: HashSet::new(),
            next_bookmark: Instant::now(),
            next_confirmation: Instant::now(),
            replays: Arc::new(Semaphore::new(config.replays.max(1))),
            pushed,
            joined,
            generation: 0,
            heard: Instant::now(),
            clock: Clock::system(),
            offset: Offset::new(Instant::now()),
            next_ticket: Ticket(1),
            comparing: false,
            next_digest: Instant::now() + jittered(config.digest_interval),
            suspicion: restore::Suspicion::default(),
            metrics,
            config,
        };
        (it, handle)
    }

    /// Runs until `stop`. Not cancel-safe: pushes would be lost.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut link = self.asker.bus.link();
        self.generation = link.borrow_and_update().generation;
        self.subscribe_to_bookmarks();
        let mut pace = tokio::time::interval(PACE);
        loop {
            // Not biased: a flood of one kind must not keep the answers of another waiting.
            tokio::select! {
                () = stop.cancelled() => return,
                Some(command) = self.commands.recv() => self.on_command(command).await,
                Some(first) = self.messages.next() => self.on_messages(Some(first)).await,
                Some(message) = next_of(&mut self.bookmarks) => self.on_bookmark(&message).await,
                Some(done) = self.questions.join_next() => match done {
                    Ok(done) => {
                        self.take_bookmarks().await;
                        if let Some(rev) = self.on_done(done) {
                            self.restore(rev).await;
                        }
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        warn!(%error, "a question to the control plane broke off");
                        self.departing.clear();
                        self.core.resync(Cause::Again);
                    }
                },
                Ok(()) = link.changed() => {
                    let now = *link.borrow_and_update();
                    self.take_bookmarks().await;
                    self.on_link(now);
                }
                _ = pace.tick() => {
                    self.release_abandoned().await;
                    self.on_pace();
                }
            }
            self.act().await;
            if !self.resuming.is_empty() {
                self.resume().await;
                self.act().await;
            }
        }
    }

    fn subscribe_to_bookmarks(&mut self) {
        let asker = self.asker.clone();
        self.questions.spawn(async move { Done::Bookmarks(asker.subscribe(subject::BOOKMARK).await) });
    }

    fn on_link(&mut self, link: bus::Link) {
        if link.generation != self.generation {
            self.generation = link.generation;
            if link.connected {
                info!(
                    generation = link.generation,
                    "messages of the bus may have been lost; resynchronising"
                );
            }
            self.core.resync(Cause::Link);
        }
        self.joined.send_if_modified(|joined| {
            let now = link.connected && self.bookmarks.is_some();
            std::mem::replace(joined, now) != now
        });
    }

    fn on_pace(&mut self) {
        let now = Instant::now();
        for (shard, left) in self.left.iter_mut().enumerate() {
            while let Ok(left) = left.try_recv() {
                self.core.left(shard, left, now);
            }
        }
        self.core.forget_empty(now);
        let resuming: HashSet<GroupId> = self.resuming.keys().map(|(group, _)| *group).collect();
        self.core.forget_departed(|group| resuming.contains(&group));
        if now >= self.next_digest && !self.comparing {
            self.next_digest = now + jittered(self.config.digest_interval);
            self.compare();
        }
        let (topics, groups) = (self.core.topic_count(), self.core.groups_by_kind());
        let depth = self.shards.iter().map(ShardHandle::depth).max().unwrap_or(0);
        self.metrics.stand(topics, groups, depth, self.pushed.load(Ordering::Relaxed));
    }

    /// Asks replicas to compare, in requests that the bus carries.
    fn compare(&mut self) {
        let Digests { mut entries, mut consumers } = self.core.digests();
        let batch = (self.asker.bus.max_payload() / DIGEST_ENTRY_BYTES / 2).max(1);
        while !entries.is_empty() || !consumers.is_empty() {
            let entries = entries.split_off(entries.len().saturating_sub(batch));
            let consumers = consumers.split_off(consumers.len().saturating_sub(batch));
            let asker = self.asker.clone();
            self.comparing = true;
            self.questions.spawn(async move {
                let names: Vec<ServiceRef> = consumers.iter().map(|(_, name)| name.clone()).collect();
                let answer = asker.digest(&entries, &names).await;
                Done::Digest(Digests { entries, consumers }, answer)
            });
        }
    }

    /// Does what follows. Waits only for shards.
    async fn act(&mut self) {
        loop {
            let effects = self.core.take_effects();
            // Before the questions among them: no answer to these may be older than what led to them.
            self.asker.seen.fetch_max(self.core.seen(), Ordering::Relaxed);
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.75 + fastrand::f64() / 2.0)
}

async fn next_of(messages: &mut Option<Messages>) -> Option<Message> {
    match messages {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}
