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
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures_util::{Stream as _, StreamExt as _};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::bus::{Bus, Message, Messages};
use shared::event::InstanceEvent;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::hub::push::{Encoding, Push};
use crate::hub::{GroupId, Left, ShardHandle, Ticket, ToShard};
use crate::metrics::UpstreamMetrics;
use crate::session::close::Reason;

mod core;
mod requests;
mod topic;

use core::{Core, Digests, Effect, Interest, InterestChange, Preface, Want};
use requests::{AskError, Asker};
use topic::{Fate, Replayed};

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

/// What the upstream is asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// A session begins: from now on nothing it should see is missed.
    Join {
        selector: Selector,
        encoding: Encoding,
        /// What the client has already; the rest is told first.
        since: Option<Revision>,
        done: oneshot::Sender<Joined>,
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
    /// told to the session, and with `since` also what was committed after that revision. `None` when the control plane cannot be asked in time, or the gateway ends.
    pub(crate) async fn join(
        &self,
        selector: Selector,
        encoding: Encoding,
        since: Option<Revision>,
    ) -> Option<Joined> {
        let joining = async {
            let (done, joined) = oneshot::channel();
            self.commands.send(Command::Join { selector, encoding, since, done }).await.ok()?;
            joined.await.ok()
        };
        tokio::time::timeout(self.open_timeout, joining).await.ok().flatten()
    }

    /// The highest revision that any watcher was told of.
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
/// Messages that are taken together.
const BATCH: usize = 1024;
/// Subscriptions made at once for one consumer.
const SUBSCRIBING: usize = 32;
/// The task's own pace for what is not urgent.
const PACE: Duration = Duration::from_secs(1);
/// Bytes that a name in a digest request takes at most, generously.
const DIGEST_ENTRY_BYTES: usize = 256;

/// A session whose place is to be reserved.
struct Joining {
    group: GroupId,
    shard: usize,
    encoding: Encoding,
    done: oneshot::Sender<Joined>,
}

/// A session that must be told what it missed before.
struct Resuming {
    joining: Joining,
    since: Revision,
    asking: bool,
    known: HashMap<ServiceRef, Replayed>,
}

/// What came out of a question.
enum Done {
    Interest(GroupId, Option<Messages>, Interest),
    Loaded(Vec<(Want, Messages, Replayed)>),
    Replayed(Vec<(Want, Replayed)>),
    CaughtUp(GroupId, Want, Replayed),
    Resumed(u64, Vec<(Want, Replayed)>),
    Bookmarks(Messages),
    Digest(Digests, Result<(Vec<u32>, Vec<u32>), AskError>),
}

/// Where a message of the bus came from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Event,
    Interest(GroupId),
}

/// A message of the bus that was understood.
enum Heard {
    Interest(GroupId, InterestChange),
    Event(InstanceEvent),
}

