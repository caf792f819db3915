//! The barrier before "nothing has changed": a replica says what changed up to a moment after the request
//! arrived.
//!
//! In: requests that wait. Out: the changes, or nothing when no replica could tell them. One question serves
//! all requests that arrived before it was asked; one that arrives meanwhile waits for the next. The replica
//! reads the store's revision first, so whatever anybody was told before, by whichever gateway, is among the
//! changes. In a crowd, the first requests wait a moment for the others.

use std::sync::Arc;
use std::time::Duration;

use follow::read::Changes;
use host::crowd::Crowd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Requests that may wait; further ones go to a control plane.
const MOST_WAITING: usize = 16_384;
/// The longest time for which requests wait for others. A question of a crowd takes about as long.
const GATHERING: Duration = Duration::from_millis(4);

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
        let mut crowd = Crowd::new(GATHERING);
        while let Some(Some(waiting)) = stop.run_until_cancelled(self.gather(&mut crowd)).await {
            let changes = (self.ask)().await.map(Arc::new);
            for request in waiting {
                // One that has stopped waiting needs nothing.
                let _ = request.send(changes.clone());
            }
        }
    }

    /// The requests that share the next question. `None` when no other can come.
    async fn gather(&mut self, crowd: &mut Crowd) -> Option<Vec<Waiting>> {
        let mut waiting = vec![self.queue.recv().await?];
        loop {
            while let Ok(next) = self.queue.try_recv() {
                waiting.push(next);
            }
            let Some(until) = crowd.waits_until(waiting.len(), Instant::now()) else { return Some(waiting) };
            match timeout_at(until, self.queue.recv()).await {
                Ok(Some(next)) => waiting.push(next),
                Ok(None) => return Some(waiting),
                Err(_) => {}
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
    #[tokio::test(start_paused = true)]
    async fn requests_that_come_again_share_each_question() {
        let asked = Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some(Changes::default())
            }
        };
        let (barrier, barriers) = Barrier::new(ask);
        let barrier = &barrier;
        // They come apart at first, so that without a crowd there would be two halves in turns.
        let clients = (0..16).map(|client| async move {
            tokio::time::sleep(Duration::from_micros(200 * client)).await;
            for _ in 0..20 {
                barrier.pass().await.expect("an answer");
            }
        });
        let stop = CancellationToken::new();
        let all = async {
            futures_util::future::join_all(clients).await;
            stop.cancel();
        };
        tokio::join!(barriers.run(stop.clone()), all);
        assert!(asked.get() <= 26, "{} questions for 20 requests of each", asked.get());
    }
}
