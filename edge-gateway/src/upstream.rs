//! The gateway's connection to the control plane: one task that follows all topics and groups.
//!
//! In: events, changes of interest and bookmarks of the bus, replies of the control plane, sessions that come
//! and go. Out: pushes for the shards, in the order of each provider, each change once.
//!
//! The decisions are made by the crate `follow`. This room subscribes, requests and sends, and applies
//! everything that arrives to the [`Tracker`] in the right order. The bus may lose, repeat or delay messages;
//! a gap in a provider's order, a new generation of the link, a bookmark beyond what has arrived, or a
//! differing digest each lead to a request whose reply is applied like events.
//!
//! All waiting is done in tasks that this one owns. It waits itself only for a shard whose queue is full:
//! then the buffer of the bus is the reserve.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus::{Bus, Messages};
use follow::Tracker;
use follow::resume::Resumes;
use follow::suspicion::Suspicion;
use follow::tracker::Digests;
use futures_util::StreamExt;
use futures_util::stream::AbortHandle;
use shared::backoff::jitter;
use shared::clock::Clock;
use shared::maybe::or_pending;
use shared::model::ServiceRef;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::beats::Beats;
use crate::fanout::ShardHandle;
use crate::hedge::Hedge;
use crate::metrics::UpstreamMetrics;
use crate::policy::PolicyHandle;
use crate::reads::{Reads, shared_view};
use crate::watch::{Cause, GroupId, SessionsClosed, Ticket};

mod asking;
mod bookmarks;
mod config;
mod effects;
mod feeds;
mod handle;
mod holds;
mod inbox;
mod inventory;
mod joining;
mod names;
mod offset;
mod pace;
mod replies;
mod request;
mod requester;
mod restore;
#[cfg(test)]
mod tests;
mod written;

pub(crate) use asking::Change;
pub use config::{NamesConfig, UpstreamConfig};
pub(crate) use handle::{Admission, Command, Joined, Receives, UpstreamHandle};

use feeds::Feeds;
use holds::Holds;
use inbox::Subscriptions;
use joining::{Joining, ResumeKey};
use names::Names;
use offset::Offset;
use pace::Pace;
use request::{Ended, Request, Requests, Resources};
use requester::Requester;
use written::Written;

/// The most commands that wait. More make their senders wait.
const COMMAND_QUEUE: usize = 1024;
/// The pause between two rounds of work that is not urgent.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The shortest time between two bookmarks to clients that have received events.
const MIN_BOOKMARK_PAUSE: Duration = Duration::from_secs(1);
/// A generous upper bound for the bytes of one entry in a digest request.
const DIGEST_ENTRY_BYTES: usize = 256;