/// The task's state.
pub(crate) struct Upstream {
    config: UpstreamConfig,
    core: Core,
    asker: Asker,
    shards: Vec<ShardHandle>,
    commands: mpsc::Receiver<Command>,
    left: Vec<mpsc::Receiver<Left>>,
    messages: SelectAll<BoxStream<'static, (Source, Message)>>,
    bookmarks: Option<Messages>,
    topics: HashMap<ServiceRef, AbortHandle>,
    interests: HashMap<GroupId, AbortHandle>,
    questions: JoinSet<Done>,
    /// Who waits for a group's view to begin. Bounded by the connections that are being upgraded.
    opening: HashMap<GroupId, Vec<(oneshot::Sender<Joined>, Joined)>>,
    /// Sessions that resume. Bounded by the connections that are being upgraded.
    resuming: HashMap<u64, Resuming>,
    next_resume: u64,
    next_bookmark: Instant,
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
            messages: SelectAll::new(),
            bookmarks: None,
            topics: HashMap::new(),
            interests: HashMap::new(),
            questions: JoinSet::new(),
            opening: HashMap::new(),
            resuming: HashMap::new(),
            next_resume: 0,
            next_bookmark: Instant::now(),
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
                    Ok(done) => self.on_done(done),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        warn!(%error, "a question to the control plane broke off");
                        self.core.resync(Cause::Again);
                    }
                },
                Ok(()) = link.changed() => {
                    let now = *link.borrow_and_update();
                    self.on_link(now);
                }
                _ = pace.tick() => self.on_pace(),
            }
            self.act().await;
            if !self.resuming.is_empty() {
                self.resume().await;
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Join { selector, encoding, since, done } => {
                let (group, shard) = self.core.join(&selector);
                match since {
                    None => self.reserve(Joining { group, shard, encoding, done }, Vec::new()).await,
                    Some(since) => {
                        self.next_resume += 1;
                        let joining = Joining { group, shard, encoding, done };
                        let resuming = Resuming { joining, since, asking: false, known: HashMap::new() };
                        self.resuming.insert(self.next_resume, resuming);
                    }
                }
            }
        }
    }

    /// Reserves the place of a session. In the shard's queue this comes before any later push: that is what makes
    /// the session's view begin now.
    async fn reserve(&mut self, joining: Joining, preface: Vec<u8>) {
        let Joining { group, shard, encoding, done } = joining;
        let Some(shard) = self.shards.get(shard).cloned() else { return };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if !shard.send(ToShard::Reserve { ticket, group, encoding, preface }).await {
            return;
        }
        let gone = !self.core.has(group);
        if gone {
            // It ended while this session was waiting: tell it like the others.
            shard.send(ToShard::End { group, reason: Reason::NoService }).await;
        }
        let joined = Joined { shard, ticket };
        if gone || self.core.is_open(group) {
            // When nobody waits any more the shard lets the place go after a while.
            let _ = done.send(joined);
        } else {
            self.opening.entry(group).or_default().push((done, joined));
        }
    }

    /// Lets those go on who resume from a revision and whose groups have arrived at one.
    async fn resume(&mut self) {
        let ready: Vec<u64> = self.resuming.keys().copied().collect();
        for id in ready {
            let Some(it) = self.resuming.get_mut(&id) else { continue };
            let (group, encoding) = (it.joining.group, it.joining.encoding);
            if it.joining.done.is_closed() {
                let left = Left { group, sessions: 1 };
                let shard = it.joining.shard;
                self.resuming.remove(&id);
                self.core.left(shard, left, Instant::now());
                continue;
            }
            let preface = match self.core.preface(group, it.since, &it.known) {
                None if !self.core.has(group) => Vec::new(),
                None => continue,
                Some(Ok(preface)) => encode(encoding, &preface),
                Some(Err(_)) if it.asking => continue,
                Some(Err(wants)) => {
                    it.asking = true;
                    let asker = self.asker.clone();
                    self.ask(async move {
                        let replayed = asker.replay(&wants).await;
                        Done::Resumed(id, wants.into_iter().zip(replayed).collect())
                    });
                    continue;
                }
            };
            if let Some(it) = self.resuming.remove(&id) {
                self.reserve(it.joining, preface).await;
            }
        }
    }

    /// Takes what has come together, in the order of revisions: subjects have channels of their own, so it comes
    /// in any. A change of interest counts after all events that were published before it: the deletes of a
    /// provider's instances come before the news that the provider is gone.
    async fn on_messages(&mut self, first: Option<(Source, Message)>) {
        let mut messages: Vec<_> = first.into_iter().collect();
        let mut interests = Vec::new();
        loop {
            drain(&mut self.messages, BATCH, &mut messages).await;
            let more = messages.len() >= BATCH;
            let mut events = Vec::new();
            for (source, message) in messages.drain(..) {
                match self.understand(source, &message) {
                    Some(Heard::Event(event)) => events.push(event),
                    Some(Heard::Interest(group, change)) => interests.push((group, change)),
                    None => {}
                }
            }
            events.sort_by_key(|event| event.at);
            for event in events {
                let fate = self.core.on_event(event);
                self.metrics.event(fate.map_or("unwatched", fate_label), 1);
            }
            self.act().await;
            if !more {
                break;
            }
        }
        interests.sort_by_key(|(_, change)| change.rev);
        for (group, change) in interests {
            self.core.on_interest_change(group, change);
        }
        self.act().await;
    }

    fn understand(&self, source: Source, message: &Message) -> Option<Heard> {
        match source {
            Source::Event => match InstanceEvent::decode(&message.payload) {
                Ok(event) => return Some(Heard::Event(event)),
                Err(error) => self.malformed(&message.subject, &error),
            },
            Source::Interest(group) => match pb::InterestChange::decode(message.payload.clone()) {
                Ok(change) => {
                    let change = InterestChange {
                        rev: change.rev,
                        added: change.added.into_iter().map(Into::into).collect(),
                        removed: change.removed.into_iter().map(Into::into).collect(),
                        deleted: change.consumer_deleted,
                    };
                    return Some(Heard::Interest(group, change));
                }
                Err(error) => self.malformed(&message.subject, &error),
            },
        }
        None
    }

    fn malformed(&self, subject: &str, error: &dyn std::fmt::Display) {
        self.metrics.malformed();
        debug!(subject, %error, "a message of the bus cannot be understood");
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
        if self.core.on_bookmark(bookmark.rev, bookmark.since) {
            info!(revision = bookmark.rev, "the publisher is further than its last word; resynchronising");
        }
        if self.heard >= self.next_bookmark && self.core.is_settled() {
            self.next_bookmark = self.heard + self.config.bookmark_interval;
            for shard in &self.shards {
                shard.send(ToShard::Bookmark { rev: bookmark.rev }).await;
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

    async fn carry_out(&mut self, effect: Effect) {
        let asker = self.asker.clone();
        match effect {
            Effect::Append(push, groups) => self.append(push, groups).await,
            Effect::End(group, reason) => {
                for shard in &self.shards {
                    shard.send(ToShard::End { group, reason }).await;
                }
            }
            Effect::OpenInterest(group, consumer) => {
                self.ask(async move {
                    let messages = asker.subscribe(&subject::interest(&consumer)).await;
                    let interest = asker.interest(&consumer).await;
                    Done::Interest(group, Some(messages), interest)
                });
            }
            Effect::AskInterest(group, consumer) => {
                let jitter = self.config.resync_jitter;
                self.ask(async move {
                    tokio::time::sleep(jitter.mul_f64(fastrand::f64())).await;
                    Done::Interest(group, None, asker.interest(&consumer).await)
                });
            }
            Effect::Opened(group) => {
                for (done, joined) in self.opening.remove(&group).into_iter().flatten() {
                    let _ = done.send(joined);
                }
            }
            Effect::CloseInterest(group) => {
                if let Some(handle) = self.interests.remove(&group) {
                    handle.abort();
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
                    Cause::Link | Cause::Bookmark | Cause::Digest | Cause::Again => self.config.resync_jitter,
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
        for (number, shard) in self.shards.iter().enumerate() {
            let has_sessions =
                |group: &&GroupId| self.core.sessions(**group).get(number).is_some_and(|n| *n > 0);
            let groups: Vec<GroupId> = groups.iter().filter(has_sessions).copied().collect();
            if !groups.is_empty() {
                shard.send(ToShard::Append { push: push.clone(), groups }).await;
            }
        }
    }

    fn ask(&mut self, question: impl Future<Output = Done> + Send + 'static) {
        self.questions.spawn(question);
    }
}

fn fate_label(fate: Fate) -> &'static str {
    match fate {
        Fate::Applied => "applied",
        Fate::Duplicate => "duplicate",
        Fate::Gap => "gap",
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.75 + fastrand::f64() / 2.0)
}

fn batches(mut wants: Vec<Want>, size: usize) -> Vec<Vec<Want>> {
    let mut batches = Vec::new();
    while wants.len() > size.max(1) {
        batches.push(wants.split_off(wants.len() - size.max(1)));
    }
    batches.push(wants);
    batches
}

fn tagged(messages: Messages, source: Source) -> (BoxStream<'static, (Source, Message)>, AbortHandle) {
    let (handle, registration) = AbortHandle::new_pair();
    (Abortable::new(messages.map(move |message| (source, message)), registration).boxed(), handle)
}

async fn next_of(messages: &mut Option<Messages>) -> Option<Message> {
    match messages {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}

/// Everything that is ready now, without waiting, up to `most`.
///
/// A poll that is pending does not prove that nothing is ready: the set yields after a while to be fair, and
/// says so by waking at once. So it is polled until it is pending without having woken.
async fn drain(
    messages: &mut SelectAll<BoxStream<'static, (Source, Message)>>,
    most: usize,
    ready: &mut Vec<(Source, Message)>,
) {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    // Outside the task's budget, which would also make ready streams look pending.
    tokio::task::unconstrained(std::future::poll_fn(|_| {
        while ready.len() < most {
            match Pin::new(&mut *messages).poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(message)) => ready.push(message),
                Poll::Ready(None) => break,
                Poll::Pending if woken.0.swap(false, Ordering::AcqRel) => {}
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }))
    .await;
}

/// The frames of a preface, for a transport that knows states and bookmarks.
fn encode(encoding: Encoding, preface: &Preface) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, instances) in &preface.states {
        bytes.extend_from_slice(&encoding.reset(key, instances, preface.rev).unwrap_or_default());
    }
    for push in &preface.events {
        bytes.extend_from_slice(push.frame(encoding));
    }
    bytes
}
