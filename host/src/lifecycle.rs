//! The tasks of a process, and the two ways to stop them: a drain lets them finish their work, an abort stops
//! them at once.
//!
//! Every task is spawned through [`Tasks`], so that the process waits for its end. When a vital task ends
//! early, by return or by panic, the process drains: a process with a part missing is worse than one that is
//! restarted. The first SIGTERM or SIGINT makes the process leave, the second one starts the abort.
//!
//! Tasks run in the usual lane, also those that a request in the slow one begins: they may go on for long, or
//! hold what others wait for.
//!
//! Clients get most of the time that a drain may take, and lose their connections shortly before its end
//! ([`Tasks::cut`]). So one that sends a body for ever, or reads an answer slowly, holds a drain up and does not make
//! it fail.
//!
//! A process that leaves is not ready from that moment on. Its drain begins at once, or after the time that
//! [`Tasks::delay_drain`] gives to load balancers, so that they send clients elsewhere first.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

use crate::lane::{self, SlowLane};

/// The last part of a drain's grace, which belongs to the process alone: enough to hand over to another replica. A
/// fifth of a grace that is shorter than five of these.
const WITHOUT_CLIENTS: Duration = Duration::from_secs(2);

/// The time before that in which no new client is taken, so that short requests are finished. A twentieth of a grace that
/// is shorter than twenty of these.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// The tasks of one process. Cheap to clone; all clones share the tokens.
#[derive(Clone, Debug)]
pub struct Tasks {
    slow_lane: Option<SlowLane>,
    tracker: TaskTracker,
    leaving: CancellationToken,
    /// A task begins the drain some time after `leaving`.
    is_delayed: Arc<AtomicBool>,
    drain: CancellationToken,
    closing: CancellationToken,
    cut: CancellationToken,
    abort: CancellationToken,
}

impl Default for Tasks {
    fn default() -> Self {
        let abort = CancellationToken::new();
        Self {
            slow_lane: None,
            tracker: TaskTracker::new(),
            leaving: CancellationToken::new(),
            is_delayed: Arc::default(),
            drain: CancellationToken::new(),
            closing: abort.child_token(),
            cut: abort.child_token(),
            abort,
        }
    }
}

impl Tasks {
    /// No tasks yet, nothing cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same tasks, with a slow lane for connections whose clients take more than their share.
    pub fn with_slow_lane(self, lane: SlowLane) -> Self {
        Self { slow_lane: Some(lane), ..self }
    }

    /// The slow lane, if there is one.
    pub fn slow_lane(&self) -> Option<&SlowLane> {
        self.slow_lane.as_ref()
    }

