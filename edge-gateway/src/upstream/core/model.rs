//! A bounded model check: the whole gap, replay and resync logic against a bus that loses and replicas that
//! answer late, explored from seeds at small scope. What a seed does is deterministic.
//!
//! One move at a time: something is committed, a message arrives or is lost, a replica computes an answer (as of
//! a revision that need not be the newest), an answer arrives. A loss is followed by a raised generation, some
//! time later, as the bus promises. When everything has come to rest, every group must have been told of each
//! change of its providers since its interest: in order, once, without a hole.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use fastrand::Rng;
use shared::event::{Action, InstanceEvent, Via};
use shared::model::{Instance, ServiceKey, Tenant};

use super::*;
use crate::upstream::topic::Replayed;

/// Seeds that are explored, and moves of each.
const SEEDS: u64 = 3000;
const MOVES: usize = 120;
const PROVIDERS: usize = 2;
/// The revision at which the registry is first seen.
const FIRST: Revision = 10;

enum Question {
    Interest { group: GroupId, open: bool },
    Topics { wants: Vec<Want>, open: bool },
    CatchUp { group: GroupId, want: Want },
}

/// A question whose answer has been computed and is on its way.
enum Answer {
    Interest(GroupId, Interest),
    Loaded(Vec<(Want, Replayed)>),
    Replayed(Vec<(Want, Replayed)>),
    CaughtUp(GroupId, Want, Replayed),
}

enum News {
    Event(InstanceEvent),
    Interest(InterestChange),
    Bookmark(Revision),
}

struct Sim {
    dice: Rng,
    core: Core,
    rev: Revision,
    /// Every change of each provider.
    chains: Vec<Vec<InstanceEvent>>,
    /// The consumer's providers, since which revision each state of it holds.
    interests: Vec<(Revision, BTreeSet<ServiceRef>)>,
    /// What the publisher has sent and the server not yet delivered.
    bus: VecDeque<News>,
    /// What waits in the subscriptions: of topics, by provider, with whether the core takes it in yet.
    topics: BTreeMap<String, (bool, VecDeque<InstanceEvent>)>,
    interest: Option<(bool, VecDeque<InterestChange>)>,
    bookmarks: VecDeque<Revision>,
    questions: Vec<(Revision, Question)>,
    answers: Vec<Answer>,
    /// Something was lost and the generation is yet to be raised.
    lost: bool,
    group: GroupId,
    /// The revision of the first answer about the interest.
    opened: Option<Revision>,
    told: Vec<Arc<Push>>,
}

fn provider(number: usize) -> ServiceRef {
    ServiceRef::new(Tenant::default(), number.to_string())
}

