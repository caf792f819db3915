//! Two lanes for the work of connections: the usual one, and a slow one whose threads the kernel lets run only
//! where nobody of usual priority wants the processor.
//!
//! In: the work of a connection, and from within it the decision that it belongs in the other lane. Out: the
//! result of the work, and the time that it took, from which the processors are shared out.
//!
//! A queue in this process cannot take a processor away from a request that is being worked on, nor from the
//! kernel's part of it, and it knows of a request only after that has been read. The kernel can: a thread of
//! usual priority that wakes up runs at once in place of one of lower priority. So a connection whose client
//! takes more than its share moves, with everything that it does from then on, to threads of lower priority,
//! and comes back in the same way.
//!
//! Only a request's own work moves. Tasks that it begins, and what it does for others as well ([`in_usual`]),
//! stay in the usual lane, or everybody would wait for a thread of the slow one. Where a number bounds how much
//! is worked on at once, each lane has its own ([`ForEach`]).
//!
//! It promises:
//! - Work moves only where it waits, and goes on at once in its new lane.
//! - Dropping the future of [`Lane::run`] drops the work, wherever it is. In the slow lane that happens a
//!   moment later.
//! - Without a slow lane nothing moves, and nothing is counted.

use std::cell::OnceCell;
use std::future::pending;
use std::io;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::nice;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// The name of the threads of the slow lane, as `top -H` shows it.
const THREADS: &str = "slow-lane";

/// The lowest priority that there is.
const LOWEST: i32 = 19;

tokio::task_local! {
    static CURRENT: Option<Lane>;
}

thread_local! {
    /// On a thread of the slow lane, the usual one.
    static USUAL: OnceCell<Handle> = const { OnceCell::new() };
}

/// The threads of the slow lane. Dropping this ends them, and drops the work that is there; nobody waits for
/// either.
#[derive(Debug)]
pub struct SlowThreads(Option<Runtime>, SlowLane);

/// The way to the slow lane. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct SlowLane(Handle);

/// One thing for each of the lanes, so that neither waits for what the other one holds.
#[derive(Debug)]
pub struct ForEach<T> {
    usual: T,
    slow: T,
}

/// The lane of some work. Clones stand for the same work.
#[derive(Clone, Debug, Default)]
pub struct Lane(Arc<Shared>);

/// The time that work has taken for somebody, in nanoseconds. Clones are one account.
#[derive(Clone, Debug, Default)]
pub struct Account(Arc<AtomicU64>);

#[derive(Debug, Default)]
struct Shared {
    is_slow: AtomicBool,
    account: Mutex<Option<Account>>,
}

impl SlowThreads {
    /// Starts one thread for each processor, with a priority lower than that of the calling thread by
    /// `nicer` (1 to 19, as of the command `nice`). Lowering a priority needs no privilege. `usual` is the
    /// runtime of the usual lane.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(nicer: u32, usual: &Handle) -> io::Result<Self> {
        let usual = usual.clone();
        let runtime = Builder::new_multi_thread()
            .worker_threads(available_parallelism().map_or(1, NonZero::get))
            .thread_name(THREADS)
            .enable_all()
            .on_thread_start(move || {
                USUAL.with(|known| {
                    known.get_or_init(|| usual.clone());
                });
                // On Linux the priority is the thread's. A refusal, which no kernel gives for a lower priority,
                // would leave a lane that is merely another one.
                let _ = nice(i32::try_from(nicer).unwrap_or(LOWEST));
            })
            .build()?;
        let lane = SlowLane(runtime.handle().clone());
        Ok(Self(Some(runtime), lane))
    }

    /// The way to these threads.
    pub fn lane(&self) -> SlowLane {
        self.1.clone()
    }
}

impl Drop for SlowThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// True on a thread of the slow lane. What is kept for use by both lanes, such as connections to other
/// processes, is kept once for each, or the usual lane would wait for threads of the slow one.
pub fn is_slow() -> bool {
    USUAL.with(|usual| usual.get().is_some())
}

/// The usual lane, from a thread of the slow one; `None` from any other thread.
pub(crate) fn usual() -> Option<Handle> {
    USUAL.with(|usual| usual.get().cloned())
}

/// Does work of this request for which other requests may wait, such as holding a lock over a question to the
/// store. In the slow lane it becomes a task of the usual one, which nobody counts.
///
/// Dropping the future drops the work, in the slow lane a moment later.
pub async fn in_usual<F>(work: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let Some(usual) = usual() else { return work.await };
    match AbortOnDropHandle::new(usual.spawn(work.in_current_span())).await {
        Ok(output) => output,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // The usual lane ends with the process, and this work does.
        Err(_) => pending().await,
    }
}

