//! Clients that poll: what each of them was last given, for the proof that all of them have seen a change.
//!
//! ```text
//! a find ──▶ Polls::begin ──▶ Flight ──answer──▶ Flight::offer ──its last byte──▶ Flight::taken
//! a drain's question ──▶ Polls::ask ──▶ the clients that have found the service lately, and the ones that lack the change
//! ```
//!
//! In: finds, from before their answers are made until the connection has taken them. Out: the clients that
//! have found a service within [`PollsConfig::silent_after`], and which of them have since been given an
//! answer at a revision or later. A client is a connection with what proxies say about it, and a question:
//! two clients are never taken for one, and one that opens a connection for each find counts as several, of
//! which the older ones go with time.
//!
//! No client counts as one that has seen a change while its last answer was older. A find
//! under way counts as one that has not. What does not fit into memory is kept as the oldest revision that
//! anybody was given in each second: then nothing is proven before the time has passed.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

mod body;
mod table;

pub(crate) use body::followed;
use table::{Begun, Table};

/// The most clients that are told apart, about 600 bytes each. Of further ones only the time is kept.
pub(crate) const MOST_CLIENTS: usize = 131_072;
/// Parts of the table, each with a lock of its own.
const PARTS: usize = 16;
/// Changes whose place is remembered: more than there are drains at a time.
const MOST_MARKS: usize = 256;

/// The settings of clients that poll.
#[derive(Clone, Debug)]
pub struct PollsConfig {
    /// The time for which a client that has found a service is expected to ask again. Zero: clients that poll
    /// are not followed, and no drain waits for them.
    pub silent_after: Duration,
    /// Nobody can have asked a gateway before this process: the registry is new.
    pub none_before: bool,
}

impl Default for PollsConfig {
    fn default() -> Self {
        // Clients ask every half a minute.
        Self { silent_after: Duration::from_secs(60), none_before: false }
    }
}

/// The clients that poll. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Polls(Arc<Shared>);

struct Shared {
    config: PollsConfig,
    began: Instant,
    keys: [RandomState; 2],
    parts: Box<[Mutex<Table>]>,
    marks: Mutex<Vec<Mark>>,
    /// The incarnation of the store, as far as it is known.
    incarnation: Mutex<Option<u64>>,
}

/// The place of a change in the order of its provider.
#[derive(Debug)]
struct Mark {
    provider: ServiceRef,
    rev: Revision,
    at: Position,
}

/// A client with its question.
#[derive(Clone, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) tenant: &'a Tenant,
    /// The consumer that it names.
    pub(crate) consumer: &'a str,
    pub(crate) peer: Option<SocketAddr>,
    /// Everything else that tells it and its question from others.
    pub(crate) words: Vec<&'a [u8]>,
}

/// The content of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Every change up to here is contained.
    pub(crate) rev: Revision,
    /// The services of the answer, each with the position of its last change, if that is known. `None` if
    /// nobody knows which they are: then it may be any.
    pub(crate) services: Option<Vec<(ServiceRef, Option<Position>)>>,
}

/// The end of a find.
#[derive(Debug)]
enum Outcome {
    /// It has no answer.
    Nothing,
    /// The connection has taken the answer.
    Whole(Given),
    /// It has taken some of the answer. The client may go by that one, or by the one before.
    Broken(Given),
}

/// The clients that have found a provider lately.
#[derive(Debug, Default)]
pub(crate) struct PollReach {
    pub(crate) pollers: u64,
    /// The clients among them that have been given an answer with the change.
    pub(crate) reached: u64,
    pub(crate) waiting: Vec<WaitingPoller>,
}

/// A client that has not been given an answer with a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitingPoller {
    /// The service that asks; its id is empty when the client is one of many.
    pub(crate) consumer: ServiceRef,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) state: PollState,
    /// The time since its last find.
    pub(crate) since: Duration,
}

/// The reason for which a client that polls counts as one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollState {
    /// It has not asked since the change.
    NotAsked,
    /// A find of it, which began before the change, has not been answered to its end.
    Asking,
    /// There are too many clients to tell them apart, and some of these were given an older answer.
    Many,
}

impl PollState {
    /// The word for the state, as operators read it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NotAsked => "not-asked",
            Self::Asking => "asking",
            Self::Many => "many",
        }
    }
}

impl Polls {
    /// Nobody has asked yet.
    pub(crate) fn new(config: PollsConfig, began: Instant) -> Self {
        Self::with_room(config, began, MOST_CLIENTS)
    }

