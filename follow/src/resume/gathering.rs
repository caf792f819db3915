//! The events that resuming sessions lack, requested together: once for all sessions that lack the same.
//!
//! In: for each key the providers whose events its sessions lack. Out: requests, of which few are under way at once.
//! The other keys wait here. After an outage thousands of sessions lack the events of the same providers. Replicas that
//! were asked for each session alone would answer later than the gateway waits, and the work would be done again and
//! again. So the longer an answer takes, the more sessions the next request serves.

use std::collections::{BTreeMap, HashMap};

use shared::event::Position;
use shared::model::ServiceRef;

use crate::reply::{TopicReplay, Want};

/// The requests for events that are under way at once.
const AT_ONCE: usize = 4;
/// The wants that are looked at for one request: some milliseconds of work, during which the gateway does nothing else.
const MOST_LOOKED_AT: usize = 16_384;

/// A key's wants.
#[derive(Clone, Debug)]
struct Ask<K> {
    key: K,
    wants: Vec<Want>,
    /// The events may only be requested from exactly these positions: from an earlier one they are not known.
    is_exact: bool,
}

/// A request for the events of providers, each named once. The caller makes it and reports its replies with
/// [`super::Resumes::on_events`].
#[derive(Clone, Debug)]
pub struct EventsRequest<K> {
    wants: Vec<Want>,
    asks: Vec<Ask<K>>,
}

impl<K> EventsRequest<K> {
    /// The providers, each from the earliest position that one of the sessions needs.
    pub fn wants(&self) -> &[Want] {
        &self.wants
    }
}

/// Keys whose sessions lack events, in the order in which they came.
#[derive(Debug)]
pub(super) struct Gathering<K> {
    asks: BTreeMap<u64, Ask<K>>,
    numbers: HashMap<K, u64>,
    next_number: u64,
    under_way: usize,
}

impl<K> Default for Gathering<K> {
    fn default() -> Self {
        Self { asks: BTreeMap::new(), numbers: HashMap::new(), next_number: 0, under_way: 0 }
    }
}

impl<K: Copy + Eq + std::hash::Hash> Gathering<K> {
    /// Adds the wants of a key, behind those that wait. Earlier wants of the key are replaced.
    pub(super) fn add(&mut self, key: K, wants: Vec<Want>) {
        self.push(Ask { key, wants, is_exact: false });
    }

    fn push(&mut self, ask: Ask<K>) {
        let number = self.next_number;
        self.next_number += 1;
        if let Some(earlier) = self.numbers.insert(ask.key, number) {
            self.asks.remove(&earlier);
        }
        self.asks.insert(number, ask);
    }

    /// Forgets the wants of a key. A request that is under way goes on.
    pub(super) fn forget(&mut self, key: K) {
        if let Some(number) = self.numbers.remove(&key) {
            self.asks.remove(&number);
        }
    }

    /// Forgets everything, also the requests under way, whose replies do not count.
    pub(super) fn forget_all(&mut self) {
        *self = Self { next_number: self.next_number, ..Self::default() };
    }

    /// The next request, of at most `most` providers; `None` when enough are under way or nobody waits. Of a key with
    /// more wants only the first ones are requested.
    pub(super) fn next_request(&mut self, most: usize) -> Option<EventsRequest<K>> {
        if self.under_way >= AT_ONCE || self.asks.is_empty() {
            return None;
        }
        let most = most.max(1);
        let mut chosen = Chosen { most, providers: HashMap::new() };
        let mut taken = Vec::new();
        let mut looked_at = 0;
        for (number, ask) in &mut self.asks {
            if looked_at >= MOST_LOOKED_AT {
                break;
            }
            ask.wants.truncate(most);
            looked_at += ask.wants.len();
            if chosen.admits(ask) {
                chosen.add(ask);
                taken.push(*number);
            }
        }
        let mut asks = Vec::with_capacity(taken.len());
        for number in taken {
            if let Some(ask) = self.asks.remove(&number) {
                self.numbers.remove(&ask.key);
                asks.push(ask);
            }
        }
        self.under_way += 1;
        Some(EventsRequest { wants: chosen.into_wants(), asks })
    }

