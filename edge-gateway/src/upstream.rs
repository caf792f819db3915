//! The bus's side of the gateway: one task that owns every topic and group, their only writer.
//!
//! In: events, interest changes and bookmarks of the bus, answers of the control plane, sessions that come and
//! go. Out: pushes for the shards, in the order of each provider, each change once.
//!
//! The bus may lose, repeat or delay; this room makes up for it: a hole in a provider's chain of revisions, a
//! raised generation of the link, a bookmark beyond what is known or a differing digest lead to a question
//! whose answer is applied like events. All waiting is done in tasks that this one owns; it waits itself
//! only for a shard whose queue is full.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::AbortHandle;
use futures_util::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::bus::{Bus, Message, Messages};
use shared::event::Position;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::hub::push::Encoding;
use crate::hub::{GroupId, Left, ShardHandle, Ticket, ToShard};
use crate::limits::Full;
use crate::metrics::UpstreamMetrics;

mod core;
mod effects;
mod inbox;
mod joining;
#[cfg(feature = "micro")]
pub(crate) mod micro;
mod requests;
mod topic;

use core::{Core, Digests};
use effects::Done;
use inbox::{Source, Subscriptions, tagged};
use joining::Resuming;
use requests::Asker;

/// How the gateway keeps up with the control plane.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// How long a part of an answer may take before the question is asked again.
    pub request_timeout: Duration,
    /// How long a watch may wait for the control plane to say whom it concerns; then it is refused with 503.
    pub open_timeout: Duration,
    /// Between two comparisons with a replica, jittered: the repair of last resort.
    pub digest_interval: Duration,
    /// Between two bookmarks for clients that can resume, at least.
    pub bookmark_interval: Duration,
    /// Providers asked for in one request.
    pub replay_batch: usize,
    /// Requests for replay under way at once.
    pub replays: usize,
    /// Providers followed at once; 0 is no limit. Who would need more is refused, before it is known what a
    /// consumer is interested in: the last one let in may bring more.
    pub topics: usize,
    /// Resyncs after a reconnect begin within this time at random, so that gateways do not come all at once.
    pub resync_jitter: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(3),
            // Clients wait longer for a handshake, and a gateway that knows nothing should say so.
            open_timeout: Duration::from_secs(5),
            digest_interval: Duration::from_secs(30),
            // As often as an idle client needs to resume without being told everything again.
            bookmark_interval: Duration::from_secs(10),
            // A few instances each keep an answer within a handful of parts.
            replay_batch: 128,
            replays: 4,
            // Some tens of KiB each at most, mostly much less.
            topics: 100_000,
            resync_jitter: Duration::from_millis(200),
        }
    }
}

/// Why providers are asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An event's predecessor is missing.
    Gap,
    /// The link to the bus lost messages, or was lost.
    Link,
    /// The publisher's progress shows a loss.
    Bookmark,
    /// The sums differ.
    Digest,
    /// The last answer did not reach far enough.
    Again,
}

impl Cause {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Gap, Self::Link, Self::Bookmark, Self::Digest, Self::Again];

    /// The value of the label `cause`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Link => "link",
            Self::Bookmark => "bookmark",
            Self::Digest => "digest",
            Self::Again => "again",
        }
    }
}

/// What a watcher watches. Sessions that watch the same are one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selector {
    /// The providers that this consumer is interested in.
    Consumer(ServiceRef),
    /// These providers; never empty.
    Providers(BTreeSet<ServiceRef>),
}

impl Selector {
    /// The services it names.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        let (consumer, providers) = match self {
            Self::Consumer(consumer) => (Some(consumer), None),
            Self::Providers(providers) => (None, Some(providers)),
        };
        consumer.into_iter().chain(providers.into_iter().flatten())
    }

    /// Who is asked about: the consumer, or one of the providers, to learn the revision.
    fn consumer(&self) -> &ServiceRef {
        match self {
            Self::Consumer(consumer) => consumer,
            Self::Providers(providers) => providers.first().expect("a selector names at least one provider"),
        }
    }
}

/// Where a session that is being upgraded belongs.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Its shard.
    pub shard: ShardHandle,
    /// Its place there.
    pub ticket: Ticket,
}

