//! The place of a request, which goes to the next one when the request is over, or waits for another program.

use std::mem;
use std::sync::Arc;

use super::Shares;

/// A request's leave to be worked on. The next request of its party gets the place when it is dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Place {
    /// The shares and the party. `None` where nothing is limited.
    pub(super) of: Option<(Arc<Shares>, u64)>,
    pub(super) stage: Stage,
}

/// What a request waits for. It waits behind those of its party that wait for the same, and behind no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The answer of another program to this request, which takes a connection.
    Answer,
    /// A word of another program for which many requests wait together.
    Word,
    /// The moment in which this process has heard enough of others.
    News,
}

/// What the request of a place is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Works,
    Rests,
    Waits(Wait),
    /// It has given its place back, and has no other yet.
    Between,
}

impl Place {
    pub(super) fn of(shares: &Arc<Shares>, party: u64, stage: Stage) -> Self {
        Self { of: Some((shares.clone(), party)), stage }
    }

    /// Gives the place to the next request for good: what is left of a request after it has waited is little.
    pub(super) fn rest(&mut self) {
        if self.stage != Stage::Works {
            return;
        }
        self.stage = Stage::Rests;
        if let Some((shares, party)) = &self.of {
            shares.with_line(*party, |line| {
                line.leave(Stage::Works);
                line.resting += 1;
            });
            shares.pass_on(*party, Stage::Works);
        }
    }

    /// Gives the place back, because the request begins to wait. Returns where it gets its next one, unless that
    /// is the one which it has.
    pub(super) fn leave(&mut self, to: Wait) -> Option<(Arc<Shares>, u64)> {
        if self.stage == Stage::Waits(to) {
            return None;
        }
        self.give_back();
        self.of.clone()
    }

    fn give_back(&mut self) {
        let stage = mem::replace(&mut self.stage, Stage::Between);
        if let Some((shares, party)) = &self.of {
            shares.with_line(*party, |line| line.leave(stage));
            // What rests counts among those that are worked on.
            let freed = if stage == Stage::Rests { Stage::Works } else { stage };
            shares.pass_on(*party, freed);
        }
    }

    /// Drops the place without giving it to anybody.
    pub(super) fn forget(mut self) {
        self.of = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.stage != Stage::Between {
            self.give_back();
        }
    }
}
