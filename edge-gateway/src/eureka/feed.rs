//! One task for each tenant that clients of Eureka ask about: it keeps the pages of the tenant up to date,
//! and its changes of the last minutes. It ends when nobody has asked for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::lifecycle::Tasks;
use parking_lot::Mutex;
use shared::model::Tenant;
use tokio::sync::watch;
use tokio::time::sleep;

use super::book::{Book, State};
use crate::catalogue::{Followed, Services};

/// The time after the last question in which the changes of a tenant are still kept. Several intervals of
/// every client, so that a client that is there finds its delta.
const IDLE: Duration = Duration::from_secs(900);
/// Changes that come within this time are one state. Clients ask every half minute, so nobody waits for it,
/// and a rolling restart costs less.
const TOGETHER: Duration = Duration::from_millis(100);

/// The tenants that are asked about.
#[derive(Debug)]
pub(crate) struct Feeds {
    began: Instant,
    tasks: Tasks,
    /// Bounded by the tenants that the catalogue follows.
    tenants: Arc<Mutex<HashMap<Tenant, Feed>>>,
}

#[derive(Clone, Debug)]
struct Feed {
    states: watch::Receiver<State>,
    /// The second in which somebody asked last.
    asked: Arc<AtomicU64>,
}

impl Feeds {
    /// No tenant yet.
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self { began: Instant::now(), tasks, tenants: Arc::default() }
    }

    /// The state of a tenant now, if it is kept up to date already.
    pub(crate) fn known(&self, tenant: &Tenant) -> Option<State> {
        let tenants = self.tenants.lock();
        let feed = tenants.get(tenant)?;
        feed.asked.fetch_max(self.began.elapsed().as_secs(), Ordering::Relaxed);
        let state = feed.states.borrow().clone();
        Some(state)
    }

    /// The state of a tenant that is not kept up to date.
    pub(crate) fn once(&self, services: &Services) -> State {
        let now = self.began.elapsed();
        state_of(&mut Book::new(now), services, now)
    }

    /// The state of a tenant now; from now on it is kept up to date.
    pub(crate) fn begin(&self, tenant: &Tenant, followed: Followed) -> State {
        let mut tenants = self.tenants.lock();
        if let Some(feed) = tenants.get(tenant) {
            // Another request was faster.
            return feed.states.borrow().clone();
        }
        let asked = Arc::new(AtomicU64::new(self.began.elapsed().as_secs()));
        let mut writer = Writer {
            book: Book::new(self.began.elapsed()),
            began: self.began,
            followed,
            asked: asked.clone(),
        };
        let first = writer.state();
        let (sender, states) = watch::channel(first.clone());
        tenants.insert(tenant.clone(), Feed { states, asked });
        // A drain ends it: requests that come until the end of the process begin with a state of their own.
        let (all, tenant, stop) = (self.tenants.clone(), tenant.clone(), self.tasks.drain().clone());
        self.tasks.spawn_named("eureka", async move {
            let _ = stop.run_until_cancelled(writer.run(&sender)).await;
            all.lock().remove(&tenant);
        });
        first
    }
}

fn state_of(book: &mut Book, services: &Services, now: Duration) -> State {
    let state = book.advance(services.iter(), services.contained(), now);
    State { version: services.version(), ..state }
}

struct Writer {
    book: Book,
    began: Instant,
    followed: Followed,
    asked: Arc<AtomicU64>,
}

impl Writer {
    fn state(&mut self) -> State {
        let services = self.followed.now();
        state_of(&mut self.book, &services, self.began.elapsed())
    }

    async fn run(mut self, states: &watch::Sender<State>) {
        while let Some(left) = self.time_left() {
            let due = self.book.due().map_or(left, |due| due.saturating_sub(self.began.elapsed()).min(left));
            tokio::select! {
                () = self.followed.changed() => sleep(TOGETHER).await,
                () = sleep(due) => {}
            }
            let state = self.state();
            states.send_replace(state);
        }
    }

    /// The time until the task ends if nobody asks. `None` when that is over.
    fn time_left(&self) -> Option<Duration> {
        let end = Duration::from_secs(self.asked.load(Ordering::Relaxed)) + IDLE;
        end.checked_sub(self.began.elapsed()).filter(|left| !left.is_zero())
    }
}