    fn with_room(config: PollsConfig, began: Instant, most: usize) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::new(Table::new(most.div_ceil(PARTS)))).collect();
        let keys = [RandomState::new(), RandomState::new()];
        Self(Arc::new(Shared {
            config,
            began,
            keys,
            parts,
            marks: Mutex::default(),
            incarnation: Mutex::default(),
        }))
    }

    /// The time for which a client is expected to ask again; zero if nobody is followed.
    pub(crate) fn silent_after(&self) -> Duration {
        self.0.config.silent_after
    }

    /// Nobody can have asked a gateway before this one.
    pub(crate) fn none_before(&self) -> bool {
        self.0.config.none_before
    }

    /// A find begins, whose answer will contain everything up to `floor`. Called before anything is read that
    /// the answer is made from. `None` if clients are not followed.
    pub(crate) fn begin(&self, asker: &Asker<'_>, floor: Revision) -> Option<Flight> {
        self.begin_at(asker, floor, Instant::now())
    }

    fn begin_at(&self, asker: &Asker<'_>, floor: Revision, now: Instant) -> Option<Flight> {
        if self.silent_after().is_zero() {
            return None;
        }
        let key = self.key_of(asker);
        let begun = self.part(key).begin(key, asker, floor, self.moment(now));
        Some(Flight { polls: self.clone(), begun: Some(begun), given: None })
    }

    /// The clients that have found a provider lately, and those that have not been given a change of it at
    /// `rev`. `at` is the position of the provider's last change by now, which contains that at `rev`.
    pub(crate) fn ask(
        &self,
        provider: &ServiceRef,
        rev: Revision,
        at: Option<Position>,
        most: usize,
    ) -> PollReach {
        self.ask_at(provider, rev, at, most, Instant::now())
    }

    fn ask_at(
        &self,
        provider: &ServiceRef,
        rev: Revision,
        at: Option<Position>,
        most: usize,
        now: Instant,
    ) -> PollReach {
        let mut reach = PollReach::default();
        if self.silent_after().is_zero() {
            return reach;
        }
        let at = at.map(|at| self.mark(provider, rev, at));
        let now = self.moment(now);
        for part in &self.0.parts {
            part.lock().ask(provider, rev, at, most, now, &mut reach);
        }
        reach
    }

    /// The store is of this incarnation, as far as it is known. In another one revisions mean something else,
    /// and nobody is known to have been given anything.
    pub(crate) fn of_incarnation(&self, incarnation: Option<u64>) {
        let Some(incarnation) = incarnation else { return };
        let before = self.0.incarnation.lock().replace(incarnation);
        if before.is_some_and(|before| before != incarnation) {
            self.forget_at(Instant::now());
        }
    }

    fn forget_at(&self, now: Instant) {
        self.0.marks.lock().clear();
        let now = self.moment(now);
        for part in &self.0.parts {
            part.lock().forget(now);
        }
    }

    /// The position as it was at the first question about a change: an answer from there on contains it.
    fn mark(&self, provider: &ServiceRef, rev: Revision, at: Position) -> Position {
        let mut marks = self.0.marks.lock();
        if let Some(mark) = marks.iter().find(|mark| mark.rev == rev && mark.provider == *provider) {
            return mark.at;
        }
        // A mark that is made again lies further on, which only delays a proof.
        if marks.len() >= MOST_MARKS {
            marks.remove(0);
        }
        marks.push(Mark { provider: provider.clone(), rev, at });
        at
    }

    fn moment(&self, now: Instant) -> table::Moment {
        let since = now.saturating_duration_since(self.0.began);
        table::Moment { since, silent_after: self.silent_after() }
    }

    fn part(&self, key: u128) -> parking_lot::MutexGuard<'_, Table> {
        self.0.parts[(key as usize) % PARTS].lock()
    }

    fn key_of(&self, asker: &Asker<'_>) -> u128 {
        // Two keyed hashes of 64 bits: with one, two clients of a large fleet could be taken for one.
        let of = |hasher: &RandomState| {
            let mut state = hasher.build_hasher();
            (asker.tenant, asker.consumer, asker.peer, &asker.words).hash(&mut state);
            std::hash::Hasher::finish(&state)
        };
        let [high, low] = self.0.keys.each_ref().map(of);
        u128::from(high) << 64 | u128::from(low)
    }
}

/// A find under way. Dropped before its end, it counts for nothing; dropped between its answer and the end
/// of that, its client may have an older answer or a newer one, and counts as one that waits.
pub(crate) struct Flight {
    polls: Polls,
    /// `None` once it has ended.
    begun: Option<Begun>,
    given: Option<Given>,
}

impl Flight {
    /// The answer is made, and has this content.
    pub(crate) fn offer(&mut self, given: Given) {
        self.given = Some(given);
    }

    /// The connection has taken the answer.
    pub(crate) fn taken(self) {
        self.taken_at(Instant::now());
    }

    fn taken_at(mut self, now: Instant) {
        self.end(now, true);
    }

    fn end(&mut self, now: Instant, is_whole: bool) {
        let Some(begun) = self.begun.take() else { return };
        let outcome = match self.given.take() {
            None => Outcome::Nothing,
            Some(given) if is_whole => Outcome::Whole(given),
            Some(given) => Outcome::Broken(given),
        };
        let moment = self.polls.moment(now);
        self.polls.part(begun.key).end(begun, outcome, moment);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.end(Instant::now(), false);
    }
}

#[cfg(test)]
mod tests;
