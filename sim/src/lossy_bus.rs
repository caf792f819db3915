//! A bounded model check of gaps, replays and resynchronisation: the real tracker, against a bus that loses
//! messages and replicas that reply late.
//!
//! One move happens at a time: something is committed, a message arrives or is lost, a replica makes a reply
//! (of a revision that need not be the newest), a reply arrives. Some time after a loss the link's generation
//! rises, as the bus promises. When everything has come to rest, the group must have received each change of
//! its providers since they came into its interest: in order, once, without a gap.
//!
//! The order in which messages are taken from the subscriptions is decided by dice. The gateway sorts what
//! arrives together, so the simulation is stricter than production.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use follow::message::InterestChange;
use follow::reply::{InterestReply, TopicReplay, Want};
use follow::{Cause, GroupId, Push, Selector, Tracker};
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef, Tenant};

use crate::chain::{Chains, Replays, provider};
use crate::subscription::{Subscription, Topics};

mod gateway;

/// The number of moves before everything comes to rest.
const MOVES: usize = 120;
const PROVIDERS: usize = 2;
/// The revision of the registry when the gateway begins.
const FIRST: u64 = 10;

/// A request that no replica has answered yet.
enum Question {
    Interest(GroupId),
    OpenTopics(Vec<Want>),
    Replay(Vec<Want>),
    CatchUp(GroupId, Want),
}

/// A reply that has been made and is on its way.
enum Reply {
    Interest(GroupId, InterestReply),
    TopicsOpened(Replays),
    Replay(Replays),
    CaughtUp(GroupId, Want, TopicReplay),
}

enum Published {
    Event(InstanceEvent),
    Interest(InterestChange),
    Bookmark(Revision),
}

struct Sim {
    dice: Rng,
    tracker: Tracker,
    rev: Revision,
    /// Every change of each provider.
    chains: Chains,
    /// Every state of the consumer's interest, with the revision since which it holds.
    interests: Vec<(Revision, BTreeSet<ServiceRef>)>,
    /// Messages that have been published and not yet delivered.
    bus: VecDeque<Published>,
    /// The subscriptions to events, by provider.
    topics: Topics,
    interest: Option<Subscription<InterestChange>>,
    bookmarks: VecDeque<Revision>,
    /// Each question with the revision that a replica must have reached to answer it.
    questions: Vec<(Revision, Question)>,
    replies: Vec<Reply>,
    /// A message was lost, and the generation of the link has not risen yet.
    lost: bool,
    group: GroupId,
    /// The revision of the first reply about the interest.
    opened: Option<Revision>,
    delivered: Vec<Arc<Push>>,
}

