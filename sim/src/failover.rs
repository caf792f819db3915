//! A bounded model check of the publisher's fail-over.
//!
//! On one side are three replicas with real views, histories, publisher terms and replies; on the other side
//! is the real tracker of a gateway with its resuming sessions. Between them is a bus that loses, repeats and
//! reorders, and a seat that changes hands at any moment.
//!
//! A replica may die between any two messages, lag behind the store, keep sending after its lease has ended
//! because it has not noticed, stand in for a publisher that is not dead, list the store anew, and come back
//! with an empty memory. Nothing tells the
//! gateway of a loss. When everything has come to rest, the gateway must have delivered each change once and
//! in order, and its state must be the store's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bus::Message;
use control_plane::keys;
use control_plane::publisher::term::Term;
use control_plane::store::{KeyValue, KvEvent};
use fastrand::Rng;
use follow::message::{Bookmark, InterestChange};
use follow::reply::DepartureList;
use follow::reply::{TopicReplay, Want, interest_request};
use follow::resume::Resumes;
use follow::tracker::Departures;
use follow::{Effect, GroupId, Push, Selector, Tracker};
use prost::Message as _;
use shared::event::InstanceEvent;
use shared::model::{Revision, Scope, ServiceRef, Tenant};
use shared::subject;

mod finds;
mod judge;
mod replica;
mod resumed;

use finds::Consumer;
use replica::Replica;
use resumed::Resumed;

/// The number of moves before everything comes to rest.
const MOVES: usize = 160;
const REPLICAS: usize = 3;
const SERVICES: u8 = 2;

/// A request of the gateway that no replica has answered yet.
enum Question {
    Interest {
        /// The revision at which the interest is known; `None` in the first request.
        known_at: Option<Revision>,
    },
    OpenTopics(Vec<Want>),
    Replay(Vec<Want>),
    CatchUp(Want),
    /// The departures since a revision.
    Departures(Revision),
    /// The events of these departed providers.
    DepartedEvents(DepartureList),
    /// The events that the session with this number has missed.
    MissedEvents(usize, Vec<Want>),
}

struct Sim {
    dice: Rng,
    /// The store: its revision, its contents, and the changes of each revision since the first.
    rev: Revision,
    keys: BTreeMap<String, KeyValue>,
    log: Vec<Vec<KvEvent>>,
    replicas: Vec<Replica>,
    /// The replica that holds the seat, according to the store.
    holder: Option<usize>,
    /// The messages of each replica that the bus has not delivered yet.
    bus: Vec<VecDeque<Message>>,
    tracker: Tracker,
    resumes: Resumes<usize>,
    group: GroupId,
    selector: Selector,
    /// The revision of the first reply about the interest.
    opened: Option<Revision>,
    /// The providers whose events the gateway subscribes to.
    topics: BTreeSet<ServiceRef>,
    /// Each question with the revision that a replica must have reached to answer it.
    questions: Vec<(Revision, Question)>,
    delivered: Vec<Arc<Push>>,
    /// Revisions that were confirmed to watchers, here or at another gateway that misses nothing. Clients
    /// resume from any of them.
    confirmed: Vec<Revision>,
    resumed: Vec<Resumed>,
    /// A replica answered with a state because it did not know the events: changes may be delivered as one.
    merged: bool,
    /// Nothing is lost, repeated or reordered any more.
    calm: bool,
    /// Replicas without the seat publish too.
    stand_ins: bool,
    /// The consumer whose finds decide on its providers, if the watch is of one.
    consumer: Option<Consumer>,
}

fn service(number: u8) -> ServiceRef {
    ServiceRef::new(Tenant::default(), format!("s{number}"))
}

/// Every service of the tenant: by attributes, or by a list that also names one which is never registered.
fn selector(seed: u64) -> Selector {
    if seed.is_multiple_of(2) {
        return Selector::Scope(Scope::all(Tenant::default()));
    }
    let never = ServiceRef::new(Tenant::default(), "never");
    Selector::Providers(Arc::new((0..SERVICES).map(service).chain([never]).collect()))
}

