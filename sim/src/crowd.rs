//! A bounded model check of many groups at one gateway: watches of ever other consumers begin and end, messages are
//! lost, and clients break off at any change and resume.
//!
//! The tracker and its resuming sessions are those of the gateway. A model stands for the bus and the replicas:
//! replies come late and in any order, of a revision that need not be the newest; a subscription takes effect at any
//! time before its request is answered; a loss shows only in what bookmarks name, or in a bookmark that is missing.
//!
//! Two things are judged all the time. *No false claim*: whenever a client is told that it may resume from a
//! revision, it has been sent every change of its providers up to there. *Once and in order*: on one connection the
//! changes of a provider come without a gap and without a repetition, and none that the client had confirmed. A third
//! is judged at the end: while groups keep coming, what is confirmed to the others goes on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use follow::message::InterestChange;
use follow::reply::{InterestReply, TopicReplay, Want};
use follow::resume::{EventsRequest, Resumes};
use follow::tracker::Departures;
use follow::{Cause, GroupId, Selector, Tracker};
use shared::event::{InstanceEvent, Position};
use shared::model::{Revision, ServiceRef, Tenant};

use crate::chain::{Chains, Replays, load, number, provider, state};
use crate::subscription::{Subscription, Topics, take_any};

mod client;
mod gateway;
mod store;

use client::Client;

/// The number of moves before nothing is lost any more.
const MOVES: usize = 220;
const PROVIDERS: usize = 4;
/// Consumers at the beginning; others come.
const CONSUMERS: usize = 3;
/// The revision of the registry when the gateway begins.
const FIRST: u64 = 10;
/// The rounds at the end in which groups keep coming, and those after which something must be confirmed.
const CROWDED: usize = 14;
const SOON: usize = 6;

/// A request that no replica has answered yet.
enum Question {
    OpenInterest(GroupId),
    Interest(GroupId),
    OpenTopics(Vec<Want>),
    Replay(Vec<Want>),
    CatchUp(GroupId, Want),
    MissedEvents(EventsRequest<usize>),
    Departures(GroupId, Revision),
}

/// A reply that has been made and is on its way.
enum Reply {
    Interest(GroupId, InterestReply),
    TopicsOpened(Replays),
    Replay(Replays),
    CaughtUp(GroupId, Want, TopicReplay),
    MissedEvents(EventsRequest<usize>, Vec<TopicReplay>),
    Departures(GroupId, Departures),
}

enum Published {
    Event(InstanceEvent),
    Interest(usize, InterestChange),
    /// Everything after the first revision and up to the second was published.
    Bookmark(Revision, Revision),
}

/// A consumer, whose interest only grows.
struct Consumer {
    /// Every state of the interest, with the revision since which it holds.
    interests: Vec<(Revision, BTreeSet<ServiceRef>)>,
    group: Option<GroupId>,
    changes: Option<Subscription<InterestChange>>,
}

struct Sim {
    dice: Rng,
    now: Instant,
    tracker: Tracker,
    resumes: Resumes<usize>,
    rev: Revision,
    /// Every change of each provider.
    chains: Chains,
    consumers: Vec<Consumer>,
    clients: Vec<Client>,
    bus: VecDeque<Published>,
    /// The revision of the last bookmark that was published.
    published: Revision,
    topics: Topics,
    bookmarks: VecDeque<(Revision, Revision)>,
    /// Each question with the revision that a replica must have reached to answer it.
    questions: Vec<(Revision, Question)>,
    replies: Vec<Reply>,
    /// Nothing is lost any more, and no client breaks off.
    calm: bool,
    /// The round at the end.
    round: usize,
    wrong: Option<String>,
}

fn selector(consumer: usize) -> Selector {
    Selector::Consumer(ServiceRef::new(Tenant::default(), format!("c{consumer}")))
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut sim = Self {
            dice: Rng::with_seed(seed),
            now: Instant::now(),
            tracker: Tracker::new(1),
            resumes: Resumes::default(),
            rev: Revision::new(FIRST),
            chains: Chains::new(PROVIDERS),
            consumers: Vec::new(),
            clients: Vec::new(),
            bus: VecDeque::new(),
            published: Revision::new(FIRST),
            topics: BTreeMap::new(),
            bookmarks: VecDeque::new(),
            questions: Vec::new(),
            replies: Vec::new(),
            calm: false,
            round: 0,
            wrong: None,
        };
        for _ in 0..CONSUMERS {
            sim.arrive();
        }
        sim
    }

    fn step(&mut self) {
        match self.dice.u8(0..32) {
            0..6 => self.commit(),
            6 => self.widen(),
            7..9 => self.publish_bookmark(),
            9..13 => self.deliver(false),
            13 => self.deliver(true),
            14..18 => self.take_events(1),
            18 => self.take_changes(),
            19..21 => self.take_bookmark(),
            21..24 => self.compute(),
            24..27 => self.receive(),
            27 => self.arrive(),
            28 => self.leave(),
            29 => self.come_back(),
            30 => self.forget(),
            _ => {
                self.take_bookmarks();
                self.tracker.resync(Cause::Link);
                self.act();
            }
        }
    }

    /// Everything that was sent arrives, and everything that was asked is answered.
    fn settle(&mut self) {
        for _ in 0..1000 {
            while !self.bus.is_empty() {
                self.deliver(false);
            }
            self.take_events(usize::MAX);
            self.take_changes();
            self.take_bookmarks();
            while !self.questions.is_empty() {
                self.compute();
            }
            if self.replies.is_empty() {
                return;
            }
            while !self.replies.is_empty() {
                self.receive();
            }
        }
        self.wrong.get_or_insert("it does not come to rest".to_owned());
    }

    /// Nothing is lost any more. First consumers keep coming, and then none.
    fn rest(&mut self) {
        self.calm = true;
        self.settle();
        let mut bookmarks = Vec::new();
        for round in 0..CROWDED {
            self.round = round;
            self.arrive();
            self.come_back();
            self.commit();
            self.settle();
            self.publish_bookmark();
            self.settle();
            bookmarks.push(self.published);
            let Some(long_ago) = round.checked_sub(SOON) else { continue };
            let told = bookmarks[long_ago];
            // Clients that came since then may still be behind.
            let behind =
                |client: &&Client| client.is_here() && client.came <= long_ago && client.resume < told;
            if let Some(client) = self.clients.iter().find(behind) {
                let error =
                    format!("c{} may resume from {}, and not from {told}", client.consumer, client.resume);
                self.wrong.get_or_insert(error);
            }
        }
        while self.clients.iter().any(Client::is_away) {
            self.come_back();
        }
        for _ in 0..SOON {
            self.settle();
            self.publish_bookmark();
            self.settle();
        }
    }

    fn judge(&mut self) -> Result<(), String> {
        for (index, client) in self.clients.iter().enumerate() {
            if !client.is_here() {
                self.wrong.get_or_insert(format!("client {index} waits for ever"));
            } else if client.resume != self.rev {
                let (of, resume) = (client.consumer, client.resume);
                self.wrong
                    .get_or_insert(format!("c{of} may resume from {resume}, and not from {}", self.rev));
            }
        }
        self.wrong.take().map_or(Ok(()), Err)
    }
}

/// Runs a seed.
///
/// # Errors
/// A description of what was told wrongly.
pub fn explore(seed: u64) -> Result<(), String> {
    let mut sim = Sim::new(seed);
    for _ in 0..MOVES {
        sim.step();
    }
    sim.rest();
    sim.judge().map_err(|error| format!("seed {seed}: {error}"))
}