fn consumer() -> ServiceRef {
    ServiceRef::new(Tenant::default(), "consumer")
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut tracker = Tracker::new(1);
        let selector = Selector::Consumer(consumer());
        let (group, _) = tracker.join(&selector);
        Self {
            dice: Rng::with_seed(seed),
            tracker,
            rev: Revision::new(FIRST),
            chains: Chains::new(PROVIDERS),
            interests: vec![(Revision::new(FIRST), (0..PROVIDERS).map(provider).collect())],
            bus: VecDeque::new(),
            topics: BTreeMap::new(),
            interest: None,
            bookmarks: VecDeque::new(),
            questions: Vec::new(),
            replies: Vec::new(),
            lost: false,
            group,
            opened: None,
            delivered: Vec::new(),
        }
    }

    fn commit(&mut self) {
        self.rev = self.rev.next();
        let event = self.chains.change(self.rev, &mut self.dice);
        self.bus.push_back(Published::Event(event));
    }

    /// The present interest.
    fn providers(&self) -> BTreeSet<ServiceRef> {
        self.interests.last().expect("there is a first interest").1.clone()
    }

    /// The last provider leaves the interest.
    fn narrow(&mut self) {
        let mut providers = self.providers();
        let removed = provider(PROVIDERS - 1);
        if providers.remove(&removed) {
            self.rev = self.rev.next();
            self.interests.push((self.rev, providers));
            self.announce(InterestChange { removed: vec![removed], ..InterestChange::default() });
        }
    }

    /// A provider comes into the interest.
    fn widen(&mut self) {
        let mut providers = self.providers();
        let missing = (0..PROVIDERS).map(provider).find(|provider| !providers.contains(provider));
        let Some(added) = missing else { return };
        self.rev = self.rev.next();
        providers.insert(added.clone());
        self.interests.push((self.rev, providers));
        self.announce(InterestChange { added: vec![added], ..InterestChange::default() });
    }

    /// Publishes the newest change of the interest.
    fn announce(&mut self, change: InterestChange) {
        let before = self.interests.iter().rev().nth(1).map_or(Revision::new(FIRST), |(rev, _)| *rev);
        let at = Position::end_of(self.rev);
        let prev = Position::end_of(before);
        self.bus.push_back(Published::Interest(InterestChange { at, prev, ..change }));
    }

    /// The bus delivers the oldest message to the subscriptions that exist by now, or loses it.
    fn deliver(&mut self, lose: bool) {
        let Some(message) = self.bus.pop_front() else { return };
        match message {
            Published::Event(event) => {
                if let Some(subscription) = self.topics.get_mut(&event.provider.id) {
                    if lose {
                        self.lost = true;
                    } else {
                        subscription.queue.push_back(event);
                    }
                }
            }
            Published::Interest(change) => {
                if let Some(subscription) = &mut self.interest {
                    if lose {
                        self.lost = true;
                    } else {
                        subscription.queue.push_back(change);
                    }
                }
            }
            Published::Bookmark(rev) if !lose => self.bookmarks.push_back(rev),
            Published::Bookmark(_) => self.lost = true,
        }
    }

    /// The generation of the link rises after a loss.
    fn raise(&mut self) {
        if std::mem::take(&mut self.lost) {
            // A bookmark from before the loss must not confirm the time after it.
            self.take_bookmarks();
            self.tracker.resync(Cause::Link);
            self.act();
        }
    }

    fn step(&mut self) {
        match self.dice.u8(0..19) {
            18 => self.narrow(),
            16 => self.bus.push_back(Published::Bookmark(self.rev)),
            17 => self.take_bookmark(),
            0..4 => self.commit(),
            4 => self.widen(),
            5..8 => self.deliver(false),
            8 => self.deliver(true),
            9..11 => self.take_events(1),
            11 => self.take_interest(),
            12..14 => self.compute(),
            14 => self.receive(),
            _ => self.raise(),
        }
    }

    /// Nothing is lost any more, and all moves are made until nothing is left to do.
    fn rest(&mut self) {
        for round in 0..10_000 {
            // The publisher goes on sending bookmarks.
            if round % 100 == 0 && round <= 500 {
                self.bus.push_back(Published::Bookmark(self.rev));
            }
            while !self.bus.is_empty() {
                self.deliver(false);
            }
            self.take_events(usize::MAX);
            self.take_interest();
            self.take_bookmark();
            self.raise();
            self.compute();
            self.receive();
            let has_messages = self.topics.values().any(|topic| !topic.queue.is_empty())
                || self.interest.as_ref().is_some_and(|interest| !interest.queue.is_empty());
            let has_requests = !self.questions.is_empty() || !self.replies.is_empty();
            // The last bookmark comes in round 500, and verification needs it.
            if round > 500 && !has_requests && !has_messages && !self.lost {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Judges that each provider's changes were delivered in order and once, and every one since the provider
    /// came into the interest for good.
    fn judge(&self, since: &BTreeMap<String, Revision>) -> Result<(), String> {
        for (which, chain) in self.chains.iter() {
            if !self.tracker.is_live(&provider(which)) {
                return Err(format!("provider {which} is not followed"));
            }
            let prefix = format!("{which}-");
            let pushes = self.delivered.iter().filter(|push| push.instance.instance_id.starts_with(&prefix));
            let delivered: Vec<Revision> = pushes.map(|push| push.at.rev).collect();
            let since = since.get(&which.to_string()).copied().unwrap_or(Revision::MAX);
            let due: Vec<Revision> =
                chain.iter().map(|event| event.at.rev).filter(|rev| *rev > since).collect();
            if !delivered.is_sorted_by(|a, b| a < b) || !delivered.ends_with(&due) {
                return Err(format!("provider {which}: delivered {delivered:?}, due {due:?}"));
            }
        }
        Ok(())
    }
}

/// Runs a seed.
///
/// # Errors
/// A description of what was delivered wrongly.
pub fn explore(seed: u64) -> Result<(), String> {
    let mut sim = Sim::new(seed);
    if sim.dice.bool() {
        // One provider comes into the interest later.
        sim.interests[0].1.remove(&provider(PROVIDERS - 1));
    }
    sim.act();
    for _ in 0..MOVES {
        sim.step();
    }
    sim.widen();
    sim.rest();
    // Each provider counts from when it came into the interest, and not before the group itself began.
    let mut begins: BTreeMap<String, Revision> = BTreeMap::new();
    let mut before = BTreeSet::new();
    for (rev, providers) in &sim.interests {
        begins.extend(providers.difference(&before).map(|provider| (provider.id.clone(), *rev)));
        before.clone_from(providers);
    }
    let opened = sim.opened.expect("everything is at rest, so the interest was answered");
    let begins = begins.into_iter().map(|(id, rev)| (id, rev.max(opened))).collect();
    sim.judge(&begins).map_err(|error| format!("seed {seed}: {error}"))
}
