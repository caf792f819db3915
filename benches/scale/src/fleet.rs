//! The fleet in question: its size, its dependencies, and the rate of its changes.

use anyhow::{Result, ensure};

use crate::table::{Table, count, figure};

/// A fleet. Every watcher is an instance of a service too, and beats for itself.
#[derive(Clone, Debug, clap::Args)]
pub struct Fleet {
    /// Watchers, which are instances too.
    #[arg(long, default_value_t = 1_000_000)]
    pub watchers: u64,
    /// Services, all of the same size.
    #[arg(long, default_value_t = 10_000)]
    pub services: u64,
    /// Providers that each service uses.
    #[arg(long, default_value_t = 10)]
    pub uses: u64,
    /// Exponent of the providers' popularity (Zipf).
    #[arg(long, default_value_t = 1.0)]
    pub zipf: f64,
    /// Watchers of a gateway.
    #[arg(long, default_value_t = 50_000)]
    pub per_gateway: u64,
    /// Cores of a gateway.
    #[arg(long, default_value_t = 4)]
    pub cores: u64,
    /// Control planes.
    #[arg(long, default_value_t = 6)]
    pub control_planes: u64,
    /// Changes of an instance a day: it comes, is updated, goes.
    #[arg(long, default_value_t = 3.0)]
    pub changes_a_day: f64,
    /// Seconds between two heartbeats of an instance.
    #[arg(long, default_value_t = 30.0)]
    pub beat: f64,
    /// Seconds between two pulls of a client that watches, too.
    #[arg(long, default_value_t = 30.0)]
    pub pull: f64,
}

impl Fleet {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// Saying what.
    pub fn check(&self) -> Result<()> {
        ensure!((1..=100_000_000).contains(&self.watchers), "watchers: from 1 to 100 000 000");
        ensure!(
            (1..=self.watchers.min(1_000_000)).contains(&self.services),
            "services: from 1 to as many as watchers"
        );
        ensure!((1..=self.services).contains(&self.uses), "uses: from 1 to as many as services");
        ensure!((0.0..=3.0).contains(&self.zipf), "zipf: from 0 to 3");
        ensure!((1..=10_000_000).contains(&self.per_gateway), "per-gateway: from 1 to 10 000 000");
        ensure!((1..=1024).contains(&self.cores), "cores: from 1 to 1024");
        ensure!((1..=1000).contains(&self.control_planes), "control-planes: from 1 to 1000");
        ensure!((0.0..=1e6).contains(&self.changes_a_day), "changes-a-day: from 0 to 1 000 000");
        ensure!(self.beat >= 1.0 && self.pull >= 1.0, "beat, pull: at least a second");
        Ok(())
    }

    /// Gateways.
    pub fn gateways(&self) -> u64 {
        self.watchers.div_ceil(self.per_gateway)
    }

    /// Instances of a service, on average.
    pub fn instances(&self) -> f64 {
        self.watchers as f64 / self.services as f64
    }

    /// For each rank of popularity, the part of the services that use the provider.
    pub fn popularity(&self) -> Vec<f64> {
        let weights: Vec<f64> = (1..=self.services).map(|rank| (rank as f64).powf(-self.zipf)).collect();
        let sum: f64 = weights.iter().sum();
        // Drawn with replacement: a service that draws a provider twice uses one less.
        weights.iter().map(|weight| 1.0 - (1.0 - weight / sum).powf(self.uses as f64)).collect()
    }

    /// Changes a second, on a usual day.
    pub fn changes(&self) -> f64 {
        self.watchers as f64 * self.changes_a_day / 86_400.0
    }

    /// The part of the gateways that hold a watcher of at least one of `services` services, when watchers are
    /// spread at random.
    pub fn reach(&self, services: f64) -> f64 {
        let misses = 1.0 - 1.0 / self.gateways() as f64;
        1.0 - misses.powf(services * self.instances())
    }

    /// As a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["the fleet", ""]);
        let popularity = self.popularity();
        let mean = popularity.iter().sum::<f64>() / popularity.len() as f64;
        for (what, figure) in [
            ("watchers, which are instances too", count(self.watchers)),
            ("services", format!("{}, {} instances each", count(self.services), figure(self.instances()))),
            ("providers that a service uses", format!("{}, Zipf with exponent {}", self.uses, self.zipf)),
            ("watchers that hear of a change, on average", figure(mean * self.watchers as f64)),
            (
                "of the most popular provider; the 10th; the 100th",
                [1, 10, 100]
                    .iter()
                    .filter_map(|rank| popularity.get(rank - 1))
                    .map(|part| figure(part * self.watchers as f64))
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
            (
                "gateways",
                format!(
                    "{}, {} watchers and {} cores each",
                    self.gateways(),
                    count(self.per_gateway),
                    self.cores
                ),
            ),
            ("control planes", self.control_planes.to_string()),
            (
                "heartbeats; pulls a second",
                format!(
                    "{}; {}",
                    figure(self.watchers as f64 / self.beat),
                    figure(self.watchers as f64 / self.pull)
                ),
            ),
        ] {
            table.row([what.to_owned(), figure]);
        }
        table
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            watchers: 1_000_000,
            services: 10_000,
            uses: 10,
            zipf: 1.0,
            per_gateway: 50_000,
            cores: 4,
            control_planes: 6,
            changes_a_day: 3.0,
            beat: 30.0,
            pull: 30.0,
        }
    }
}