/// Where a session that wants to begin hears whether it may.
pub(crate) type Admission = oneshot::Sender<Result<Joined, Full>>;

/// What the upstream is asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// A session begins: from now on nothing it should see is missed.
    Join {
        selector: Selector,
        encoding: Encoding,
        /// What the client has already; the rest is told first.
        since: Option<Revision>,
        done: Admission,
    },
}

/// What others may know of the upstream.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamHandle {
    // Full: who opens a watch waits.
    commands: mpsc::Sender<Command>,
    pushed: Arc<AtomicU64>,
    joined: watch::Receiver<bool>,
    open_timeout: Duration,
}

impl UpstreamHandle {
    /// Reserves a place for a session, and waits until its view has begun: what is committed after the return is
    /// told to the session, and with `since` also what was committed after that revision.
    ///
    /// # Errors
    /// `Some` when the node follows as many providers as it may; `None` when the control plane cannot be asked
    /// in time, or the gateway ends.
    pub(crate) async fn join(
        &self,
        selector: Selector,
        encoding: Encoding,
        since: Option<Revision>,
    ) -> Result<Joined, Option<Full>> {
        let joining = async {
            let (done, joined) = oneshot::channel();
            self.commands.send(Command::Join { selector, encoding, since, done }).await.ok()?;
            joined.await.ok()
        };
        let joined = tokio::time::timeout(self.open_timeout, joining).await.ok().flatten();
        joined.ok_or(None)?.map_err(Some)
    }

    /// The highest revision that any watcher was told of, or from which on one is.
    pub(crate) fn pushed(&self) -> Revision {
        self.pushed.load(Ordering::Relaxed)
    }

