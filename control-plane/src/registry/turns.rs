//! Turns: the changes of one object run one after the other in this replica.
//!
//! A change is a compare-and-swap. Without turns, many changes of one object at the same time let each other
//! lose until their attempts are used up. Turns do not bind other replicas; there a change tries again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// The longest time that a change waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// The objects that are being changed. Cheap to clone; clones share the turns.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<String, Queue>>>);

/// The changes of one object that run or wait.
#[derive(Debug, Default)]
struct Queue {
    places: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The right to change an object. The next change may begin when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    // In this order: the queue is forgotten only after the turn has ended.
    _turn: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the queue of an object, until it is dropped.
#[derive(Debug)]
struct Place {
    turns: Turns,
    object: String,
}

impl Turns {
    /// Waits for the turn to change `object`, which is named by its key in the store. `None` when the time is
    /// over. Turns come in the order of the calls.
    pub(super) async fn take(&self, object: String) -> Option<Turn> {
        let turn = {
            let mut queues = self.0.lock();
            let queue = queues.entry(object.clone()).or_default();
            queue.places += 1;
            queue.turn.clone()
        };
        let place = Place { turns: self.clone(), object };
        let turn = tokio::time::timeout(PATIENCE, turn.lock_owned()).await.ok()?;
        Some(Turn { _turn: turn, _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.0.lock();
        if let Some(queue) = queues.get_mut(&self.object) {
            queue.places -= 1;
            // Objects are named by clients, so a queue in which nobody waits must not stay.
            if queue.places == 0 {
                queues.remove(&self.object);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_waited_for_and_nothing_stays_behind() {
        let turns = Turns::default();
        let first = turns.take("a".into()).await.expect("nobody is before it");
        assert!(turns.take("b".into()).await.is_some(), "another object");
        assert!(turns.take("a".into()).await.is_none(), "the first turn did not end in time");
        let mut waiting = Box::pin(turns.take("a".into()));
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        let second = waiting.await.expect("the first turn has ended");
        drop(second);
        assert!(turns.0.lock().is_empty());
    }
}