    /// A request has been answered, with one replay for each of its wants. Returns the keys whose wants are answered by
    /// it, each with its wants.
    ///
    /// The request may have been for earlier positions than those of a key, and the history may reach back to the key's
    /// own positions only. Such a key waits again, and is not requested from an earlier position any more.
    pub(super) fn on_replies(
        &mut self,
        request: EventsRequest<K>,
        replays: &HashMap<ServiceRef, TopicReplay>,
    ) -> Vec<(K, Vec<Want>)> {
        self.under_way = self.under_way.saturating_sub(1);
        let requested: HashMap<&ServiceRef, Position> =
            request.wants.iter().map(|want| (&want.provider, want.since)).collect();
        let mut answered = Vec::with_capacity(request.asks.len());
        for ask in request.asks {
            let asked_too_early = |want: &Want| {
                requested.get(&want.provider).is_some_and(|since| *since < want.since)
                    && replays.get(&want.provider).is_some_and(|replay| !replay.continuous)
            };
            if !ask.wants.iter().any(asked_too_early) {
                answered.push((ask.key, ask.wants));
            } else if !self.numbers.contains_key(&ask.key) {
                self.push(Ask { is_exact: true, ..ask });
            }
        }
        answered
    }
}

/// The providers of a request that is being put together.
struct Chosen {
    most: usize,
    /// The position from which each is requested, and whether it must stay that one.
    providers: HashMap<ServiceRef, (Position, bool)>,
}

impl Chosen {
    /// True if the request can serve these wants as well.
    fn admits<K>(&self, ask: &Ask<K>) -> bool {
        let mut new = 0;
        for want in &ask.wants {
            match self.providers.get(&want.provider) {
                None => new += 1,
                Some((since, _)) if ask.is_exact && *since != want.since => return false,
                Some((since, true)) if *since > want.since => return false,
                Some(_) => {}
            }
        }
        self.providers.len() + new <= self.most
    }

    fn add<K>(&mut self, ask: &Ask<K>) {
        for want in &ask.wants {
            let (since, is_fixed) =
                self.providers.entry(want.provider.clone()).or_insert((want.since, false));
            *since = want.since.min(*since);
            *is_fixed |= ask.is_exact;
        }
    }

    fn into_wants(self) -> Vec<Want> {
        let want = |(provider, (since, _))| Want { provider, since, snapshot: false };
        self.providers.into_iter().map(want).collect()
    }
}

#[cfg(test)]
mod tests {
    use shared::model::{Revision, Tenant};

    use super::*;

    fn want(provider: &str, since: u64) -> Want {
        let provider = ServiceRef::new(Tenant::default(), provider);
        Want { provider, since: Position::end_of(Revision::new(since)), snapshot: false }
    }

    fn of_keys<const N: usize>(asks: [(u32, &[(&str, u64)]); N]) -> Gathering<u32> {
        let mut gathering = Gathering::default();
        for (key, wants) in asks {
            gathering.add(key, wants.iter().map(|(provider, since)| want(provider, *since)).collect());
        }
        gathering
    }

    fn wants_of(request: &EventsRequest<u32>) -> Vec<(&str, u64)> {
        let mut wants: Vec<_> =
            request.wants().iter().map(|want| (want.provider.id.as_str(), want.since.rev.get())).collect();
        wants.sort_unstable();
        wants
    }

    /// Replies for a request: the history of each provider reaches back to `known_after`.
    fn replies(request: &EventsRequest<u32>, known_after: u64) -> HashMap<ServiceRef, TopicReplay> {
        let mut replies = HashMap::new();
        for want in request.wants() {
            let continuous = want.since.rev.get() >= known_after;
            replies.insert(want.provider.clone(), TopicReplay { continuous, ..TopicReplay::default() });
        }
        replies
    }

    fn keys(answered: &[(u32, Vec<Want>)]) -> Vec<u32> {
        answered.iter().map(|(key, _)| *key).collect()
    }

