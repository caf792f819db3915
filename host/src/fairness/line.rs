//! The requests of one party: those that have places, and those that wait in line for one.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::allowance::Allowance;
use super::place::{Place, Stage, Wait};

/// The requests of one party.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The turn in which its last request came.
    pub(super) turn: u64,
    /// Its requests of that turn.
    pub(super) came: usize,
    pub(super) working: Queue,
    /// Its requests that wait for another program, and have left their place to the next one for good.
    pub(super) resting: usize,
    /// Those that wait, by what they wait for.
    pub(super) waits: [Queue; 3],
}

/// Requests of one party with places of one kind, and those that wait for such a place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) running: usize,
    pub(super) waiting: VecDeque<oneshot::Sender<Place>>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.resting == 0 && self.working.is_empty() && self.waits.iter().all(Queue::is_empty)
    }

    /// The kinds of places for which requests wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Stage> {
        let work = (Stage::Works, &self.working);
        let waits = [Wait::Answer, Wait::Word, Wait::News]
            .map(|wait| (Stage::Waits(wait), &self.waits[wait as usize]));
        let all = std::iter::once(work).chain(waits);
        all.filter(|(_, queue)| !queue.waiting.is_empty()).map(|(stage, _)| stage)
    }

    /// The places of a kind. `None` for requests that need none.
    pub(super) fn queue(&mut self, stage: Stage) -> Option<&mut Queue> {
        match stage {
            Stage::Works => Some(&mut self.working),
            Stage::Waits(wait) => Some(&mut self.waits[wait as usize]),
            Stage::Rests | Stage::Between => None,
        }
    }

    /// True if one more of its requests may have a place of this kind while parties share.
    pub(super) fn has_room(&self, stage: Stage, allowance: Allowance) -> bool {
        match stage {
            Stage::Works => {
                self.working.running < allowance.places()
                    && self.working.running + self.resting < allowance.highest()
            }
            Stage::Waits(wait) => self.waits[wait as usize].running < allowance.places(),
            Stage::Rests | Stage::Between => true,
        }
    }

    /// Takes a place of this kind, or waits for one in its line.
    pub(super) fn admit(
        &mut self,
        stage: Stage,
        allowance: Allowance,
        is_mixed: bool,
    ) -> Option<oneshot::Receiver<Place>> {
        let has_room = self.has_room(stage, allowance) || !is_mixed;
        let queue = self.queue(stage)?;
        if queue.waiting.is_empty() && has_room {
            queue.running += 1;
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        queue.waiting.push_back(sender);
        Some(receiver)
    }

    /// A request gives back what it has.
    pub(super) fn leave(&mut self, stage: Stage) {
        match stage {
            Stage::Rests => self.resting -= 1,
            stage => self.queue(stage).into_iter().for_each(|queue| queue.running -= 1),
        }
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }
}
