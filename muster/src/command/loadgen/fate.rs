//! The judgement of one frame, by the numbers that its watcher has seen before it. Pure.

use super::frame::LoadFrame;
use super::tally::Tally;

/// The meaning of a frame for its watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has a higher number than any before it. So many changes between them were not told.
    Next { skipped: u64 },
    /// The watcher has it already, and the server was allowed to send it again.
    Repeated,
    /// The watcher has just been told the same, and nothing had allowed to tell it again.
    ToldTwice,
    /// Its change failed, and was made all the same after a later one.
    Late,
    /// It should have come before the frame that this watcher has seen last.
    OutOfOrder,
}

impl Fate {
    /// Judges a frame whose watcher has seen the number `last` of the same provider. `may_repeat` is true for
    /// frames that may have come before.
    pub(super) fn of(frame: LoadFrame, last: u64, may_repeat: bool, tally: &Tally) -> Self {
        if frame.seq > last {
            return Self::Next { skipped: tally.made_between(frame.owner, last, frame.seq) };
        }
        if may_repeat || frame.is_state {
            Self::Repeated
        } else if frame.seq == last {
            Self::ToldTwice
        } else if tally.has_failed(frame.owner, frame.seq) {
            Self::Late
        } else {
            Self::OutOfOrder
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_told_twice_is_not_out_of_order() {
        let tally = Tally::new(1);
        for number in 1..=9 {
            let mut turn = tally.turn(0).await;
            turn.next();
            if number == 3 { turn.failed() } else { turn.accepted() }
        }
        let change = |seq| LoadFrame { owner: 0, seq, at: 0, is_state: false };
        for (seq, last, may_repeat, fate) in [
            (1, 0, false, Fate::Next { skipped: 0 }),
            (6, 2, false, Fate::Next { skipped: 2 }),
            (6, 6, false, Fate::ToldTwice),
            (3, 3, false, Fate::ToldTwice),
            (5, 6, false, Fate::OutOfOrder),
            (3, 6, false, Fate::Late),
            (6, 6, true, Fate::Repeated),
            (5, 6, true, Fate::Repeated),
        ] {
            assert_eq!(Fate::of(change(seq), last, may_repeat, &tally), fate, "{seq} after {last}");
        }
        let state = LoadFrame { is_state: true, ..change(5) };
        assert_eq!(Fate::of(state, 6, false, &tally), Fate::Repeated);
    }
}
