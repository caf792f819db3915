//! The barrier before "nothing has changed": a replica says what changed up to a moment after the request
//! arrived.
//!
//! In: requests that wait. Out: the changes, or nothing when no replica could tell them. One question serves
//! all requests that arrived before it was asked; one that arrives meanwhile waits for the next. The replica
//! reads the store's revision first, so whatever anybody was told before, by whichever gateway, is among the
//! changes.

use std::sync::Arc;

use follow::read::Changes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Requests that may wait; further ones go to a control plane.
const MOST_WAITING: usize = 16_384;

type Waiting = oneshot::Sender<Option<Arc<Changes>>>;

/// The way to the barrier. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    queue: mpsc::Sender<Waiting>,
}

/// The task behind it.
pub(crate) struct Barriers<A> {
    queue: mpsc::Receiver<Waiting>,
    ask: A,
}

impl Barrier {
    /// A barrier that is passed by asking for the changes after a bookmark. `ask` also chooses the bookmark.
    pub(crate) fn new<A, F>(ask: A) -> (Self, Barriers<A>)
    where
        A: Fn() -> F,
        F: Future<Output = Option<Changes>>,
    {
        let (sender, queue) = mpsc::channel(MOST_WAITING);
        (Self { queue: sender }, Barriers { queue, ask })
    }

    /// Everything that changed since a bookmark, up to a moment after this call. `None` when nobody can say
    /// it.
    pub(crate) async fn pass(&self) -> Option<Arc<Changes>> {
        let (sender, changes) = oneshot::channel();
        self.queue.try_send(sender).ok()?;
        changes.await.ok()?
    }
}

impl<A, F> Barriers<A>
where
    A: Fn() -> F,
    F: Future<Output = Option<Changes>>,
{
    /// Serves until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(first)) = stop.run_until_cancelled(self.queue.recv()).await {
            let mut waiting = vec![first];
            while let Ok(next) = self.queue.try_recv() {
                waiting.push(next);
            }
            let changes = (self.ask)().await.map(Arc::new);
            for request in waiting {
                // One that has stopped waiting needs nothing.
                let _ = request.send(changes.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use shared::model::Revision;

    use super::*;

    #[tokio::test]
    async fn requests_share_a_question_that_began_after_them() {
        let asked = Cell::new(0);
        let (release, released) = tokio::sync::watch::channel(0);
        let ask = || {
            asked.set(asked.get() + 1);
            let number = asked.get();
            let mut released = released.clone();
            async move {
                released.wait_for(|of| *of >= number).await.expect("the sender lives");
                Some(Changes { since: Revision::new(number), ..Changes::default() })
            }
        };
        let (barrier, barriers) = Barrier::new(ask);
        let stop = CancellationToken::new();
        let requests = async {
            let first = barrier.pass();
            let second = async {
                // The first question is under way, so it says nothing about what came after it began.
                while asked.get() == 0 {
                    tokio::task::yield_now().await;
                }
                let both = async { tokio::join!(barrier.pass(), barrier.pass()) };
                let release = async {
                    tokio::task::yield_now().await;
                    release.send_replace(2);
                };
                tokio::join!(both, release).0
            };
            let (first, (second, third)) = tokio::join!(first, second);
            stop.cancel();
            [first, second, third].map(|changes| changes.expect("an answer").since.get())
        };
        let (_, answers) = tokio::join!(barriers.run(stop.clone()), requests);
        assert_eq!(answers, [1, 2, 2]);
    }
}