    /// Spawns a task that the process cannot do without. Its early end starts the drain. `name` is in the
    /// span of its log lines.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let drain = self.drain.clone();
        let guard = drain.clone().drop_guard();
        let task = async move {
            task.await;
            if !drain.is_cancelled() {
                error!(task = name, "a vital task ended early; the process drains and must be restarted");
            }
            // A panic drops the guard as well, by unwinding.
            drop(guard);
        };
        self.spawn(task.instrument(info_span!("task", name)));
    }

    /// Spawns a task that may end at any time, such as the work for one connection.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match lane::usual() {
            Some(usual) => self.tracker.spawn_on(task, &usual),
            None => self.tracker.spawn(task),
        };
    }

    /// Like [`Tasks::spawn`], for a task that lives as long as the process. `name` is in the span of
    /// its log lines.
    pub fn spawn_named(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(task.instrument(info_span!("task", name)));
    }

    /// Makes the process leave: it is not ready any more, and drains at once or after the delay of
    /// [`Tasks::delay_drain`]. Further calls change nothing.
    pub fn leave(&self) {
        let is_first = !self.leaving.is_cancelled();
        self.leaving.cancel();
        if !self.is_delayed.load(Ordering::SeqCst) {
            info!("this process drains");
            self.drain.cancel();
        } else if is_first {
            info!("this process is not ready from now on, and drains after drain-delay");
        }
    }

    /// Cancelled when the process has been told to leave, which may be before its drain. A drain that begins
    /// without that, because a vital task ended, does not cancel it.
    pub fn leaving(&self) -> &CancellationToken {
        &self.leaving
    }

    /// True once the process leaves or drains: it may be given no new work.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled() || self.drain.is_cancelled()
    }

    /// Puts off the drain of a process that leaves until `delay` has ended, which is made at that moment. A
    /// drain for another reason, and an abort, do not wait for it.
    pub fn delay_drain<F>(&self, delay: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (leaving, drain) = (self.leaving.clone(), self.drain.clone());
        // The drain must begin in any case, also when `delay` panics.
        let guard = drain.clone().drop_guard();
        self.is_delayed.store(true, Ordering::SeqCst);
        self.spawn_named("leaving", async move {
            let delayed = async {
                leaving.cancelled().await;
                delay().await;
            };
            if drain.run_until_cancelled(delayed).await.is_some() {
                info!("this process drains");
            }
            drop(guard);
        });
    }

    /// Cancelled when the process must take on nothing new and finish its work.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when no new clients may be taken, although the drain goes on: some time before [`Tasks::cut`].
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Cancelled when the connections that are still open must be closed, whatever their clients do: in the last
    /// part of the grace of [`Tasks::finish`], and on an abort.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Cancelled when the process must stop at once.
    pub fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Waits for the drain to begin, and then for all tasks to end. Clients lose their connections some time before the
    /// end of `grace` ([`Tasks::cut`]). After `grace`, or on an abort, stops all tasks and waits one more second. True
    /// if all tasks ended by themselves.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.drain.cancelled().await;
        self.tracker.close();
        let without_clients = WITHOUT_CLIENTS.min(grace / 5);
        let last_requests = LAST_REQUESTS.min(grace / 20);
        let waiting = async {
            tokio::time::sleep(grace - without_clients - last_requests).await;
            self.closing.cancel();
            tokio::time::sleep(last_requests).await;
            self.cut.cancel();
            tokio::time::sleep(without_clients).await;
        };
        tokio::select! {
            // After an abort they have not ended by themselves, however soon that is seen here.
            () = self.tracker.wait() => return !self.abort.is_cancelled(),
            () = waiting => {
                warn!(seconds = grace.as_secs_f64(), "the grace period is over; aborting the remaining tasks");
            }
            () = self.abort.cancelled() => warn!("aborting the remaining tasks"),
        }
        self.abort.cancel();
        if tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await.is_err() {
            // The caller leaves the runtime next, which drops them. They may hold up the process
            // if they block.
            warn!(tasks = self.tracker.len(), "some tasks did not end after the abort");
        }
        false
    }

    /// Listens for signals: the first SIGTERM or SIGINT makes the process leave, the second one starts the
    /// abort.
    ///
    /// # Errors
    /// When the handlers for the signals cannot be installed.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let tasks = self.clone();
        #[expect(clippy::disallowed_methods, reason = "it lives as long as the process and holds nothing")]
        // Not tracked: it must listen until the process ends, so `finish` would wait for it in vain.
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                if tasks.is_leaving() {
                    // `finish` waits for the drain first.
                    tasks.drain.cancel();
                    tasks.abort.cancel();
                } else {
                    info!("received a signal to end");
                    tasks.leave();
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

    #[tokio::test]
    async fn a_process_without_a_delay_drains_when_it_leaves() {
        let tasks = Tasks::new();
        tasks.leave();
        assert!(tasks.is_leaving() && tasks.drain().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_its_delay() {
        let tasks = Tasks::new();
        tasks.delay_drain(|| tokio::time::sleep(Duration::from_secs(5)));
        // The delay counts from the moment at which the process leaves.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!tasks.is_leaving() && !tasks.drain().is_cancelled());
        let told = tokio::time::Instant::now();
        tasks.leave();
        assert!(tasks.is_leaving() && !tasks.drain().is_cancelled());
        assert!(tasks.finish(Duration::from_secs(60)).await);
        assert_eq!(told.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn tasks_that_an_abort_ends_do_not_end_by_themselves() {
        // What is looked at first is chance.
        for _ in 0..50 {
            let tasks = Tasks::new();
            let abort = tasks.abort().clone();
            tasks.spawn_named("work", async move { abort.cancelled().await });
            tasks.drain().cancel();
            tasks.abort().cancel();
            while !tasks.tracker.is_empty() {
                tokio::task::yield_now().await;
            }
            assert!(!tasks.finish(Duration::from_secs(60)).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_cut_off_before_the_grace_is_over() {
        for (grace, cut_after) in [(10_000, 8_000), (1_000, 800), (0, 0)] {
            let tasks = Tasks::new();
            let cut = tasks.cut().clone();
            tasks.spawn_named("client", async move { cut.cancelled().await });
            tasks.drain().cancel();
            let began = tokio::time::Instant::now();
            let in_time = tasks.finish(Duration::from_millis(grace)).await;
            assert_eq!(began.elapsed().as_millis(), cut_after);
            assert!(in_time || grace == 0);
            assert!(tasks.closing().is_cancelled());
        }
    }

    #[tokio::test]
    async fn an_abort_cuts_clients_off() {
        let tasks = Tasks::new();
        tasks.abort().cancel();
        assert!(tasks.cut().is_cancelled() && !tasks.drain().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_vital_task_waits_for_no_delay() {
        let tasks = Tasks::new();
        tasks.delay_drain(std::future::pending);
        tasks.spawn_vital("short", async {});
        assert!(tasks.finish(Duration::from_secs(60)).await);
        assert!(tasks.is_leaving());
    }

    #[tokio::test]
    async fn a_delay_that_panics_starts_the_drain() {
        let tasks = Tasks::new();
        tasks.delay_drain(async || panic!("on purpose"));
        tasks.leave();
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
