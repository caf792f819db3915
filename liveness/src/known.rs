//! Instances that a gateway knows to exist, although it has no view of the registry.

use std::collections::HashSet;

use lru::LruCache;
use shared::model::Revision;

use crate::{Ended, Key, Moment, Tick, Timing};

/// The ends that the keeper has told of.
#[derive(Debug)]
struct Told {
    epoch: u64,
    at: Moment,
    after: Revision,
    upto: Revision,
    /// Those after `after`.
    ended: HashSet<Key>,
}

/// The instances that a control plane has answered for and that have not ended since, as far as the keeper
/// has told. The one whose last heartbeat is the longest ago makes room.
#[derive(Debug)]
pub struct Known {
    timing: Timing,
    limit: usize,
    instances: LruCache<Key, ()>,
    told: Option<Told>,
}

impl Known {
    /// Bytes of an instance, about.
    pub const BYTES: usize = 80;

    /// Knows nothing yet, and `limit` instances at most.
    pub fn new(timing: Timing, limit: usize) -> Self {
        Self { timing, limit, instances: LruCache::unbounded(), told: None }
    }

    /// The number of instances.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// True without instances.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// True while the keeper tells of ends. If not, instances that are known here may have ended.
    pub fn is_told(&self, now: Moment) -> bool {
        self.told.as_ref().is_some_and(|told| now < told.at + self.timing.trust)
    }

    /// True for an instance that is known to exist.
    pub fn has(&mut self, key: Key, now: Moment) -> bool {
        self.is_told(now) && self.instances.get(&key).is_some()
    }

    /// Keeps an instance that existed at a revision. Nothing happens if it may have ended since.
    pub fn learn(&mut self, key: Key, rev: Revision) {
        let Some(told) = &self.told else { return };
        // What happens after `upto` is still to be told.
        let lives = rev >= told.upto || (rev >= told.after && !told.ended.contains(&key));
        if !lives || self.limit == 0 {
            return;
        }
        self.instances.put(key, ());
        while self.instances.len() > self.limit {
            self.instances.pop_lru();
        }
    }

    /// Forgets an instance.
    pub fn forget(&mut self, key: Key) {
        self.instances.pop(&key);
    }

    /// Forgets everything.
    pub fn forget_all(&mut self) {
        self.instances = LruCache::unbounded();
        self.told = None;
    }

    /// Takes a keeper's tick.
    pub fn heard(&mut self, tick: &Tick, now: Moment) {
        for key in &tick.unknown {
            self.instances.pop(key);
        }
        let Some(Ended { after, upto, keys }) = &tick.ended else { return };
        if let Some(told) = &self.told {
            // A keeper that has lost its seat and does not know that yet.
            if tick.epoch < told.epoch && now < told.at + self.timing.trust * 2 {
                return;
            }
            // Otherwise there are ends that nobody has told of, or the store has begun anew.
            if *after > told.upto || *upto < told.after || tick.epoch < told.epoch {
                self.forget_all();
            }
        }
        for key in keys {
            self.instances.pop(key);
        }
        // The view of a keeper that has just taken the seat may be a little behind that of the one before.
        let upto = self.told.as_ref().map_or(*upto, |told| told.upto.max(*upto));
        let ended = keys.iter().copied().collect();
        self.told = Some(Told { epoch: tick.epoch, at: now, after: *after, upto, ended });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::model::{ServiceRef, Tenant};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(n: u64) -> Key {
        Key::of(&ServiceRef::new(Tenant::default(), "s"), &n.to_string())
    }

    fn tick(epoch: u64, after: u64, upto: u64, ended: &[u64]) -> Tick {
        let keys = ended.iter().map(|n| key(*n)).collect();
        let ended = Ended { after: Revision::new(after), upto: Revision::new(upto), keys };
        // Through the form of the bus.
        Tick::decode(&Tick { epoch, ended: Some(ended), ..Tick::default() }.encode())
    }

    /// Told of all ends up to 10, and knows the instances 0 to 4.
    fn known() -> Known {
        let mut known = Known::new(Timing::default(), 5);
        known.heard(&tick(3, 5, 10, &[]), SECOND);
        (0..5).for_each(|n| known.learn(key(n), Revision::new(10)));
        known
    }

    fn all(known: &mut Known) -> Vec<u64> {
        (0..20).filter(|n| known.has(key(*n), SECOND)).collect()
    }

    #[test]
    fn an_instance_is_known_until_its_end_is_told() {
        let mut known = known();
        assert_eq!(all(&mut known), [0, 1, 2, 3, 4]);
        known.heard(&tick(3, 5, 12, &[1]), SECOND);
        known.heard(&Tick { unknown: vec![key(3)], ..Tick::default() }, SECOND);
        assert_eq!(all(&mut known), [0, 2, 4]);
        known.forget(key(0));
        assert_eq!(all(&mut known), [2, 4]);
    }

    #[test]
    fn nothing_is_known_while_nobody_tells_of_ends() {
        let mut known = Known::new(Timing::default(), 5);
        known.learn(key(0), Revision::new(10));
        assert!(!known.has(key(0), SECOND), "nobody has told anything yet");
        // As control planes of earlier versions do.
        known.heard(&Tick { epoch: 3, number: 1, ..Tick::default() }, SECOND);
        known.learn(key(0), Revision::new(10));
        assert!(known.is_empty());
        let mut known = super::tests::known();
        assert!(known.has(key(0), SECOND * 5));
        assert!(!known.has(key(0), SECOND * 6), "the keeper is silent");
    }

    #[test]
    fn a_gap_in_what_was_told_forgets_everything() {
        let mut known = known();
        known.heard(&tick(3, 11, 12, &[]), SECOND);
        assert!(known.is_empty(), "ends at 11 were not told");
        known.learn(key(1), Revision::new(12));
        assert_eq!(all(&mut known), [1]);
    }

    #[test]
    fn another_keeper_goes_on_where_the_last_one_was() {
        let mut known = known();
        known.heard(&tick(7, 2, 9, &[4]), SECOND);
        known.heard(&tick(3, 5, 11, &[0]), SECOND);
        assert_eq!(all(&mut known), [0, 1, 2, 3], "the one before has nothing to say any more");
        known.heard(&tick(7, 2, 11, &[4, 2]), SECOND);
        assert_eq!(all(&mut known), [0, 1, 3]);
        // A store that was restored: its revisions have begun again.
        known.heard(&tick(2, 1, 1, &[]), SECOND * 30);
        assert!(known.is_empty());
    }

    #[test]
    fn a_late_answer_does_not_bring_back_an_ended_instance() {
        let mut known = known();
        known.heard(&tick(3, 8, 12, &[1]), SECOND);
        known.learn(key(1), Revision::new(10));
        known.learn(key(6), Revision::new(7));
        assert_eq!(all(&mut known), [0, 2, 3, 4], "it may have ended at 11, and the other one at 8");
        known.learn(key(1), Revision::new(12));
        assert_eq!(all(&mut known), [0, 1, 2, 3, 4], "it was registered again");
    }

    #[test]
    fn the_longest_silent_instance_makes_room() {
        let mut known = known();
        assert!(known.has(key(0), SECOND));
        known.learn(key(9), Revision::new(10));
        assert_eq!(all(&mut known), [0, 2, 3, 4, 9]);
        let mut none = Known::new(Timing::default(), 0);
        none.heard(&tick(3, 5, 10, &[]), SECOND);
        none.learn(key(0), Revision::new(10));
        assert!(none.is_empty());
    }
}
