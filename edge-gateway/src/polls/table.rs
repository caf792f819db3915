//! A part of the clients that poll. Pure: moments come in as values.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

use super::{Asker, Given, Outcome, PollReach, PollState, WaitingPoller};

/// The time since the beginning, and that for which a client is expected to ask again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) since: Duration,
    pub(super) silent_after: Duration,
}

impl Moment {
    /// True when a client that was last heard then may still use what it was given.
    fn counts(self, at: Duration) -> bool {
        self.since < at + self.silent_after
    }
}

/// A client with its question.
#[derive(Debug)]
struct Entry {
    tenant: Tenant,
    consumer: Box<str>,
    peer: Option<SocketAddr>,
    /// The content of the last answer; `None` before the first.
    given: Option<Given>,
    /// The moment at which it last asked, or was answered.
    at: Duration,
    /// Its finds under way, and the lowest revision from which one of these may be answered.
    flying: u32,
    floor: Revision,
}

/// A find that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) key: u128,
    generation: u64,
    /// The answer will contain everything up to here.
    floor: Revision,
    is_listed: bool,
}

/// Clients that are told apart, and what is known of those that are not.
#[derive(Debug)]
pub(super) struct Table {
    most: usize,
    /// Grows when everything is forgotten. What began before counts for nothing after that.
    generation: u64,
    entries: HashMap<u128, Entry>,
    swept: Duration,
    /// For each second, the lowest revision that a client outside the list may have been given. Bounded
    /// by the seconds for which a client counts.
    unlisted: VecDeque<(u64, Revision)>,
    /// Finds under way of those, by the revision from which they may be answered.
    flying: HashMap<Revision, u32>,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            generation: 0,
            entries: HashMap::new(),
            swept: Duration::ZERO,
            unlisted: VecDeque::new(),
            flying: HashMap::new(),
        }
    }

    /// A find begins.
    pub(super) fn begin(&mut self, key: u128, asker: &Asker<'_>, floor: Revision, now: Moment) -> Begun {
        let generation = self.generation;
        Begun { key, generation, floor, is_listed: self.list(key, asker, floor, now) }
    }

    /// False when the client does not fit into the list.
    fn list(&mut self, key: u128, asker: &Asker<'_>, floor: Revision, now: Moment) -> bool {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.floor = if entry.flying > 0 { entry.floor.min(floor) } else { floor };
            entry.flying += 1;
            entry.at = now.since;
            return true;
        }
        if self.entries.len() >= self.most || now.since > self.swept + now.silent_after {
            self.sweep(now);
        }
        if self.entries.len() >= self.most {
            *self.flying.entry(floor).or_default() += 1;
            return false;
        }
        let entry = Entry {
            tenant: asker.tenant.clone(),
            consumer: asker.consumer.into(),
            peer: asker.peer,
            given: None,
            at: now.since,
            flying: 1,
            floor,
        };
        self.entries.insert(key, entry);
        true
    }

    /// A find has ended.
    pub(super) fn end(&mut self, begun: Begun, outcome: Outcome, now: Moment) {
        let Begun { key, generation, floor, is_listed } = begun;
        if generation != self.generation {
            return self.note_unlisted(Revision::ZERO, now);
        }
        if !is_listed {
            if let Some(flying) = self.flying.get_mut(&floor) {
                *flying -= 1;
                if *flying == 0 {
                    self.flying.remove(&floor);
                }
            }
            return match outcome {
                Outcome::Nothing => {}
                Outcome::Whole(given) => self.note_unlisted(given.rev, now),
                Outcome::Broken(_) => self.note_unlisted(Revision::ZERO, now),
            };
        }
        // One with a find under way is never swept out.
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.flying -= 1;
        entry.given = match (entry.given.take(), outcome) {
            (before, Outcome::Nothing) => before,
            (_, Outcome::Whole(given)) => Some(given),
            (before, Outcome::Broken(given)) => Some(either(before, given)),
        };
        entry.at = now.since;
        if entry.flying == 0 && entry.given.is_none() {
            self.entries.remove(&key);
        }
    }

    /// Adds the clients that have found the provider lately. An answer at the revision, or at the position,
    /// contains the change.
    pub(super) fn ask(
        &self,
        provider: &ServiceRef,
        rev: Revision,
        at: Option<Position>,
        most: usize,
        now: Moment,
        reach: &mut PollReach,
    ) {
        for entry in self.entries.values() {
            let Some(state) = entry.state(provider, rev, at, now) else { continue };
            reach.pollers += 1;
            let Some(state) = state else {
                reach.reached += 1;
                continue;
            };
            if reach.waiting.len() < most {
                let consumer = ServiceRef::new(entry.tenant.clone(), &*entry.consumer);
                let since = now.since.saturating_sub(entry.at);
                reach.waiting.push(WaitingPoller { consumer, peer: entry.peer, state, since });
            }
        }
        let lately = self.unlisted.iter().filter(|(second, _)| now.counts(Duration::from_secs(second + 1)));
        let given_less = lately.filter(|(_, given)| *given < rev).map(|(second, _)| *second).next_back();
        let asking = self.flying.keys().any(|floor| *floor < rev);
        if given_less.is_some() || asking {
            // Their number is not known; one that waits is enough to prove nothing.
            reach.pollers += 1;
            if reach.waiting.len() < most {
                let since = given_less
                    .map_or(Duration::ZERO, |second| now.since.saturating_sub(Duration::from_secs(second)));
                let consumer = ServiceRef::new(provider.tenant.clone(), "");
                reach.waiting.push(WaitingPoller { consumer, peer: None, state: PollState::Many, since });
            }
        }
    }

    /// Nobody is known to have been given anything.
    pub(super) fn forget(&mut self, now: Moment) {
        let is_known = !self.entries.is_empty() || !self.unlisted.is_empty() || !self.flying.is_empty();
        self.generation += 1;
        self.entries.clear();
        self.flying.clear();
        if is_known {
            self.note_unlisted(Revision::ZERO, now);
        }
    }

    fn note_unlisted(&mut self, rev: Revision, now: Moment) {
        while self.unlisted.front().is_some_and(|(second, _)| !now.counts(Duration::from_secs(second + 1))) {
            self.unlisted.pop_front();
        }
        let second = now.since.as_secs();
        match self.unlisted.back_mut() {
            // A moment that was read before that of another is not put in front of it.
            Some((last, lowest)) if *last >= second => *lowest = (*lowest).min(rev),
            _ => self.unlisted.push_back((second, rev)),
        }
    }

    fn sweep(&mut self, now: Moment) {
        // With a full list each new client comes here: once in a while is enough.
        if now.since < self.swept + now.silent_after / 8 {
            return;
        }
        self.swept = now.since;
        self.entries.retain(|_, entry| entry.flying > 0 || now.counts(entry.at));
    }
}

