//! Writers that change the registry while it is being broken, and readers that check its replies meanwhile.
//!
//! All randomness comes from one seed, which is printed: `MUSTER_TEST_SEED` repeats the decisions. What the
//! system makes of them depends on time, so a repetition is close, not exact.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::Client;
use crate::oracle::Ledger;

pub mod burst;
mod writer;

pub use burst::Burst;
use writer::{Volatile, Writer};
pub use writer::{address_of, register};

/// The time limit of a call of a writer or reader.
const PATIENCE: Duration = Duration::from_secs(10);

/// The seed of this run.
pub fn seed() -> u64 {
    let given = std::env::var("MUSTER_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}; MUSTER_TEST_SEED={seed} repeats it");
    seed
}

/// The services that are written and read.
#[derive(Clone, Debug)]
pub struct Field {
    /// Gateways, to which calls go at random.
    pub gateways: Vec<SocketAddr>,
    /// Providers whose instances come and go; id and name.
    pub providers: Vec<(String, String)>,
    /// Providers that always have an instance, with a consumer that finds them.
    pub anchored: Vec<(String, String)>,
    /// Providers that are deleted and registered again; id and name.
    pub volatile: Vec<(String, String)>,
    /// The name of a consumer whose dependencies change.
    pub fickle: String,
}

/// Writers and readers at work. Dropped without [`Load::stop`] they end at once.
pub struct Load {
    stopping: Arc<AtomicBool>,
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

/// The outcomes of calls.
#[derive(Debug, Default)]
pub struct Counts {
    /// Writes that were acknowledged.
    pub written: AtomicU64,
    /// Writes that were refused, such as an update of an instance that is gone.
    pub refused: AtomicU64,
    /// Writes whose outcome is unknown: a 5xx, or no answer.
    pub unknown: AtomicU64,
    /// Finds that gave instances.
    pub found: AtomicU64,
    /// Finds that were answered by "not now", or not at all.
    pub unavailable: AtomicU64,
    /// Finds that claimed that a provider which has instances has none.
    pub lies: AtomicU64,
}

impl Load {
    /// Starts `writers` that pause for up to `pause` between two writes each, and a reader on each gateway
    /// that asks twice in that time.
    pub fn start(field: &Field, ledger: &Ledger, seed: u64, writers: u64, pause: Duration) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        for number in 0..writers {
            let dice = fastrand::Rng::with_seed(seed.wrapping_add(number));
            let clients = field.gateways.iter().map(|gateway| Client::new(*gateway)).collect();
            let writer = Writer {
                number,
                dice,
                clients,
                providers: field.providers.clone(),
                ledger: ledger.clone(),
                counts: counts.clone(),
                stopping: stopping.clone(),
                pause,
            };
            tasks.spawn(writer.run());
        }
        for (number, provider) in (0..).zip(&field.volatile) {
            let volatile = Volatile {
                // The complement of the seed, so that these dice do not repeat those of a writer.
                dice: fastrand::Rng::with_seed((!seed).wrapping_add(number)),
                clients: field.gateways.iter().map(|gateway| Client::new(*gateway)).collect(),
                provider: provider.clone(),
                fickle: field.fickle.clone(),
                ruled: field.providers.clone(),
                ledger: ledger.clone(),
                counts: counts.clone(),
                stopping: stopping.clone(),
                pause,
            };
            tasks.spawn(volatile.run());
        }
        for gateway in &field.gateways {
            let counts = counts.clone();
            let stopping = stopping.clone();
            tasks.spawn(read(Client::new(*gateway), field.anchored.clone(), counts, stopping, pause / 2));
        }
        Self { stopping, counts, tasks }
    }

    /// The calls so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Ends writers and readers after what they are doing.
    ///
    /// # Panics
    /// When a reader was lied to, or nothing was ever written.
    pub async fn stop(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("writers and readers do not panic");
        }
        let Counts { written, refused, unknown, found, unavailable, lies } = &*self.counts;
        let [written, refused, unknown, found, unavailable, lies] =
            [written, refused, unknown, found, unavailable, lies].map(|count| count.load(Ordering::Relaxed));
        println!(
            "  load: written {written}, refused {refused}, unknown {unknown}; finds: answered {found}, \
             unavailable {unavailable}, empty {lies}"
        );
        assert_eq!(lies, 0, "a find claimed that a provider which has instances has none");
        // A load that was refused everywhere would let every case pass.
        assert!(written > 0 && found > 0, "the load did nothing");
    }
}

async fn read(
    client: Client,
    anchored: Vec<(String, String)>,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    pause: Duration,
) {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) && !anchored.is_empty() {
        let (consumer, provider) = &anchored[turn % anchored.len()];
        turn += 1;
        let answer = tokio::time::timeout(PATIENCE, client.try_find(consumer, provider)).await;
        let count = match answer {
            Ok(Some(answer)) if answer.status == 200 => {
                let some = answer.ok()["instances"].as_array().is_some_and(|all| !all.is_empty());
                if some { &counts.found } else { &counts.lies }
            }
            // The service exists. A reply that denies that is untrue, too.
            Ok(Some(answer)) if answer.status < 500 => &counts.lies,
            _ => &counts.unavailable,
        };
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
}
