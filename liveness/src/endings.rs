//! The instances that have ended of late, for those who know instances without a view.

use std::collections::VecDeque;
use std::time::Duration;

use shared::model::Revision;

use crate::{Ended, Key, Moment};

/// The most ends that are told at once: 64 KiB of keys.
const MOST: usize = 4096;
/// The time for which an end is told again. A tick that is lost in it costs nobody anything.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// The ends of instances in the order of revisions. The keeper tells of them in its ticks.
#[derive(Debug)]
pub struct Endings {
    after: Revision,
    upto: Revision,
    ended: VecDeque<(Revision, Key, Moment)>,
}

impl Endings {
    /// Ends after this revision, of which none is known yet.
    pub fn after(rev: Revision) -> Self {
        Self { after: rev, upto: rev, ended: VecDeque::new() }
    }

    /// An instance has ended. In the order of revisions.
    pub fn push(&mut self, rev: Revision, key: Key, now: Moment) {
        if rev <= self.after {
            // Of a revision of which others had to go already: nobody is told of half a revision.
            return;
        }
        self.ended.push_back((rev, key, now));
        while self.ended.len() > MOST {
            self.drop_first();
        }
    }

    /// All ends up to this revision have been noted.
    pub fn advance(&mut self, upto: Revision) {
        self.upto = self.upto.max(upto);
    }

    /// The ends to be told of now.
    pub fn told(&mut self, now: Moment) -> Ended {
        while self.ended.front().is_some_and(|(_, _, at)| *at + TOLD_FOR <= now) {
            self.drop_first();
        }
        let keys = self.ended.iter().map(|(_, key, _)| *key).collect();
        Ended { after: self.after, upto: self.upto, keys }
    }

    /// Drops the ends of the oldest revision.
    fn drop_first(&mut self) {
        let Some((rev, _, _)) = self.ended.pop_front() else { return };
        self.after = rev;
        while self.ended.pop_front_if(|(of, _, _)| *of == rev).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use shared::model::{ServiceRef, Tenant};

    use super::*;

    fn key(n: u64) -> Key {
        Key::of(&ServiceRef::new(Tenant::default(), "s"), &n.to_string())
    }

    #[test]
    fn an_end_is_told_for_a_while_and_its_revision_then_left_out() {
        let mut endings = Endings::after(Revision::new(5));
        endings.push(Revision::new(7), key(1), Moment::ZERO);
        endings.push(Revision::new(7), key(2), Moment::ZERO);
        assert_eq!(endings.told(Moment::ZERO).upto.get(), 5, "there may be more of the same revision");
        endings.push(Revision::new(9), key(3), TOLD_FOR);
        endings.advance(Revision::new(12));
        let told = endings.told(TOLD_FOR / 2);
        assert_eq!((told.after.get(), told.upto.get(), told.keys.len()), (5, 12, 3));
        let told = endings.told(TOLD_FOR);
        assert_eq!((told.after.get(), told.upto.get(), told.keys), (7, 12, vec![key(3)]));
    }

    #[test]
    fn a_revision_that_is_too_large_is_left_out_as_a_whole() {
        let mut endings = Endings::after(Revision::new(5));
        for n in 0..MOST as u64 + 10 {
            endings.push(Revision::new(7), key(n), Moment::ZERO);
        }
        endings.advance(Revision::new(7));
        let told = endings.told(Moment::ZERO);
        assert_eq!((told.after.get(), told.upto.get(), told.keys.len()), (7, 7, 0));
    }
}
