//! The suspicion that the store was restored from a backup.
//!
//! In: what bookmarks say, and confirmations that replicas read from the store. Out: the decision to ask for
//! a confirmation, and the proof that the store was restored.
//!
//! A bookmark of another incarnation than the known one, or bookmarks that stay behind the highest revision
//! seen so far, mean that the store was set back, or that their publisher lags. Neither proves anything. A
//! confirmation does: a replica reads the store's revision and incarnation after it was asked, and both only
//! change in one direction unless the store is restored. Until this is proven nothing is forgotten, so a
//! lagging publisher costs no watcher anything.

use std::time::{Duration, Instant};

use shared::model::{Incarnation, Revision};

/// The time for which bookmarks must stay behind before a confirmation is requested. A publisher that is
/// merely slower than another replica's reply catches up sooner.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// The conclusion from a bookmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The bookmark may be applied. One of another incarnation counts revisions of another history.
    pub believed: bool,
    /// A confirmation is to be requested now.
    pub ask: bool,
}

/// A confirmation: what a replica has read from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The store's revision.
    pub rev: Revision,
    /// The store's incarnation; `None` from a replica of a version that does not know it.
    pub incarnation: Option<Incarnation>,
}

/// The known incarnation, and the suspicion that it is not the store's any more.
#[derive(Debug, Default)]
pub struct Suspicion {
    /// `None` until a publisher of a version that knows it has been heard.
    known: Option<Incarnation>,
    /// The time since which bookmarks have been behind, or at which the store was last asked.
    since: Option<Instant>,
    /// A confirmation is being requested.
    requested: bool,
}