/// The upstream's task.
pub(crate) struct Upstream {
    config: UpstreamConfig,
    tracker: Tracker,
    shards: Vec<ShardHandle>,
    commands: mpsc::Receiver<Command>,
    /// Each shard's reports of sessions that have closed.
    sessions_closed: Vec<mpsc::Receiver<SessionsClosed>>,
    messages: Subscriptions,
    bookmarks: Option<Messages>,
    /// The handles that end the subscriptions in `messages`.
    topics: HashMap<ServiceRef, AbortHandle>,
    interests: HashMap<GroupId, AbortHandle>,
    feeds: Feeds,
    names: Names,
    requests: Requests,
    resources: Resources,
    /// The latest request about each group's interest. It is cancelled when the group ends.
    interest_requests: HashMap<GroupId, tokio::task::AbortHandle>,
    /// Sessions that wait for their group to open. Bounded by the connections that are being upgraded.
    opening: HashMap<GroupId, Vec<(Admission, Joined)>>,
    /// Sessions that resume. Bounded by the connections that are being upgraded.
    resuming: HashMap<ResumeKey, Vec<Joining>>,
    /// The progress of the sessions in `resuming`.
    resumes: Resumes<ResumeKey>,
    resumes_pace: Pace,
    /// The earliest time of the next bookmark to every client that can resume.
    next_bookmark: Instant,
    /// The earliest time of the next bookmark to clients that have received events since the last one.
    next_active_bookmark: Instant,
    /// The highest revision that a watcher has been sent, or from which one begins.
    pushed: Arc<AtomicU64>,
    /// The revisions of the writes that were passed on.
    written: Arc<Written>,
    /// True while the bus is connected and bookmarks are subscribed to.
    joined: watch::Sender<bool>,
    generation: u64,
    clock: Clock,
    offset: Offset,
    next_ticket: Ticket,
    next_comparison: Instant,
    suspicion: Suspicion,
    /// Consumers that are followed for their finds.
    holds: Holds,
    policy: PolicyHandle,
    /// Told that the store was restored.
    beats: Beats,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream on `bus` that feeds `shards`. `sessions_closed` has one channel for each shard.
    pub(crate) fn new(
        config: UpstreamConfig,
        bus: Arc<dyn Bus>,
        shards: Vec<ShardHandle>,
        sessions_closed: Vec<mpsc::Receiver<SessionsClosed>>,
        policy: PolicyHandle,
        beats: Beats,
        metrics: UpstreamMetrics,
    ) -> (Self, UpstreamHandle) {
        let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
        let (joined, joined_out) = watch::channel(false);
        let pushed = Arc::new(AtomicU64::new(0));
        let written = Arc::new(Written::default());
        let requester = Requester {
            bus,
            timeout: config.request_timeout,
            seen: Arc::new(AtomicU64::new(0)),
            incarnation: Arc::default(),
            hedge: Arc::new(Hedge::new(metrics.clone())),
            lanes: Arc::default(),
            metrics: metrics.clone(),
        };
        let resources = Resources {
            requester,
            replays: Arc::new(Semaphore::new(config.replays.max(1))),
            batch: config.replay_batch,
        };
        let now = Instant::now();
        let reads = shared_view();
        let handle = UpstreamHandle {
            requester: resources.requester.clone(),
            reads: Reads::new(config.reads.clone(), reads.clone(), now),
            commands: commands_in,
            pushed: pushed.clone(),
            written: written.clone(),
            joined: joined_out,
            open_timeout: config.open_timeout,
        };
        let upstream = Self {
            tracker: Tracker::new(shards.len()),
            shards,
            commands,
            sessions_closed,
            messages: Subscriptions::new(),
            bookmarks: None,
            topics: HashMap::new(),
            interests: HashMap::new(),
            feeds: Feeds::default(),
            names: Names::new(config.names.clone()),
            requests: Requests::default(),
            resources,
            interest_requests: HashMap::new(),
            opening: HashMap::new(),
            resuming: HashMap::new(),
            resumes: Resumes::default(),
            resumes_pace: Pace::default(),
            next_bookmark: now,
            next_active_bookmark: now,
            pushed,
            written,
            joined,
            generation: 0,
            clock: Clock::system(),
            offset: Offset::new(now),
            next_ticket: Ticket::FIRST,
            next_comparison: now + jittered(config.digest_interval),
            suspicion: Suspicion::default(),
            holds: Holds::new(config.reads.clone(), reads, now),
            policy,
            beats,
            metrics,
            config,
        };
        (upstream, handle)
    }