impl Sim {
    fn new(seed: u64, stand_ins: bool, consumer: Option<Consumer>) -> Self {
        let mut tracker = Tracker::new(1);
        let selector = if consumer.is_some() { finds::selector() } else { selector(seed) };
        let (group, _) = tracker.join(&selector);
        let mut sim = Self {
            dice: Rng::with_seed(seed),
            rev: Revision::new(1),
            keys: BTreeMap::new(),
            log: Vec::new(),
            replicas: Vec::new(),
            holder: None,
            bus: vec![VecDeque::new(); REPLICAS],
            tracker,
            resumes: Resumes::default(),
            group,
            selector,
            opened: None,
            topics: BTreeSet::new(),
            questions: Vec::new(),
            delivered: Vec::new(),
            confirmed: Vec::new(),
            resumed: Vec::new(),
            merged: false,
            calm: false,
            stand_ins,
            consumer,
        };
        if sim.consumer.is_some() {
            sim.register_consumer();
        }
        // The replicas list a store that is not empty, so their histories begin after its first revisions.
        for _ in 0..3 {
            sim.commit();
        }
        sim.replicas = (0..REPLICAS).map(|_| Replica::start(&sim.keys, sim.rev, sim.log.len())).collect();
        sim.act();
        sim
    }

    /// Commits a change to the store: of an instance, or of a service with all of its instances.
    fn commit(&mut self) {
        if self.consumer.is_some() {
            return self.commit_for_consumer();
        }
        self.rev = self.rev.next();
        let service = service(self.dice.u8(0..SERVICES));
        let record = keys::service(&service);
        let id = self.dice.u8(0..2).to_string();
        let instance = keys::instance(&service, &id);
        let mut events = Vec::new();
        if !self.keys.contains_key(&record) {
            self.put(record, r#"{"serviceName":"s","appId":"shop","version":"1.0.0"}"#.into(), &mut events);
        } else if self.dice.u8(0..12) == 0 {
            let gone: Vec<String> =
                self.keys.keys().filter(|key| key.contains(&service.id)).cloned().collect();
            for key in gone {
                self.keys.remove(&key);
                events.push(KvEvent::Delete { key, rev: self.rev });
            }
        } else if self.keys.contains_key(&instance) && self.dice.u8(0..3) == 0 {
            self.keys.remove(&instance);
            events.push(KvEvent::Delete { key: instance, rev: self.rev });
        } else {
            // The host name is the revision of the write, by which the judge recognises it.
            self.put(instance, format!(r#"{{"hostName":"{}"}}"#, self.rev), &mut events);
        }
        self.note(events, false);
    }

    fn put(&mut self, key: String, value: String, events: &mut Vec<KvEvent>) {
        let rev = self.rev;
        let before = self.keys.get(&key);
        let create_rev = before.map_or(rev, |kv| kv.create_rev);
        let version = before.map_or(1, |kv| kv.version + 1);
        let kv = KeyValue {
            key: key.clone(),
            value: value.into(),
            create_rev,
            mod_rev: rev,
            version,
            lease: None,
        };
        self.keys.insert(key, kv.clone());
        events.push(KvEvent::Put(kv));
    }

    /// A replica follows the store by one revision.
    fn follow(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if let (true, Some(events)) = (replica.alive, self.log.get(replica.followed)) {
            replica.followed += 1;
            // A revision outside the registry's root reaches a watch only as progress.
            if events.is_empty() {
                replica.writer.progress(replica.rev().next())
            } else {
                replica.writer.apply(events.clone())
            }
        }
    }

    /// The seat changes: a revision in which nothing happens under the registry's root.
    fn touch_seat(&mut self) -> Revision {
        self.rev = self.rev.next();
        self.note(Vec::new(), false);
        self.rev
    }

    fn campaign(&mut self, number: usize) {
        if self.holder.is_none() && self.replicas[number].alive && self.replicas[number].seat.is_none() {
            let epoch = self.touch_seat();
            self.holder = Some(number);
            self.replicas[number].seat = Some(epoch);
        }
    }

    /// The seat's lease ends. Its holder may not have noticed yet.
    fn expire(&mut self) {
        if self.holder.take().is_some() {
            self.touch_seat();
        }
    }

    /// A replica that does not hold the seat any more notices.
    fn step_down(&mut self, number: usize) {
        if self.holder != Some(number) {
            self.replicas[number].seat = None;
            self.replicas[number].term = None;
        }
    }

    fn die(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        replica.alive = false;
        replica.seat = None;
        replica.term = None;
        // Messages that had not left its process are lost with it.
        let sent = self.dice.usize(0..=self.bus[number].len());
        self.bus[number].truncate(sent);
    }

    /// The changes that a replica has not followed are compacted away: it lists the store, and keeps its
    /// role.
    fn list_again(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.alive && replica.followed < self.log.len() {
            replica.writer.reset(self.keys.values().cloned().collect(), self.rev);
            replica.followed = self.log.len();
        }
    }

    fn restart(&mut self, number: usize) {
        if !self.replicas[number].alive {
            self.replicas[number] = Replica::start(&self.keys, self.rev, self.log.len());
        }
    }

    /// The seat's holder publishes what is due. It dies when that is more than `most` messages.
    fn publish(&mut self, number: usize, most: usize) {
        if let Some(epoch) = self.replicas[number].seat {
            self.publish_as(number, epoch, most);
        }
    }

    /// A replica without the seat has heard nothing for a while, and publishes. Production has reasons for it;
    /// the simulation needs none, to be stricter.
    fn stand_in(&mut self, number: usize, most: usize) {
        let replica = &self.replicas[number];
        let continues = replica.view.history().complete_since() <= replica.last_bookmark;
        if replica.alive && replica.seat.is_none() && continues {
            self.publish_as(number, Revision::ZERO, most);
        }
    }

    /// A replica that stands in hears a publisher.
    fn be_relieved(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.seat.is_none() {
            replica.term = None;
        }
    }

    fn publish_as(&mut self, number: usize, epoch: Revision, most: usize) {
        let replica = &mut self.replicas[number];
        let rev = replica.rev();
        if replica.term.as_ref().is_none_or(|term| term.epoch() != epoch) {
            let bookmarked = replica.last_bookmark.min(rev);
            replica.term = Some(Term::begin(epoch, bookmarked, replica.view.history(), 0));
        }
        let history = replica.view.history().clone();
        let Some(term) = &mut replica.term else { return };
        let Some(batch) = term.due(&history, rev) else { return };
        let messages: Vec<Message> = batch.messages(0, replica::ROOM).collect();
        let dies = messages.len() > most;
        // Production does this after the last message. Here the order does not matter, because a death loses
        // the term.
        term.published(batch);
        self.bus[number].extend(messages.into_iter().take(most));
        if dies {
            self.die(number);
        }
    }

    fn bookmark(&mut self, number: usize) {
        let Some(term) = &mut self.replicas[number].term else { return };
        let bookmarks = term.bookmarks("p", replica::ROOM);
        // Another gateway, which misses nothing, confirms this revision to its watchers.
        self.confirmed.extend(bookmarks.last().map(|bookmark| Revision::new(bookmark.rev)));
        for bookmark in bookmarks {
            self.bus[number].push_back(Message::new(subject::BOOKMARK, bookmark.encode_to_vec()));
        }
        term.flushed(0);
    }

    /// The bus delivers a sender's oldest message. Unless it is calm, it may lose, repeat or delay the
    /// message.
    fn deliver(&mut self, number: usize) {
        if !self.calm {
            match self.dice.u8(0..12) {
                0 => return drop(self.bus[number].pop_front()),
                // NATS keeps the order within a connection. The simulation does not, to be stricter than
                // production.
                1 if self.bus[number].len() > 1 => self.bus[number].swap(0, 1),
                2 => {
                    let repeated = self.bus[number].front().cloned();
                    self.bus[number].extend(repeated);
                }
                _ => {}
            }
        }
        let Some(message) = self.bus[number].pop_front() else { return };
        if message.subject == subject::BOOKMARK {
            let bookmark = Bookmark::decode(&message.payload).expect("a bookmark decodes");
            for replica in &mut self.replicas {
                replica.last_bookmark = replica.last_bookmark.max(bookmark.rev);
            }
            self.tracker.on_bookmark(bookmark);
        } else if message.subject == self.selector.subject() {
            let change = InterestChange::decode(&self.selector, &message.payload).expect("a change decodes");
            self.tracker.on_interest_changes(vec![(self.group, change)]);
        } else if let Some(provider) = subject::service_of(&message.subject)
            && message.subject == subject::event(&provider)
            && self.topics.contains(&provider)
        {
            let event = InstanceEvent::decode(&message.payload).expect("an event decodes");
            self.tracker.on_events(vec![event]);
        }
        self.act();
    }

    fn act(&mut self) {
        self.carry_out();
        self.confirmed.push(self.tracker.confirmed());
        self.resume();
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.tracker.take_effects() {
            let min_rev = self.tracker.seen();
            match effect {
                Effect::Deliver(push, _) => {
                    for session in &mut self.resumed {
                        session.receive(&push);
                    }
                    if let Some(consumer) = &mut self.consumer {
                        consumer.receive(&push);
                    }
                    self.delivered.push(push);
                }
                Effect::OpenInterest(..) => {
                    self.questions.push((min_rev, Question::Interest { known_at: None }))
                }
                Effect::RequestInterest(..) => {
                    self.questions.push((
                        min_rev,
                        Question::Interest { known_at: self.tracker.interest_known_at(self.group) },
                    ));
                }
                Effect::OpenTopics(wants) => {
                    self.topics.extend(wants.iter().map(|want| want.provider.clone()));
                    self.questions.push((min_rev, Question::OpenTopics(wants)));
                }
                Effect::RequestReplay(_, wants) => self.questions.push((min_rev, Question::Replay(wants))),
                Effect::CatchUp(_, want) => self.questions.push((min_rev, Question::CatchUp(want))),
                Effect::CloseTopic(provider) => {
                    self.topics.remove(&provider);
                }
                Effect::GroupOpened(_) | Effect::CloseInterest(_) => {}
                Effect::RefuseGroup(_) | Effect::EndGroup(_) => panic!("no group ends in this simulation"),
            }
        }
    }

    /// A replica that has reached the required revision answers a question.
    fn answer(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        // In any order, because replies of different replicas overtake each other.
        let (min_rev, question) = self.questions.swap_remove(self.dice.usize(0..self.questions.len()));
        let able: Vec<usize> = (0..REPLICAS)
            .filter(|number| self.replicas[*number].alive && self.replicas[*number].rev() >= min_rev)
            .collect();
        // No replica is far enough. The gateway would repeat the request, so the question stays.
        if able.is_empty() {
            return self.questions.push((min_rev, question));
        }
        let number = able[self.dice.usize(0..able.len())];
        match question {
            Question::Interest { known_at } => {
                let request = interest_request(&self.selector, min_rev, known_at);
                let reply = self.replicas[number].interest(&request).into_interest();
                // Then nobody knows which providers came and left unseen.
                let complete_since = self.replicas[number].view.history().complete_since();
                self.merged |= known_at.is_some_and(|known_at| known_at < complete_since);
                if known_at.is_none() {
                    self.opened = Some(reply.rev);
                    if let Some(consumer) = &mut self.consumer {
                        consumer.open(reply.rev);
                    }
                }
                self.tracker.on_interest(self.group, reply);
            }
            Question::OpenTopics(wants) => {
                for (want, replay) in self.replay(number, wants) {
                    self.tracker.on_loaded(&want.provider, want.since, replay);
                }
            }
            Question::Replay(wants) => {
                for (want, replay) in self.replay(number, wants) {
                    self.tracker.on_replay(&want.provider, want.since, replay);
                }
            }
            Question::CatchUp(want) => {
                for (want, replay) in self.replay(number, vec![want]) {
                    self.tracker.on_caught_up(self.group, &want.provider, replay);
                }
            }
            Question::Departures(since) => {
                let list = self.list_departures(number, min_rev, since);
                // Another replica may answer the next question. It must have come as far as this one.
                let far_enough = self.tracker.seen().max(list.rev);
                self.questions.push((far_enough, Question::DepartedEvents(list)));
            }
            Question::DepartedEvents(list) => {
                let departures: Option<Departures> = self.departed_events(number, list);
                self.resumes.on_departures(self.group, departures, &mut self.tracker);
            }
            Question::MissedEvents(session, wants) => {
                for (want, replay) in self.replay(number, wants) {
                    self.resumes.on_replay(session, want.provider, replay);
                }
            }
        }
        self.act();
    }

    /// A replica's replays.
    fn replay(&mut self, number: usize, wants: Vec<Want>) -> Vec<(Want, TopicReplay)> {
        let replays = self.replicas[number].replay(&wants);
        self.merged |= replays.iter().any(|replay| !replay.continuous);
        wants.into_iter().zip(replays).collect()
    }

    fn step(&mut self) {
        let number = self.dice.usize(0..REPLICAS);
        // Without stand-ins the dice fall as they did when the old seeds found their defects.
        let moves = if self.stand_ins { 47 } else { 41 };
        match self.dice.u8(0..moves) {
            0..8 => self.commit(),
            8..16 => self.follow(number),
            16..19 => self.campaign(number),
            19 => self.expire(),
            20 => self.step_down(number),
            21..25 => self.publish(number, usize::MAX),
            25 => {
                let most = self.dice.usize(0..3);
                self.publish(number, most);
            }
            26..28 => self.bookmark(number),
            28..34 => self.deliver(number),
            34 => self.die(number),
            35..37 => self.restart(number),
            37 => self.come_back(),
            38 => self.list_again(number),
            41..44 => self.stand_in(number, usize::MAX),
            44 => {
                let most = self.dice.usize(0..3);
                self.stand_in(number, most);
            }
            45 => self.be_relieved(number),
            _ => self.answer(),
        }
    }

    /// Nothing breaks any more, and all moves are made until nothing is left to do.
    fn rest(&mut self) {
        self.calm = true;
        for number in 0..REPLICAS {
            self.restart(number);
        }
        for round in 0..400 {
            // The lease of a holder that died ends. When it is back, it does not know of its seat.
            if self.holder.is_some_and(|number| self.replicas[number].seat.is_none()) {
                self.expire();
            }
            for number in 0..REPLICAS {
                self.step_down(number);
                self.campaign(number);
                while self.replicas[number].followed < self.log.len() {
                    self.follow(number);
                }
                self.publish(number, usize::MAX);
                self.bookmark(number);
                while !self.bus[number].is_empty() {
                    self.deliver(number);
                }
            }
            for _ in 0..self.questions.len() {
                self.answer();
            }
            let joined = self.resumed.iter().all(Resumed::has_joined);
            let is_confirmed = self.tracker.confirmed() == self.rev;
            // The first rounds only bring replicas and seat back. A state of rest before them would prove
            // nothing.
            if round > 20 && joined && self.questions.is_empty() && is_confirmed {
                return;
            }
        }
        panic!("it does not come to rest: {} of {} is confirmed", self.tracker.confirmed(), self.rev);
    }
}

/// Runs a seed, with replicas that stand in for the publisher or without. Returns true if every change could be
/// judged, because no replica answered with a state.
///
/// # Errors
/// A description of what was delivered wrongly.
pub fn explore(seed: u64, stand_ins: bool) -> Result<bool, String> {
    run(seed, Sim::new(seed, stand_ins, None))
}

/// Runs a seed with a consumer whose providers change with versions, rules, access and finds.
///
/// # Errors
/// A description of the instances that a client knows wrongly.
pub fn explore_finds(seed: u64) -> Result<bool, String> {
    run(seed, Sim::new(seed, seed.is_multiple_of(3), Some(Consumer::new())))
}

fn run(seed: u64, mut sim: Sim) -> Result<bool, String> {
    for _ in 0..MOVES {
        sim.step();
    }
    sim.rest();
    sim.judge().map_err(|error| format!("seed {seed}: {error}"))?;
    Ok(!sim.merged)
}