impl Suspicion {
    /// The incarnation in whose revisions everything is counted.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.known
    }

    /// Takes note of a bookmark up to `rev`. `seen` is the highest revision known before it.
    pub fn hear(
        &mut self,
        rev: Revision,
        incarnation: Option<Incarnation>,
        seen: Revision,
        now: Instant,
    ) -> Verdict {
        // A publisher of an older version says nothing, and is believed as before.
        if let Some(said) = incarnation
            && *self.known.get_or_insert(said) != said
        {
            return Verdict { believed: false, ask: !std::mem::replace(&mut self.requested, true) };
        }
        if rev >= seen {
            self.since = None;
            return Verdict { believed: true, ask: false };
        }
        let ask = now >= *self.since.get_or_insert(now) + SUSPECT_AFTER && !self.requested;
        if ask {
            self.since = Some(now);
            self.requested = true;
        }
        Verdict { believed: true, ask }
    }

    /// Nobody gave the requested confirmation.
    pub fn unanswered(&mut self) {
        self.requested = false;
    }

    /// Compares a confirmation with `seen`, which was known before it was requested. Returns the revision of
    /// the store if it was restored. Everything known so far is then of another history.
    pub fn judge(&mut self, confirmation: Confirmation, seen: Revision) -> Option<Revision> {
        self.requested = false;
        let Confirmation { rev, incarnation } = confirmation;
        let is_other = incarnation.is_some_and(|stored| *self.known.get_or_insert(stored) != stored);
        if !is_other && rev >= seen {
            return None;
        }
        *self = Self { known: incarnation, since: None, requested: false };
        Some(rev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Option<Incarnation> = Some(Incarnation::FIRST);

    fn new() -> Option<Incarnation> {
        Some(Incarnation::new(7))
    }

    fn stored(rev: u64, incarnation: Option<Incarnation>) -> Confirmation {
        Confirmation { rev: rev.into(), incarnation }
    }

    /// Hears a bookmark up to `rev` of a gateway that has seen 20.
    fn hear(suspicion: &mut Suspicion, rev: u64, said: Option<Incarnation>, now: Instant) -> (bool, bool) {
        let verdict = suspicion.hear(rev.into(), said, 20.into(), now);
        (verdict.believed, verdict.ask)
    }

    #[test]
    fn another_incarnation_is_confirmed_at_once() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        assert_eq!(hear(&mut suspicion, 20, OLD, now), (true, false), "the first one heard is known");
        // The restored store has passed the old revision, so only the incarnation tells.
        assert_eq!(hear(&mut suspicion, 25, new(), now), (false, true));
        assert_eq!(hear(&mut suspicion, 26, new(), now), (false, false), "it is being asked");
        suspicion.unanswered();
        assert_eq!(hear(&mut suspicion, 26, new(), now), (false, true), "nobody answered, so again");
        assert_eq!(suspicion.judge(stored(26, new()), 20.into()), Some(26.into()));
        assert_eq!(hear(&mut suspicion, 26, new(), now), (true, false));
    }

    #[test]
    fn a_late_bookmark_of_the_undone_history_changes_nothing() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        assert_eq!(hear(&mut suspicion, 20, new(), now), (true, false));
        assert_eq!(hear(&mut suspicion, 90, OLD, now), (false, true));
        assert_eq!(suspicion.judge(stored(21, new()), 20.into()), None);
        assert_eq!(suspicion.incarnation(), new());
        // Planes that have all been replaced since know only what the older backup says. The store decides.
        assert_eq!(hear(&mut suspicion, 90, OLD, now), (false, true));
        assert_eq!(suspicion.judge(stored(91, OLD), 20.into()), Some(91.into()));
    }

    #[test]
    fn a_publisher_of_an_older_version_is_believed() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        assert_eq!(hear(&mut suspicion, 20, OLD, now), (true, false));
        assert_eq!(hear(&mut suspicion, 21, None, now), (true, false));
        // Its revisions still tell, after a while.
        assert_eq!(hear(&mut suspicion, 19, None, now), (true, false));
        assert_eq!(hear(&mut suspicion, 19, None, now + SUSPECT_AFTER), (true, true));
        assert_eq!(suspicion.judge(stored(20, None), 20.into()), None, "it lags");
        assert_eq!(hear(&mut suspicion, 19, None, now + SUSPECT_AFTER), (true, false));
        assert_eq!(hear(&mut suspicion, 19, None, now + SUSPECT_AFTER * 2), (true, true));
        assert_eq!(suspicion.judge(stored(19, None), 20.into()), Some(19.into()));
        assert_eq!(suspicion.incarnation(), None, "the next bookmark says which it is");
    }

    /// Random histories: replicas notice restores late, bookmarks arrive late, confirmations fail. Once
    /// everything has come to rest the gateway follows the incarnation of the store, and it has started over
    /// only for restores.
    #[test]
    fn a_gateway_ends_in_the_incarnation_of_the_store() {
        for seed in 0..2000 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let now = Instant::now();
            let mut suspicion = Suspicion::default();
            let mut store = (Revision::new(10), Incarnation::FIRST);
            let mut views = [store; 3];
            let mut seen = Revision::new(10);
            let mut restores = 0;
            let mut started_over = 0;
            for step in 0..200 {
                let is_calm = step >= 150;
                match dice.u8(0..8) {
                    0 if !is_calm => {
                        store = (Revision::new(dice.u64(5..=store.0.get())), store.1.after(dice.u32(..)));
                        restores += 1;
                    }
                    1 | 2 => store.0 = store.0.next(),
                    3 | 4 => views[dice.usize(0..views.len())] = store,
                    _ => {}
                }
                if is_calm {
                    views = [store; 3];
                }
                let (rev, said) = views[dice.usize(0..views.len())];
                let verdict = suspicion.hear(rev, Some(said), seen, now);
                if verdict.ask {
                    let confirmation = Confirmation { rev: store.0, incarnation: Some(store.1) };
                    if !is_calm && dice.bool() {
                        suspicion.unanswered();
                    } else if let Some(back) = suspicion.judge(confirmation, seen) {
                        started_over += 1;
                        seen = back;
                    }
                } else if verdict.believed {
                    seen = seen.max(rev);
                }
            }
            assert_eq!(suspicion.incarnation(), Some(store.1), "seed {seed}");
            // The first bookmark may have been of a view that was behind already.
            assert!(started_over <= restores, "seed {seed}: {started_over} of {restores}");
        }
    }
}