/// The services of two answers, of which a client goes by the one or the other.
fn either(before: Option<Given>, given: Given) -> Given {
    let services = match (before.map(|before| before.services), given.services) {
        (Some(None), _) | (_, None) => None,
        (Some(Some(before)), Some(given)) => Some([before, given].concat()),
        (None, Some(given)) => Some(given),
    };
    let unsure = |(service, _)| (service, None);
    let services = services.map(|services| services.into_iter().map(unsure).collect());
    Given { rev: Revision::ZERO, services }
}

impl Entry {
    /// `None` when the change does not concern the client; `Some(None)` when it has been given it.
    fn state(
        &self,
        provider: &ServiceRef,
        rev: Revision,
        at: Option<Position>,
        now: Moment,
    ) -> Option<Option<PollState>> {
        let is_of_tenant = || self.tenant == provider.tenant || provider.tenant == Tenant::default();
        // The services of an answer to come are not known.
        if self.flying > 0 && self.floor < rev && is_of_tenant() {
            return Some(Some(PollState::Asking));
        }
        let given = self.given.as_ref().filter(|_| now.counts(self.at))?;
        let of_provider = match &given.services {
            None if is_of_tenant() => None,
            None => return None,
            Some(services) => services.iter().find(|(service, _)| service == provider)?.1,
        };
        let has_position = matches!((of_provider, at), (Some(given), Some(at)) if given >= at);
        Some((given.rev < rev && !has_position).then_some(PollState::NotAsked))
    }
}

#[cfg(test)]
impl Table {
    /// The clients that are told apart.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