    #[test]
    fn one_request_serves_all_that_lack_the_same_providers() {
        let mut gathering = Gathering::default();
        for key in 0..1000 {
            gathering.add(key, vec![want("p", 10 + u64::from(key)), want("q", 5)]);
        }
        let request = gathering.next_request(128).expect("sessions wait");
        assert_eq!(
            wants_of(&request),
            [("p", 10), ("q", 5)],
            "from the earliest position that one of them needs"
        );
        assert!(gathering.next_request(128).is_none(), "nobody waits any more");
        let answered = gathering.on_replies(request.clone(), &replies(&request, 0));
        assert_eq!(keys(&answered), Vec::from_iter(0..1000));
        assert_eq!(answered[7].1, [want("p", 17), want("q", 5)]);
    }

    #[test]
    fn few_requests_are_under_way_at_once() {
        let mut gathering = Gathering::default();
        for key in 0..10 {
            gathering.add(key, vec![want(&format!("p{key}"), 1)]);
        }
        let mut under_way: Vec<_> = std::iter::from_fn(|| gathering.next_request(1)).collect();
        assert_eq!(under_way.len(), AT_ONCE);
        assert_eq!(wants_of(&under_way[0]), [("p0", 1)], "in the order in which they came");
        let first = under_way.remove(0);
        let replies = replies(&first, 0);
        gathering.on_replies(first, &replies);
        assert_eq!(
            gathering.next_request(128).map(|next| next.wants().len()),
            Some(10 - AT_ONCE),
            "all the others"
        );
    }

    #[test]
    fn a_request_is_bounded_in_providers_and_serves_those_who_fit() {
        let mut gathering = of_keys([
            (1, &[("a", 1), ("b", 1)]),
            (2, &[("c", 1), ("d", 1)]),
            (3, &[("b", 1)]),
            (4, &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]),
        ]);
        let first = gathering.next_request(3).expect("sessions wait");
        assert_eq!(
            wants_of(&first),
            [("a", 1), ("b", 1), ("c", 1)],
            "the rest of key 4 is wanted again later"
        );
        assert_eq!(first.asks.iter().map(|ask| ask.key).collect::<Vec<_>>(), [1, 3, 4]);
        let second = gathering.next_request(3).expect("a session waits");
        assert_eq!(wants_of(&second), [("c", 1), ("d", 1)]);
        assert!(gathering.next_request(3).is_none());
    }

    #[test]
    fn a_session_with_an_early_position_does_not_cost_others_their_events() {
        // The history reaches back to 50. The client of key 1 was away for longer.
        let mut gathering = of_keys([(1, &[("p", 10)]), (2, &[("p", 60)]), (3, &[("p", 70), ("q", 70)])]);
        let request = gathering.next_request(128).expect("sessions wait");
        assert_eq!(wants_of(&request), [("p", 10), ("q", 70)]);
        let replies_of = replies(&request, 50);
        assert_eq!(keys(&gathering.on_replies(request, &replies_of)), [1], "it gets a state");
        // Another one of that kind comes first.
        gathering.forget(3);
        gathering.add(4, vec![want("p", 20)]);
        gathering.add(5, vec![want("p", 65)]);
        let request = gathering.next_request(128).expect("sessions wait");
        assert_eq!(wants_of(&request), [("p", 60)], "and must wait for the next request");
        let replies_of = replies(&request, 50);
        assert_eq!(keys(&gathering.on_replies(request, &replies_of)), [2, 5]);
        let request = gathering.next_request(128).expect("a session waits");
        assert_eq!(wants_of(&request), [("p", 20)]);
    }

    #[test]
    fn sessions_that_have_gone_are_not_requested_for() {
        let mut gathering = of_keys([(1, &[("p", 10)]), (2, &[("q", 10)])]);
        gathering.forget(1);
        assert_eq!(gathering.next_request(128).as_ref().map(wants_of), Some(vec![("q", 10)]));
        gathering.add(3, vec![want("p", 1)]);
        gathering.add(3, vec![want("p", 2)]);
        assert_eq!(gathering.next_request(128).as_ref().map(wants_of), Some(vec![("p", 2)]));
        assert!(gathering.next_request(128).is_none());
        gathering.forget_all();
        assert_eq!(gathering.under_way, 0);
    }
}
