//! What orchestrators and Prometheus ask the admin port of each process, all the time and over new connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{Client, World};

/// The time after which a probe has failed. Orchestrators give up earlier, but on a machine of their own.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two probes of one port.
const PAUSE: Duration = Duration::from_millis(200);

/// Probes under way. Dropped without [`Probes::stop`] they end at once.
pub struct Probes {
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    /// The slowest answer, in microseconds.
    slowest: AtomicU64,
}

/// The outcome of probes.
#[derive(Clone, Copy, Debug)]
pub struct Probed {
    /// Those with the answer 200.
    pub answered: u64,
    /// Those with another answer, or none in time.
    pub failed: u64,
    /// The time that the slowest answer took.
    pub slowest: Duration,
}

impl Probes {
    /// Probes every process of this system. All have to be ready, and to stay so.
    pub fn of(world: &World) -> Self {
        let counts = Arc::<Counts>::default();
        let mut tasks = JoinSet::new();
        for node in world.nodes() {
            tasks.spawn(probe(node.admin, counts.clone()));
        }
        Self { counts, tasks }
    }

    /// Ends them.
    pub async fn stop(mut self) -> Probed {
        self.tasks.shutdown().await;
        let Counts { answered, failed, slowest } = &*self.counts;
        let [answered, failed, slowest] =
            [answered, failed, slowest].map(|count| count.load(Ordering::Relaxed));
        Probed { answered, failed, slowest: Duration::from_micros(slowest) }
    }
}

async fn probe(admin: SocketAddr, counts: Arc<Counts>) {
    for path in ["/live", "/ready", "/metrics"].iter().cycle() {
        let begun = Instant::now();
        // A client each, since one would keep its connection.
        let client = Client::new(admin);
        let answer = timeout(PATIENCE, client.try_get(path)).await.ok().flatten();
        match answer {
            Some(answer) if answer.status == 200 => &counts.answered,
            answer => {
                println!("  {admin}{path}: {:?}", answer.map(|answer| answer.status));
                &counts.failed
            }
        }
        .fetch_add(1, Ordering::Relaxed);
        counts.slowest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}
