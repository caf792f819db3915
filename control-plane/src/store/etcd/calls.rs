//! Calls that run to their end, whether or not somebody still waits for them.
//!
//! A caller leaves when its client disconnects. If its call were cancelled with it, etcd's response would
//! arrive for a stream that does not exist any more. The HTTP/2 library counts such responses over the whole
//! life of a connection, and closes the connection at the 1024th: leaving clients would cut off everyone.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use host::lifecycle::Tasks;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use crate::store::StoreError;

/// The most calls under way. Those of callers that have left count, so that leaving gains a client nothing.
/// An etcd that commits 200 changes a second, which is a slow one, answers so many within half of the usual
/// deadline of 5 s.
const MOST: usize = 512;

/// The calls to etcd that are under way, as tasks of the process.
pub(super) struct Calls {
    tasks: Tasks,
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl Calls {
    pub(super) fn new(tasks: Tasks, timeout: Duration) -> Self {
        Self { tasks, permits: Arc::new(Semaphore::new(MOST)), timeout }
    }

    /// Runs a call within the deadline, which includes the wait while too many others are under way. A call
    /// that could not begin within half of that is refused as [`StoreError::Busy`]: it would hardly be
    /// answered in time, and its caller would not know whether it happened. Cancel-safe: a call that has
    /// begun goes on without its caller.
    pub(super) async fn run<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
    {
        self.run_or_undo(call, |_| ready(())).await
    }

    /// Runs a call as [`Calls::run`] does. If its caller has left when it ends, the result is given to `undo`,
    /// which has a deadline of its own and takes the place of the call meanwhile.
    pub(super) async fn run_or_undo<T, U>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
        undo: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        U: Future<Output = ()> + Send,
    {
        let now = Instant::now();
        let deadline = now + self.timeout;
        let permit = match timeout_at(now + self.timeout / 2, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(StoreError::Busy),
        };
        let (sender, receiver) = oneshot::channel();
        let patience = self.timeout;
        let task = async move {
            let result = timeout_at(deadline, call).await;
            // The caller may have left.
            if let Err(Ok(Ok(result))) = sender.send(result) {
                let _ = timeout(patience, undo(result)).await;
            }
            drop(permit);
        };
        self.tasks.spawn(task.in_current_span());
        match receiver.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.timed_out()),
            Err(_) => Err(StoreError::Unavailable("the call ended without a result".into())),
        }
    }

    pub(super) fn timed_out(&self) -> StoreError {
        StoreError::Unavailable(format!("etcd did not answer within {:?}", self.timeout))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_when_its_caller_leaves() {
        let calls = Calls::new(Tasks::new(), Duration::from_secs(5));
        let ended = Arc::new(AtomicUsize::new(0));
        let call = {
            let ended = ended.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                ended.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        assert!(calls.run(call).now_or_never().is_none());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_caller_has_not_waited_for_is_undone() {
        let calls = Calls::new(Tasks::new(), Duration::from_secs(5));
        let undone = Arc::new(AtomicUsize::new(0));
        let granted = |value| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(value)
        };
        let undo = || {
            let undone = undone.clone();
            move |value| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                undone.fetch_add(value, Ordering::Relaxed);
            }
        };
        assert!(calls.run_or_undo(granted(7), undo()).now_or_never().is_none());
        assert_eq!(calls.run_or_undo(granted(100), undo()).await.expect("granted"), 100);
        assert_eq!(calls.permits.available_permits(), MOST - 1, "leaving gains a client nothing");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((undone.load(Ordering::Relaxed), calls.permits.available_permits()), (7, MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_beyond_the_bound_begin_in_time_or_not_at_all() {
        let calls = Calls::new(Tasks::new(), Duration::from_secs(5));
        for _ in 0..MOST {
            assert!(calls.run(pending::<Result<(), StoreError>>()).now_or_never().is_none());
            // A task that never yields would soon be given no more permits.
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        let refused: Result<(), _> = calls.run(async { panic!("there is no room for it") }).await;
        assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
        assert_eq!(began.elapsed(), Duration::from_millis(2500));
        // The deadline ends the calls of those that have left as well.
        tokio::time::sleep(Duration::from_secs(6)).await;
        calls.run(async { Ok(()) }).await.expect("there is room again");
        assert!(calls.run(pending::<Result<(), StoreError>>()).await.is_err(), "it has a deadline");
    }
}