    /// Whether the bus is joined, and its changes.
    pub(crate) fn bus_joined(&self) -> watch::Receiver<bool> {
        self.joined.clone()
    }
}

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
    left: Vec<mpsc::Receiver<Left>>,
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
    resuming: HashMap<u64, Resuming>,
    next_resume: u64,
    next_bookmark: Instant,
    next_confirmation: Instant,
    replays: Arc<Semaphore>,
    pushed: Arc<AtomicU64>,
    joined: watch::Sender<bool>,
    generation: u64,
    heard: Instant,
    next_ticket: Ticket,
    comparing: bool,
    next_digest: Instant,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream on `bus` that feeds `shards`; `left` has each shard's news of sessions that are gone.
    pub(crate) fn new(
        config: UpstreamConfig,
        bus: Arc<dyn Bus>,
        shards: Vec<ShardHandle>,
        left: Vec<mpsc::Receiver<Left>>,
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
            next_resume: 0,
            next_bookmark: Instant::now(),
            next_confirmation: Instant::now(),
            replays: Arc::new(Semaphore::new(config.replays.max(1))),
            pushed,
            joined,
            generation: 0,
            heard: Instant::now(),
            next_ticket: 1,
            comparing: false,
            next_digest: Instant::now() + jittered(config.digest_interval),
            metrics,
            config,
        };
        (it, handle)
    }

    /// Runs until `stop`. Not cancel-safe: pushes would be lost.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut link = self.asker.bus.link();
        self.generation = link.borrow_and_update().generation;
        let asker = self.asker.clone();
        self.questions.spawn(async move { Done::Bookmarks(asker.subscribe(subject::BOOKMARK).await) });
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
                        self.on_done(done);
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        warn!(%error, "a question to the control plane broke off");
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
            }
        }
    }

    /// Takes the bookmarks that are there, so that those heard after an answer or a loss were sent after it.
    async fn take_bookmarks(&mut self) {
        while let Some(message) =
            tokio::task::unconstrained(next_of(&mut self.bookmarks)).now_or_never().flatten()
        {
            self.on_bookmark(&message).await;
        }
    }

    /// A bookmark counts after everything that came before it. One publisher's messages arrive in order, but in
    /// channels of their own, so what is ready in the others goes first.
    async fn on_bookmark(&mut self, message: &Message) {
        let bookmark = match pb::Bookmark::decode(message.payload.clone()) {
            Ok(bookmark) => bookmark,
            Err(error) => return self.malformed(&message.subject, &error),
        };
        self.on_messages(None).await;
        self.heard = Instant::now();
        let reached = |it: pb::Reached| Some((ServiceRef::from(it.service?), Position::from(it.at?)));
        let providers = bookmark.providers.into_iter().filter_map(reached);
        let consumers = bookmark.consumers.into_iter().filter_map(reached);
        let behind = self.core.on_reached(providers, consumers);
        if behind > 0 {
            info!(behind, "events that the publisher sent did not come; asking for them");
        }
        if self.core.on_bookmark(bookmark.rev, bookmark.since) {
            info!(revision = bookmark.rev, "the publisher is further than its last word; resynchronising");
        }
        let (rev, everyone) = (self.core.told(), self.heard >= self.next_bookmark);
        if rev == bookmark.rev && (everyone || self.heard >= self.next_confirmation) {
            self.next_confirmation = self.heard + self.config.bookmark_interval.min(CONFIRMATION);
            if everyone {
                self.next_bookmark = self.heard + self.config.bookmark_interval;
            }
            for shard in &self.shards {
                shard.send(ToShard::Bookmark { rev, everyone }).await;
            }
        }
    }

    fn on_link(&mut self, link: shared::bus::Link) {
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

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Interest(group, messages, interest) => {
                if let Some(messages) = messages {
                    let (stream, handle) = tagged(messages, Source::Interest(group));
                    if self.core.sessions(group).is_empty() {
                        return;
                    }
                    self.messages.push(stream);
                    self.interests.insert(group, handle);
                }
                // Before the first session of the group goes on: a pull that follows must know what the session
                // will not be told because it was there before.
                self.pushed.fetch_max(interest.rev, Ordering::Relaxed);
                self.core.on_interest(group, interest);
            }
            Done::Loaded(loaded) => {
                for (want, messages, replayed) in loaded {
                    if self.core.on_loaded(&want.provider, want.since, replayed) {
                        let (stream, handle) = tagged(messages, Source::Event);
                        self.messages.push(stream);
                        if let Some(old) = self.topics.insert(want.provider, handle) {
                            old.abort();
                        }
                    }
                }
            }
            Done::Replayed(replayed) => {
                for (want, replayed) in replayed {
                    let differences = self.core.on_replayed(&want.provider, want.since, replayed);
                    self.metrics.repaired(differences);
                }
            }
            Done::Resumed(id, replayed) => {
                if let Some(resuming) = self.resuming.get_mut(&id) {
                    resuming.asking = false;
                    resuming.known.extend(replayed.into_iter().map(|(want, it)| (want.provider, it)));
                }
            }
            Done::CaughtUp(group, want, replayed) => self.core.on_caught_up(group, &want.provider, replayed),
            Done::Bookmarks(messages) => {
                self.bookmarks = Some(messages);
                let connected = self.asker.bus.link().borrow().connected;
                self.joined.send_replace(connected);
                info!("joined the bus");
            }
            Done::Digest(Digests { entries, consumers }, answer) => {
                self.comparing = false;
                match answer {
                    Ok((differing, gone)) => {
                        let differing = differing.iter().filter_map(|n| entries.get(*n as usize).cloned());
                        self.core.on_differing(differing.collect());
                        for (group, _) in gone.iter().filter_map(|n| consumers.get(*n as usize)) {
                            self.core.on_consumer_gone(*group);
                        }
                    }
                    Err(error) => debug!(%error, "no replica compared its state with ours"),
                }
            }
        }
    }

    fn on_pace(&mut self) {
        let now = Instant::now();
        for (shard, left) in self.left.iter_mut().enumerate() {
            while let Ok(left) = left.try_recv() {
                self.core.left(shard, left, now);
            }
        }
        self.core.forget_empty(now);
        if now >= self.next_digest && !self.comparing {
            self.next_digest = now + jittered(self.config.digest_interval);
            self.compare();
        }
        let (topics, groups) = self.core.sizes();
        let depth = self.shards.iter().map(ShardHandle::depth).max().unwrap_or(0);
        self.metrics.stand(topics, groups, depth, self.pushed.load(Ordering::Relaxed), self.heard.elapsed());
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
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
        self.asker.seen.fetch_max(self.core.seen(), Ordering::Relaxed);
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
