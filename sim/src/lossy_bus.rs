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
use follow::message::{Bookmark, InterestChange};
use follow::reply::{InterestReply, TopicReplay, Want};
use follow::{Cause, Effect, GroupId, Push, Selector, Tracker};
use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Instance, Revision, ServiceKey, ServiceRef, Tenant};

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
    TopicsOpened(Vec<(Want, TopicReplay)>),
    Replay(Vec<(Want, TopicReplay)>),
    CaughtUp(GroupId, Want, TopicReplay),
}

enum Published {
    Event(InstanceEvent),
    Interest(InterestChange),
    Bookmark(Revision),
}

/// A subscription of the gateway, with the messages that it has not taken yet.
struct Subscription<T> {
    /// The gateway takes messages. It begins when the reply to the subscription's first request has arrived.
    is_read: bool,
    queue: VecDeque<T>,
}

impl<T> Subscription<T> {
    fn new() -> Self {
        Self { is_read: false, queue: VecDeque::new() }
    }
}

struct Sim {
    dice: Rng,
    tracker: Tracker,
    rev: Revision,
    /// Every change of each provider.
    chains: Vec<Vec<InstanceEvent>>,
    /// Every state of the consumer's interest, with the revision since which it holds.
    interests: Vec<(Revision, BTreeSet<ServiceRef>)>,
    /// Messages that have been published and not yet delivered.
    bus: VecDeque<Published>,
    /// The subscriptions to events, by provider.
    topics: BTreeMap<String, Subscription<InstanceEvent>>,
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

fn provider(number: usize) -> ServiceRef {
    ServiceRef::new(Tenant::default(), number.to_string())
}

fn consumer() -> ServiceRef {
    ServiceRef::new(Tenant::default(), "consumer")
}

fn number(provider: &ServiceRef) -> usize {
    provider.id.parse().expect("the id is a number")
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
            chains: vec![Vec::new(); PROVIDERS],
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
        let which = self.dice.usize(0..PROVIDERS);
        let id = format!("{which}-{}", self.dice.u8(0..2));
        let chain = &self.chains[which];
        let is_present = state(chain, Position::end_of(self.rev)).contains_key(&id);
        let action = match (is_present, self.dice.u8(0..3)) {
            (false, _) => Action::Create,
            (true, 0) => Action::Delete,
            (true, _) => Action::Update,
        };
        let event = InstanceEvent {
            provider: provider(which),
            at: Position::first_of(self.rev),
            prev: chain.last().map_or(Position::default(), |event| event.at),
            action,
            key: Arc::new(ServiceKey::default()),
            instance: Arc::new(Instance { instance_id: id, ..Instance::default() }),
            mod_rev: self.rev,
            committed_at: 1,
            via: Via::default(),
        };
        self.chains[which].push(event.clone());
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

    /// Takes all bookmarks. The gateway does so before a reply or a loss, so that no later bookmark is older
    /// than it.
    fn take_bookmarks(&mut self) {
        while !self.bookmarks.is_empty() {
            self.take_bookmark();
        }
    }

    /// Takes a bookmark, and everything that has arrived before it, as the gateway does.
    fn take_bookmark(&mut self) {
        let Some(rev) = self.bookmarks.pop_front() else { return };
        self.take_events(usize::MAX);
        while self.interest.as_ref().is_some_and(|interest| interest.is_read && !interest.queue.is_empty()) {
            self.take_interest();
        }
        // It names the last event of each provider, so that a loss before it shows.
        let mut providers = Vec::new();
        for (which, chain) in self.chains.iter().enumerate() {
            if let Some(last) = chain.iter().rfind(|event| event.at.rev <= rev) {
                providers.push((provider(which), last.at));
            }
        }
        // And the last change of the interest, for the same reason.
        let changed = self.interests.iter().skip(1).rfind(|(since, _)| *since <= rev);
        let consumers =
            changed.map(|(since, _)| (consumer(), Position::end_of(*since))).into_iter().collect();
        self.tracker.on_bookmark(Bookmark {
            rev,
            since: Revision::new(FIRST),
            providers,
            consumers,
            ..Bookmark::default()
        });
        self.act();
    }

    fn take_events(&mut self, most: usize) {
        for _ in 0..most {
            let ready = self.topics.values_mut().filter(|topic| topic.is_read && !topic.queue.is_empty());
            let mut ready: Vec<_> = ready.collect();
            if ready.is_empty() {
                return;
            }
            // Each subject has a channel of its own, so any of them may be read first.
            let pick = self.dice.usize(0..ready.len());
            let event = ready[pick].queue.pop_front().expect("the queue is not empty");
            self.tracker.on_event(event);
            self.act();
        }
    }

    /// Takes a change of the interest, after all events that have arrived, as the gateway does.
    fn take_interest(&mut self) {
        self.take_events(usize::MAX);
        if let Some(interest) = self.interest.as_mut().filter(|interest| interest.is_read)
            && let Some(change) = interest.queue.pop_front()
        {
            self.tracker.on_interest_change(self.group, change);
            self.act();
        }
    }

    fn act(&mut self) {
        for effect in self.tracker.take_effects() {
            let min_rev = self.tracker.seen();
            match effect {
                Effect::Deliver(push, groups) => {
                    assert_eq!(groups, [self.group], "there is only one group");
                    // Instances that come and go with the interest have no event. The model with finds judges
                    // those; no reply is a state here, so nothing else is a difference.
                    if !push.is_difference() {
                        self.delivered.push(push);
                    }
                }
                Effect::OpenInterest(group, _) => {
                    self.interest = Some(Subscription::new());
                    self.questions.push((min_rev, Question::Interest(group)));
                }
                Effect::RequestInterest(group, _) => {
                    self.questions.push((min_rev, Question::Interest(group)));
                }
                Effect::OpenTopics(wants) => {
                    for want in &wants {
                        self.topics.insert(want.provider.id.clone(), Subscription::new());
                    }
                    self.questions.push((min_rev, Question::OpenTopics(wants)));
                }
                Effect::RequestReplay(_, wants) => self.questions.push((min_rev, Question::Replay(wants))),
                Effect::CatchUp(group, want) => {
                    self.questions.push((min_rev, Question::CatchUp(group, want)));
                }
                Effect::CloseTopic(provider) => {
                    self.topics.remove(&provider.id);
                }
                Effect::CloseInterest(_) => self.interest = None,
                // Sessions may begin now. Nothing in this simulation waits for that.
                Effect::GroupOpened(_) => {}
                Effect::RefuseGroup(_) | Effect::EndGroup(_) => panic!("no group ends in this simulation"),
            }
        }
    }

    /// A replica answers a question as of some revision that is not older than the question allows.
    fn compute(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        // Any question may be answered next, so a later one can get the older state.
        let (min_rev, question) = self.questions.swap_remove(self.dice.usize(0..self.questions.len()));
        // A replica may lag behind the store, but never behind what the gateway had seen when it asked.
        let rev = Revision::new(self.dice.u64(min_rev.get().max(FIRST)..=self.rev.get()));
        let reply = match question {
            Question::Interest(group) => {
                let state = self.interests.iter().rev().find(|(since, _)| *since <= rev);
                let providers = state.map(|(_, providers)| providers.iter().cloned().collect());
                let providers = providers.unwrap_or_default();
                Reply::Interest(
                    group,
                    InterestReply { exists: true, rev, providers, ..InterestReply::default() },
                )
            }
            Question::OpenTopics(wants) => Reply::TopicsOpened(self.replays(wants, rev)),
            Question::Replay(wants) => Reply::Replay(self.replays(wants, rev)),
            Question::CatchUp(group, want) => {
                let replay = replay(&self.chains[number(&want.provider)], &want, rev);
                Reply::CaughtUp(group, want, replay)
            }
        };
        self.replies.push(reply);
    }

    fn replays(&self, wants: Vec<Want>, rev: Revision) -> Vec<(Want, TopicReplay)> {
        let mut replays = Vec::with_capacity(wants.len());
        for want in wants {
            let replay = replay(&self.chains[number(&want.provider)], &want, rev);
            replays.push((want, replay));
        }
        replays
    }

    fn receive(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        self.take_bookmarks();
        // Any of them may arrive first: replies of different replicas overtake each other.
        match self.replies.swap_remove(self.dice.usize(0..self.replies.len())) {
            Reply::Interest(group, interest) => {
                self.interest.as_mut().expect("the gateway has subscribed").is_read = true;
                self.opened.get_or_insert(interest.rev);
                self.tracker.on_interest(group, interest);
            }
            Reply::TopicsOpened(replays) => {
                for (want, replay) in replays {
                    if self.tracker.on_loaded(&want.provider, want.since, replay)
                        && let Some(topic) = self.topics.get_mut(&want.provider.id)
                    {
                        topic.is_read = true;
                    }
                }
            }
            Reply::Replay(replays) => {
                for (want, replay) in replays {
                    self.tracker.on_replay(&want.provider, want.since, replay);
                }
            }
            Reply::CaughtUp(group, want, replay) => {
                self.tracker.on_caught_up(group, &want.provider, replay);
            }
        }
        self.act();
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
        for (which, chain) in self.chains.iter().enumerate() {
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

/// The instances after the changes up to `at`, each with the revision that wrote it.
fn state(chain: &[InstanceEvent], at: Position) -> BTreeMap<String, (Arc<Instance>, Revision)> {
    let mut state = BTreeMap::new();
    for event in chain.iter().take_while(|event| event.at <= at) {
        let id = event.instance.instance_id.clone();
        match event.action {
            Action::Delete => _ = state.remove(&id),
            Action::Create | Action::Update => _ = state.insert(id, (event.instance.clone(), event.mod_rev)),
        }
    }
    state
}

/// The reply of a replica at `rev`: every event since, and the state if it was requested.
fn replay(chain: &[InstanceEvent], want: &Want, rev: Revision) -> TopicReplay {
    let at = Position::end_of(rev);
    TopicReplay {
        key: Some(Arc::new(ServiceKey::default())),
        continuous: true,
        events: chain.iter().filter(|event| event.at > want.since && event.at <= at).cloned().collect(),
        snapshot: want.snapshot.then(|| state(chain, at).into_values().collect()),
        at,
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
