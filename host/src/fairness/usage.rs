//! The parties that take more than their share of the processors.
//!
//! In: the time that each party's requests took, on its account, and the time that has passed. Out: whether a
//! party is over its share. The parties share a quarter of the processors' time so that a party that takes
//! little is left in peace: the shares of all are equal, and what one does not use is for the others. All
//! parties together are within that quarter if nobody took more than the *level*, so a party above the level
//! is over its share, and never one that took less than the quarter divided by the number of parties.
//!
//! Clients can make up a party for each request. So parties share one account, that of the *newcomers*, until
//! they have come in two turns: otherwise none of those that are made up would ever be over its share, and all
//! of them together would leave everybody else so small a share that everybody else would be over it.
//!
//! Times count for less the older they are: by half for each [`HALF`].

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::f64::consts::LN_2;
use std::time::Duration;

use crate::lane::Account;

/// After this time what a party has taken counts half. Where there is one processor, a party that takes all of
/// it is over its share after half of this time, and forgiven some two such times after its end.
const HALF: Duration = Duration::from_millis(20);
/// The part of the processors' time that parties share at usual priority. Small, because a request that finds
/// the processor taken waits: beyond a quarter that happens to many. Moving costs little where processors are
/// free, so nobody is punished for a larger part.
const SHARED: f64 = 0.25;
/// A time below this, in seconds, counts for nothing: a request of 80 µs is below it after an eighth of a second.
/// A higher bound would leave out parties whose many small parts add up.
const NOTHING: f64 = 1e-6;
/// After this time without a request a party is forgotten, and comes as a newcomer again.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// For this time from its admission a party is also over its share if the newcomers are: what it took before
/// stands on their account.
const YOUNG_FOR: Duration = Duration::from_millis(40);
/// The most parties that are known, and the most that have come once and are remembered for it.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Usage {
    processors: f64,
    /// The time of all processors, in seconds.
    offered: f64,
    /// Those that have come in two turns.
    parties: HashMap<u64, Party>,
    /// All others together.
    newcomers: Taken,
    /// Newcomers of this turn.
    fresh: HashSet<u64>,
    /// Newcomers of earlier turns.
    seen: HashSet<u64>,
    level: f64,
}

#[derive(Debug, Default)]
struct Taken {
    account: Account,
    /// The processors' time that was taken, in seconds.
    time: f64,
}

#[derive(Debug, Default)]
struct Party {
    taken: Taken,
    /// The time since its admission.
    age: Duration,
    /// The time since its last request.
    idle: Duration,
}

impl Taken {
    /// Of what was taken before only `rest` counts, and of the time on the account `counts`.
    fn pass(&mut self, rest: f64, counts: f64) {
        self.time = self.time * rest + self.account.take().as_secs_f64() * counts;
    }
}

impl Usage {
    /// Nothing is taken yet.
    pub(super) fn new(processors: usize) -> Self {
        Self {
            processors: processors as f64,
            offered: 0.0,
            parties: HashMap::new(),
            newcomers: Taken::default(),
            fresh: HashSet::new(),
            seen: HashSet::new(),
            level: f64::INFINITY,
        }
    }

    /// The account of a party that sends a request.
    pub(super) fn account(&mut self, party: u64) -> &Account {
        match self.parties.get_mut(&party) {
            Some(known) => {
                known.idle = Duration::ZERO;
                &known.taken.account
            }
            None => {
                if self.fresh.len() < MOST {
                    self.fresh.insert(party);
                }
                &self.newcomers.account
            }
        }
    }

    /// So much time has passed since this was called last: a turn ends.
    pub(super) fn passed(&mut self, passed: Duration) {
        let time = passed.as_secs_f64();
        let half = HALF.as_secs_f64();
        let rest = 0.5_f64.powf(time / half);
        // What was taken is spread over this time, of which the beginning counts for less already: otherwise a
        // long pause would outweigh everything that follows, or the present would count for nothing.
        let counts = if time > 0.0 { (1.0 - rest) * half / LN_2 / time } else { 1.0 };
        self.offered = self.offered * rest + time * self.processors * counts;
        self.newcomers.pass(rest, counts);
        self.parties.retain(|_, party| {
            party.taken.pass(rest, counts);
            party.age += passed;
            party.idle += passed;
            party.idle < KNOWN_FOR
        });
        self.admit();
        let taken = self.parties.values().map(|party| party.taken.time).chain([self.newcomers.time]);
        self.level = level(taken.filter(|taken| *taken > NOTHING), self.offered * SHARED);
    }