/// Looks at the lane of the present work; `None` where none is chosen.
pub fn with_current<T>(look: impl FnOnce(&Lane) -> T) -> Option<T> {
    CURRENT.try_with(|lane| lane.as_ref().map(look)).ok().flatten()
}

/// Brings the present work to the usual lane, for a request that must not wait for anything.
///
/// Cancel-safe.
pub async fn leave_slow() {
    if is_slow() && with_current(|lane| lane.choose(false)) == Some(true) {
        yield_now().await;
    }
}

/// Does some work that must not choose the lane of the work around it.
pub async fn outside<T>(work: impl Future<Output = T>) -> T {
    CURRENT.scope(None, work).await
}

impl<T> ForEach<T> {
    /// Makes one for each.
    pub fn new(make: impl Fn() -> T) -> Self {
        Self { usual: make(), slow: make() }
    }

    /// That of the present thread's lane.
    pub fn here(&self) -> &T {
        if is_slow() { &self.slow } else { &self.usual }
    }
}

impl Account {
    /// Adds a time.
    pub fn add(&self, time: Duration) {
        // Half a thousand years fit.
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The time since this was called last.
    pub fn take(&self) -> Duration {
        Duration::from_nanos(self.0.swap(0, Ordering::Relaxed))
    }
}

impl Lane {
    /// Chooses the lane. True if it is another one than before: the work moves as soon as it waits.
    pub fn choose(&self, is_slow: bool) -> bool {
        self.0.is_slow.swap(is_slow, Ordering::AcqRel) != is_slow
    }

    /// Counts the time that the work takes for this account, beginning with the present step of the work. It is
    /// the time for which a thread is busy with it, and never one for which the work waits.
    pub fn count_for(&self, account: &Account) {
        let mut counted = self.0.account.lock();
        if !counted.as_ref().is_some_and(|counted| Arc::ptr_eq(&counted.0, &account.0)) {
            *counted = Some(account.clone());
        }
    }

    /// Does the work to its end, in the lane that is chosen from within it. `None` if the slow lane has ended
    /// meanwhile.
    pub async fn run<F>(self, mut work: Pin<Box<F>>, slow: SlowLane) -> Option<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        loop {
            match self.stay(work, false).await {
                Left::Ended(output) => return Some(output),
                Left::Moves(moved) => work = moved,
            }
            let task = AbortOnDropHandle::new(slow.0.spawn(self.stay(work, true)));
            match task.await {
                Ok(Left::Ended(output)) => return Some(output),
                Ok(Left::Moves(moved)) => work = moved,
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => return None,
            }
        }
    }

    fn stay<F: Future>(&self, work: Pin<Box<F>>, in_slow: bool) -> Stay<F> {
        Stay { work: Some(work), lane: self.clone(), in_slow }
    }

    fn is_slow(&self) -> bool {
        self.0.is_slow.load(Ordering::Acquire)
    }
}

/// The beginning of a step of some work.
enum Begun {
    Usual(Instant),
    /// In the slow lane a thread often waits in the middle of a step until it gets a processor again. With that
    /// wait work would count as much that takes next to nothing, and would not come back to the usual lane for
    /// as long as the processors are busy. The kernel is asked for this time, which costs more than a clock.
    Slow(Duration),
}

impl Begun {
    fn now(in_slow: bool) -> Self {
        if in_slow { Self::Slow(processor_time()) } else { Self::Usual(Instant::now()) }
    }

    fn elapsed(&self) -> Duration {
        match self {
            Self::Usual(begun) => begun.elapsed(),
            Self::Slow(begun) => processor_time().saturating_sub(*begun),
        }
    }
}

/// The time of processors that this thread has had.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Work for as long as it stays in a lane.
struct Stay<F> {
    /// `None` when it has left.
    work: Option<Pin<Box<F>>>,
    lane: Lane,
    in_slow: bool,
}

/// The reason for which work is not in a lane any more.
enum Left<F: Future> {
    Ended(F::Output),
    Moves(Pin<Box<F>>),
}

impl<F: Future> Future for Stay<F> {
    type Output = Left<F>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Left<F>> {
        let Self { work, lane, in_slow } = &mut *self;
        if let Some(work) = work
            && lane.is_slow() == *in_slow
        {
            let begun = Begun::now(*in_slow);
            let polled = CURRENT.sync_scope(Some(lane.clone()), || work.as_mut().poll(cx));
            if let Some(account) = &*lane.0.account.lock() {
                account.add(begun.elapsed());
            }
            if let Poll::Ready(output) = polled {
                return Poll::Ready(Left::Ended(output));
            }
        }
        // It is looked at by its new lane before anything else happens, so no wake-up is lost.
        if lane.is_slow() != *in_slow
            && let Some(work) = work.take()
        {
            return Poll::Ready(Left::Moves(work));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