fn number(provider: &ServiceRef) -> usize {
    provider.id.parse().expect("a number")
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut core = Core::new(1);
        let selector = Selector::Consumer(ServiceRef::new(Tenant::default(), "consumer"));
        let (group, _) = core.join(&selector);
        Self {
            dice: Rng::with_seed(seed),
            core,
            rev: FIRST,
            chains: vec![Vec::new(); PROVIDERS],
            interests: vec![(FIRST, (0..PROVIDERS).map(provider).collect())],
            bus: VecDeque::new(),
            topics: BTreeMap::new(),
            interest: None,
            bookmarks: VecDeque::new(),
            questions: Vec::new(),
            answers: Vec::new(),
            lost: false,
            group,
            opened: None,
            told: Vec::new(),
        }
    }

    fn commit(&mut self) {
        self.rev += 1;
        let which = self.dice.usize(0..PROVIDERS);
        let id = format!("{which}-{}", self.dice.u8(0..2));
        let chain = &self.chains[which];
        let there = state(chain, Position::end_of(self.rev)).contains_key(&id);
        let action = match (there, self.dice.u8(0..3)) {
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
        self.bus.push_back(News::Event(event));
    }

    /// The last provider leaves the interest.
    fn narrow(&mut self) {
        let (_, mut next) = self.interests.last().expect("there is a first").clone();
        let removed = provider(PROVIDERS - 1);
        if next.remove(&removed) {
            self.rev += 1;
            self.interests.push((self.rev, next));
            self.announce(InterestChange { removed: vec![removed], ..InterestChange::default() });
        }
    }

    /// A provider joins the interest.
    fn widen(&mut self) {
        let (_, now) = self.interests.last().expect("there is a first").clone();
        let Some(added) = (0..PROVIDERS).map(provider).find(|it| !now.contains(it)) else { return };
        self.rev += 1;
        let mut next = now;
        next.insert(added.clone());
        self.interests.push((self.rev, next));
        self.announce(InterestChange { added: vec![added], ..InterestChange::default() });
    }

    /// Sends the newest change of the interest.
    fn announce(&mut self, change: InterestChange) {
        let before = self.interests.iter().rev().nth(1).map_or(FIRST, |(rev, _)| *rev);
        let (at, prev) = (Position::end_of(self.rev), Position::end_of(before));
        self.bus.push_back(News::Interest(InterestChange { at, prev, ..change }));
    }

    /// The server delivers the oldest message to who has subscribed by now; or loses it.
    fn deliver(&mut self, lose: bool) {
        let Some(news) = self.bus.pop_front() else { return };
        match news {
            News::Event(event) => {
                if let Some((_, queue)) = self.topics.get_mut(&event.provider.id) {
                    if lose { self.lost = true } else { queue.push_back(event) }
                }
            }
            News::Interest(change) => {
                if let Some((_, queue)) = &mut self.interest {
                    if lose { self.lost = true } else { queue.push_back(change) }
                }
            }
            News::Bookmark(rev) if !lose => self.bookmarks.push_back(rev),
            News::Bookmark(_) => self.lost = true,
        }
    }

    /// As the upstream does before it takes in an answer or a loss: no bookmark heard later is older than it.
    fn take_bookmarks(&mut self) {
        while !self.bookmarks.is_empty() {
            self.take_bookmark();
        }
    }

    fn take_bookmark(&mut self) {
        let Some(rev) = self.bookmarks.pop_front() else { return };
        // As the upstream does: whatever is there goes first.
        self.take_events(usize::MAX);
        while matches!(&self.interest, Some((true, queue)) if !queue.is_empty()) {
            self.take_interest();
        }
        // It names whom it covers, so that what was lost before it shows.
        let upto =
            |chain: &Vec<InstanceEvent>| chain.iter().rfind(|event| event.at.rev <= rev).map(|it| it.at);
        let reached: Vec<_> =
            (0..).zip(&self.chains).filter_map(|(which, it)| Some((provider(which), upto(it)?))).collect();
        self.core.on_reached(reached.into_iter(), std::iter::empty(), std::iter::empty());
        self.core.on_bookmark(rev, FIRST);
        self.act();
    }

    fn take_events(&mut self, most: usize) {
        for _ in 0..most {
            let ready = self.topics.values_mut().filter(|(open, queue)| *open && !queue.is_empty());
            let mut ready: Vec<_> = ready.collect();
            if ready.is_empty() {
                return;
            }
            let pick = self.dice.usize(0..ready.len());
            let event = ready[pick].1.pop_front().expect("not empty");
            self.core.on_event(event);
            self.act();
        }
    }

    fn take_interest(&mut self) {
        // As the upstream does: events that are there go first.
        self.take_events(usize::MAX);
        if let Some((true, queue)) = &mut self.interest
            && let Some(change) = queue.pop_front()
        {
            self.core.on_interest_change(self.group, change);
            self.act();
        }
    }

    fn act(&mut self) {
        for effect in self.core.take_effects() {
            let asked = self.core.seen();
            match effect {
                Effect::Append(push, groups) => {
                    assert_eq!(groups, [self.group]);
                    self.told.push(push);
                }
                Effect::OpenInterest(group, _) => {
                    self.interest = Some((false, VecDeque::new()));
                    self.questions.push((asked, Question::Interest { group, open: true }));
                }
                Effect::AskInterest(group, _) => {
                    self.questions.push((asked, Question::Interest { group, open: false }));
                }
                Effect::OpenTopics(wants) => {
                    for want in &wants {
                        self.topics.insert(want.provider.id.clone(), (false, VecDeque::new()));
                    }
                    self.questions.push((asked, Question::Topics { wants, open: true }));
                }
                Effect::Replay(_, wants) => {
                    self.questions.push((asked, Question::Topics { wants, open: false }));
                }
                Effect::CatchUp(group, want) => {
                    self.questions.push((asked, Question::CatchUp { group, want }));
                }
                Effect::CloseTopic(provider) => _ = self.topics.remove(&provider.id),
                Effect::CloseInterest(_) => self.interest = None,
                // Who joined may be told now; the model asks for nothing that depends on it.
                Effect::Opened(_) => {}
                Effect::Refused(..) | Effect::End(..) => panic!("nothing ends here"),
            }
        }
    }

    /// A replica answers a question as of some revision that is not older than the question allows.
    fn compute(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let (asked, question) = self.questions.swap_remove(self.dice.usize(0..self.questions.len()));
        let rev = self.dice.u64(asked.max(FIRST)..=self.rev);
        let replay = |wants: Vec<Want>, chains: &[Vec<InstanceEvent>]| {
            let answer = |want: Want| {
                let replayed = replay(&chains[number(&want.provider)], &want, rev);
                (want, replayed)
            };
            wants.into_iter().map(answer).collect::<Vec<_>>()
        };
        self.answers.push(match question {
            Question::Interest { group, open } => {
                // The first question follows the subscription.
                _ = open;
                let now = self.interests.iter().rev().find(|(since, _)| *since <= rev);
                let providers = now.map(|(_, it)| it.iter().cloned().collect()).unwrap_or_default();
                Answer::Interest(group, Interest { exists: true, rev, providers })
            }
            Question::Topics { wants, open: true } => Answer::Loaded(replay(wants, &self.chains)),
            Question::Topics { wants, open: false } => Answer::Replayed(replay(wants, &self.chains)),
            Question::CatchUp { group, want } => {
                let replayed = replay(vec![want.clone()], &self.chains).remove(0).1;
                Answer::CaughtUp(group, want, replayed)
            }
        });
    }

    fn receive(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        self.take_bookmarks();
        match self.answers.swap_remove(self.dice.usize(0..self.answers.len())) {
            Answer::Interest(group, interest) => {
                self.interest.as_mut().expect("subscribed").0 = true;
                self.opened.get_or_insert(interest.rev);
                self.core.on_interest(group, interest);
            }
            Answer::Loaded(loaded) => {
                for (want, replayed) in loaded {
                    if self.core.on_loaded(&want.provider, want.since, replayed)
                        && let Some((open, _)) = self.topics.get_mut(&want.provider.id)
                    {
                        *open = true;
                    }
                }
            }
            Answer::Replayed(all) => {
                for (want, replayed) in all {
                    self.core.on_replayed(&want.provider, want.since, replayed);
                }
            }
            Answer::CaughtUp(group, want, replayed) => {
                self.core.on_caught_up(group, &want.provider, replayed);
            }
        }
        self.act();
    }

    fn raise(&mut self) {
        if std::mem::take(&mut self.lost) {
            self.take_bookmarks();
            self.core.resync(Cause::Link);
            self.act();
        }
    }

    fn step(&mut self) {
        match self.dice.u8(0..19) {
            18 => self.narrow(),
            16 => self.bus.push_back(News::Bookmark(self.rev)),
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

    /// No more losses; until nothing is left to be done.
    fn rest(&mut self) {
        for round in 0..10_000 {
            // The publisher goes on saying how far it is.
            if round % 100 == 0 && round <= 500 {
                self.bus.push_back(News::Bookmark(self.rev));
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
            let waiting = self.topics.values().any(|(_, queue)| !queue.is_empty())
                || self.interest.as_ref().is_some_and(|(_, queue)| !queue.is_empty());
            if round > 500 && self.questions.is_empty() && self.answers.is_empty() && !waiting && !self.lost {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Told of each provider in order, each change once, and all since the provider came into the interest for
    /// good.
    fn judge(&self, since: &BTreeMap<String, Revision>) -> Result<(), String> {
        for (which, chain) in self.chains.iter().enumerate() {
            if !matches!(self.core.topics.get(&provider(which)), Some(Slot::Live(_))) {
                return Err(format!("provider {which} is not live"));
            }
            let own = format!("{which}-");
            let told = self.told.iter().filter(|push| push.instance.instance_id.starts_with(&own));
            let told: Vec<Revision> = told.map(|push| push.at.rev).collect();
            let since = since.get(&which.to_string()).copied().unwrap_or(Revision::MAX);
            let due: Vec<Revision> = chain.iter().map(|it| it.at.rev).filter(|rev| *rev > since).collect();
            if !told.is_sorted_by(|a, b| a < b) || !told.ends_with(&due) {
                return Err(format!("provider {which}: told {told:?}, due {due:?}"));
            }
        }
        Ok(())
    }
}

/// The instances after the changes up to `at`, with the revision of each.
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

/// What a replica at `rev` says: every event since, and the state if it was asked for.
fn replay(chain: &[InstanceEvent], want: &Want, rev: Revision) -> Replayed {
    let at = Position::end_of(rev);
    Replayed {
        key: Some(Arc::new(ServiceKey::default())),
        continuous: true,
        events: chain.iter().filter(|event| event.at > want.since && event.at <= at).cloned().collect(),
        snapshot: want.snapshot.then(|| state(chain, at).into_values().collect()),
        at,
    }
}

fn explore(seed: u64) -> Result<(), String> {
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
    // When each provider came into the interest, and not before the group itself began.
    let mut begins: BTreeMap<String, Revision> = BTreeMap::new();
    let mut before = BTreeSet::new();
    for (rev, providers) in &sim.interests {
        begins.extend(providers.difference(&before).map(|it| (it.id.clone(), *rev)));
        before.clone_from(providers);
    }
    let opened = sim.opened.expect("answered, now that it rests");
    let begins = begins.into_iter().map(|(id, rev)| (id, rev.max(opened))).collect();
    sim.judge(&begins).map_err(|error| format!("seed {seed}: {error}"))
}

#[test]
fn whatever_is_lost_and_however_late_answers_are_every_change_is_told_once_and_in_order() {
    let failed: Vec<String> = (0..SEEDS).filter_map(|seed| explore(seed).err()).collect();
    assert!(failed.is_empty(), "{} of {SEEDS} seeds, such as:\n{}", failed.len(), failed[0]);
}
