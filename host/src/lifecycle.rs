//! Owned tasks and the two ways to stop: drain (finish what you hold) and abort (stop now).
//!
//! Every task of a process is spawned through [`Tasks`], so that someone waits for its end. A vital task
//! that ends early, by return or by panic, starts the drain: a process half alive is worse than one that
//! restarts. SIGTERM or SIGINT is a drain; the second one aborts.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

/// The tasks of one process. Cheap to clone; all clones share the tokens.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Tasks {
    /// No tasks yet, nothing cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task without which the process is of no use; its early end starts the drain.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let drain = self.drain.clone();
        let guard = drain.clone().drop_guard();
        let task = async move {
            task.await;
            if !drain.is_cancelled() {
                error!(task = name, "a vital task ended early; draining");
            }
            drop(guard); // also on a panic, by unwinding
        };
        self.tracker.spawn(task.instrument(info_span!("task", name)));
    }

    /// Spawns a task that may end at any time.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Cancelled when nothing new is to be taken on.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when everything is to stop at once.
    pub fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Waits for the drain, then for all tasks to end, at most `grace`; then aborts and waits a last second.
    /// True if everything ended by itself.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.drain.cancelled().await;
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => return true,
            () = tokio::time::sleep(grace) => warn!(seconds = grace.as_secs_f64(), "the grace period is over; aborting"),
            () = self.abort.cancelled() => warn!("aborting"),
        }
        self.abort.cancel();
        if tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await.is_err() {
            warn!(tasks = self.tracker.len(), "some tasks did not end");
        }
        false
    }

    /// Turns signals into tokens: the first SIGTERM or SIGINT drains, the second aborts.
    ///
    /// # Errors
    /// When the process may not listen for signals.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (drain, abort) = (self.drain.clone(), self.abort.clone());
        // Not tracked: it lives as long as the process and holds nothing.
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                if drain.is_cancelled() {
                    abort.cancel();
                } else {
                    info!("signal received; draining");
                    drain.cancel();
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_early_end_of_a_vital_task_starts_the_drain() {
        let tasks = Tasks::new();
        tasks.spawn_vital("short", async {});
        assert!(tasks.finish(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn a_panic_of_a_vital_task_starts_the_drain() {
        let tasks = Tasks::new();
        tasks.spawn_vital("broken", async { panic!("on purpose") });
        assert!(tasks.finish(Duration::from_secs(60)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_aborted_after_the_grace() {
        let tasks = Tasks::new();
        let abort = tasks.abort().clone();
        tasks.spawn(async move { abort.cancelled().await });
        tasks.drain().cancel();
        assert!(!tasks.finish(Duration::from_secs(5)).await);
        assert!(tasks.abort().is_cancelled());
    }
}