    /// Runs until `stop`. Not cancel-safe: dropping the future loses pushes.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut link = self.resources.requester.bus.link();
        self.generation = link.borrow_and_update().generation;
        self.start(Request::Bookmarks);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            // Not biased: a flood of one kind of message must not delay the replies to another.
            tokio::select! {
                () = stop.cancelled() => return,
                Some(command) = self.commands.recv() => self.on_command(command).await,
                Some(first) = self.messages.next() => self.take_messages(Some(first)).await,
                Some(message) = or_pending(self.bookmarks.as_mut().map(StreamExt::next)) => self.on_bookmark(&message).await,
                Some(ended) = self.requests.next() => self.on_ended(ended).await,
                Ok(()) = link.changed() => {
                    let now = *link.borrow_and_update();
                    self.take_bookmarks().await;
                    self.on_link(now);
                }
                () = self.resumes_pace.rest() => {}
                _ = housekeeping.tick() => {
                    self.release_abandoned().await;
                    self.keep_house();
                }
            }
            self.act().await;
            let now = tokio::time::Instant::now();
            if self.resumes_pace.may_begin(!self.resumes.is_empty(), now) {
                self.advance_resumes().await;
                self.act().await;
                self.resumes_pace.ended(now, tokio::time::Instant::now());
            }
        }
    }

    async fn on_ended(&mut self, ended: Ended) {
        match ended {
            Ended::Cancelled => {}
            Ended::Replied(reply) => {
                self.take_bookmarks().await;
                if let Some(rev) = self.on_reply(reply) {
                    self.restore(rev).await;
                }
            }
            Ended::Panicked(request, error) => {
                error!(%error, "a request to the control plane panicked and will be made again; please report this");
                self.on_panicked(request);
            }
        }
    }

    fn on_link(&mut self, link: bus::Link) {
        if link.generation != self.generation {
            self.generation = link.generation;
            if link.connected {
                info!(
                    generation = link.generation,
                    "the link to the bus may have lost messages; resynchronising everything"
                );
            }
            self.tracker.resync(Cause::Link);
        }
        let is_joined = link.connected && self.bookmarks.is_some();
        self.joined.send_if_modified(|joined| std::mem::replace(joined, is_joined) != is_joined);
    }

    /// Work that is not urgent.
    fn keep_house(&mut self) {
        let now = Instant::now();
        for (shard, reports) in self.sessions_closed.iter_mut().enumerate() {
            while let Ok(SessionsClosed { group, sessions }) = reports.try_recv() {
                self.tracker.sessions_closed(shard, group, sessions, now);
            }
        }
        // After the reports, which may have emptied groups.
        self.forget_idle(now);
        self.tracker.forget_empty(now);
        self.resumes.forget_unneeded_departures(&mut self.tracker);
        // A comparison that takes longer than the interval delays the next one: requests must not pile up.
        if now >= self.next_comparison && !self.requests.is_comparing() {
            self.next_comparison = now + jittered(self.config.digest_interval);
            self.compare_digests();
        }
        let deepest = self.shards.iter().map(ShardHandle::depth).max().unwrap_or(0);
        self.metrics.stand(
            self.tracker.topic_count(),
            self.tracker.groups_by_kind(),
            self.names.total(),
            deepest,
            self.pushed.load(Ordering::Relaxed),
        );
    }

    /// Asks replicas to compare digests, in as many requests as the bus's largest message demands.
    fn compare_digests(&mut self) {
        let Digests { mut topics, mut consumers } = self.tracker.digests();
        // A request holds up to this many topics and as many consumers.
        let batch = (self.resources.requester.bus.max_payload() / DIGEST_ENTRY_BYTES / 2).max(1);
        while !topics.is_empty() || !consumers.is_empty() {
            let topics = topics.split_off(topics.len().saturating_sub(batch));
            let consumers = consumers.split_off(consumers.len().saturating_sub(batch));
            self.start(Request::Compare(Digests { topics, consumers }));
        }
    }

    /// Carries out the tracker's effects until there are none. Waits only for shards.
    async fn act(&mut self) {
        loop {
            let effects = self.tracker.take_effects();
            // Before the effects: the reply to a request among them must not be older than the message that
            // caused it.
            self.resources.requester.seen.fetch_max(self.tracker.seen().get(), Ordering::Relaxed);
            // Before the effects: a client that reacts to a push must not find what was before it.
            self.publish_reads();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
    }
}

/// Between three and five quarters of `interval`.
fn jittered(interval: Duration) -> Duration {
    jitter(interval, 0.75..=1.25)
}