    /// Gives accounts of their own to newcomers of this turn that have come in an earlier one.
    fn admit(&mut self) {
        for party in self.fresh.drain() {
            if self.seen.remove(&party) {
                self.parties.insert(party, Party::default());
            } else if self.seen.len() < MOST {
                self.seen.insert(party);
            }
        }
        if self.seen.len() >= MOST {
            // A client makes them up. A party that comes again is seen again.
            self.seen.clear();
        }
        if self.parties.len() > MOST {
            // Parties with the youngest requests stay, and among equals the ones that are known longest.
            let rank = |party: &Party| (party.idle, Reverse(party.age));
            let mut ranks: Vec<_> = self.parties.values().map(rank).collect();
            // Half of them go, so that this is not done in each turn.
            let (_, first_to_go, _) = ranks.select_nth_unstable(MOST / 2);
            let first_to_go = *first_to_go;
            self.parties.retain(|_, party| rank(party) < first_to_go);
        }
    }

    /// True if the party had taken more than its share when time passed last.
    pub(super) fn is_over(&self, party: u64) -> bool {
        let newcomers = self.newcomers.time > self.level;
        match self.parties.get(&party) {
            Some(known) => known.taken.time > self.level || (known.age < YOUNG_FOR && newcomers),
            None => newcomers,
        }
    }

    /// The number of parties that are over their share. All newcomers count as one.
    pub(super) fn over(&self) -> usize {
        let known = self.parties.values().filter(|party| party.taken.time > self.level).count();
        known + usize::from(self.newcomers.time > self.level)
    }
}

/// The most that each of these may take so that together they take no more than `all`. Infinite if they do.
fn level(taken: impl Iterator<Item = f64>, all: f64) -> f64 {
    let mut taken: Vec<f64> = taken.collect();
    taken.sort_by(f64::total_cmp);
    let (mut left, mut parties) = (all, taken.len());
    for one in taken {
        let share = left / parties as f64;
        if one > share {
            return share;
        }
        left -= one;
        parties -= 1;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TURN: Duration = Duration::from_millis(5);

    /// Every party takes its part of each of the turns; then the parties that are over their share.
    fn over(processors: usize, parts: &[f64], turns: u32) -> Vec<u64> {
        let mut usage = Usage::new(processors);
        for _ in 0..turns {
            for (party, part) in (0..).zip(parts) {
                usage.account(party).add(TURN.mul_f64(*part));
            }
            usage.passed(TURN);
        }
        let parties = 0..parts.len() as u64;
        let over: Vec<u64> = parties.filter(|party| usage.is_over(*party)).collect();
        assert_eq!(over.len(), usage.over());
        over
    }

    #[test]
    fn whoever_takes_little_is_not_over_its_share() {
        assert_eq!(over(1, &[0.9, 0.04], 100), [0], "a flood and a usual client");
        assert_eq!(over(1, &[0.3, 0.3, 0.3, 0.04], 100), [0, 1, 2], "three floods");
        assert_eq!(over(1, &[0.12, 0.12], 100), [0; 0], "two that fit");
        assert_eq!(over(1, &[0.24], 100), [0; 0]);
        assert_eq!(over(4, &[0.9, 0.04], 100), [0; 0], "there are processors for all");
        assert_eq!(over(4, &[0.9, 0.9, 0.04], 100), [0, 1]);
    }

    #[test]
    fn a_flood_is_over_its_share_soon_and_forgiven_soon() {
        assert_eq!(over(1, &[1.0], 1), [0], "nothing is known of the time before");
        let mut usage = Usage::new(1);
        let turns = |usage: &mut Usage, flood: f64, until: bool| {
            let turn = (1..100).find(|_| {
                usage.account(1).add(TURN.mul_f64(0.04));
                usage.account(2).add(TURN.mul_f64(flood));
                usage.passed(TURN);
                assert!(!usage.is_over(1));
                usage.is_over(2) == until
            });
            turn.expect("it changes")
        };
        // A long time in which nobody floods.
        for _ in 0..100 {
            usage.account(1).add(TURN.mul_f64(0.04));
            usage.passed(TURN);
        }
        assert!(turns(&mut usage, 1.0, true) <= 2);
        for _ in 0..100 {
            turns(&mut usage, 1.0, true);
        }
        assert!(turns(&mut usage, 0.0, false) <= 12);
    }

    #[test]
    fn a_flood_is_over_its_share_however_seldom_it_is_looked_at() {
        let mut usage = Usage::new(1);
        for _ in 0..2 {
            usage.account(1).add(Duration::from_millis(100));
            usage.passed(Duration::from_millis(250));
            assert!(usage.is_over(1));
        }
        usage.passed(Duration::from_millis(250));
        assert!(!usage.is_over(1));
        usage.passed(Duration::from_secs(3600));
        usage.account(1).add(TURN);
        usage.account(1).add(TURN);
        usage.passed(TURN * 2);
        assert!(usage.is_over(1), "a long pause is no credit");
    }

    #[test]
    fn a_flood_of_parties_that_are_made_up_costs_nobody_else_its_share() {
        let honest = u64::MAX;
        let mut usage = Usage::new(2);
        let mut made_up = 0..;
        for turn in 0..400 {
            usage.account(honest).add(TURN.mul_f64(0.04));
            // From its twentieth turn on the honest party has a flood beside it: a new party for each request.
            if turn >= 20 {
                for party in made_up.by_ref().take(100) {
                    usage.account(party).add(TURN.mul_f64(0.02));
                }
            }
            usage.passed(TURN);
            assert!(!usage.is_over(honest), "turn {turn}");
            assert_eq!(turn >= 21, usage.is_over(made_up.start), "the next one, in turn {turn}");
        }
        assert!(usage.fresh.is_empty() && usage.seen.len() <= MOST && usage.parties.len() == 1);
    }

    #[test]
    fn parties_that_are_used_in_turns_escape_for_no_longer_than_one_that_is_not() {
        let mut usage = Usage::new(1);
        let mut escaped = 0;
        for turn in 0..1000 {
            // Each floods for so long that it is admitted, and then another one does.
            let party = turn / 4;
            usage.account(party).add(TURN);
            usage.passed(TURN);
            escaped += u32::from(!usage.is_over(party));
        }
        assert_eq!(escaped, 0);
    }

    #[test]
    fn the_parties_that_are_known_are_bounded_and_forgotten() {
        let mut usage = Usage::new(1);
        let most = 3 * MOST as u64;
        for party in 0..most {
            // In two turns, as a client can that makes them up in advance.
            for _ in 0..2 {
                usage.account(party).add(Duration::from_micros(80));
                usage.passed(TURN);
            }
            assert!(usage.parties.len() <= MOST && usage.seen.len() <= MOST);
        }
        assert!(usage.parties.contains_key(&(most - 1)), "the last one is known");
        usage.passed(KNOWN_FOR);
        assert!(usage.parties.is_empty());
        assert_eq!(usage.over(), 0);
    }

    proptest! {
        /// The level is held against what it means: nobody may take more, and all is taken.
        #[test]
        fn the_level_shares_everything_equally(
            taken in proptest::collection::vec(0.0_f64..10.0, 1..20),
            all in 0.1_f64..50.0,
        ) {
            let level = level(taken.iter().copied(), all);
            let sum: f64 = taken.iter().sum();
            if sum <= all {
                prop_assert!(taken.iter().all(|one| *one <= level), "everybody fits");
            } else {
                let within: f64 = taken.iter().map(|one| one.min(level)).sum();
                prop_assert!((within - all).abs() < 1e-9, "{within} of {all}");
                prop_assert!(taken.iter().any(|one| *one > level));
            }
            let fair = all / taken.len() as f64;
            prop_assert!(level >= fair - 1e-12, "an equal part is nobody's too much");
        }

        /// A plain model: the parties are taken off from the one that took least, and each is within its share
        /// if an equal part of what is left suffices for it.
        #[test]
        fn who_is_over_its_share_is_as_in_a_plain_model(
            parts in proptest::collection::vec(0.0_f64..1.0, 1..12),
            processors in 1_usize..8,
        ) {
            // So many turns that times before them count for nothing.
            let found = over(processors, &parts, 200);
            let all = SHARED * processors as f64;
            let mut model: Vec<u64> = (0..parts.len() as u64).collect();
            loop {
                let within: f64 = (0..).zip(&parts).filter(|(party, _)| !model.contains(party)).map(|(_, part)| part).sum();
                let share = (all - within) / model.len() as f64;
                let Some(fits) = model.iter().position(|party| parts[*party as usize] <= share) else { break };
                model.remove(fits);
            }
            // Of parts that are as good as equal to the share the sums of many turns may say either.
            let close = |party: &u64| {
                let part = parts[*party as usize];
                let share = {
                    let within: f64 = parts.iter().filter(|other| **other < part).sum();
                    (all - within) / parts.iter().filter(|other| **other >= part).count() as f64
                };
                (part - share).abs() < 5e-3 || part < 1e-2
            };
            let differ = (0..parts.len() as u64).filter(|party| found.contains(party) != model.contains(party));
            prop_assert!(differ.clone().all(|party| close(&party)), "{:?}", differ.collect::<Vec<_>>());
        }
    }
}
