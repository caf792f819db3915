//! `muster loadgen`: puts watchers and changes on a registry, and measures how soon each watcher sees each
//! change.
//!
//! ```text
//! providers ──PUT properties {seq, at}──▶ registry ──frames──▶ watchers ──▶ tally ──▶ report
//! ```
//!
//! Each change carries a number and the time of its request. So each frame by itself shows its delay, and
//! whether a change before it is missing. Everything registered for the run is removed at the end.
//!
//! Once the changes have begun, failures end nothing: they are counted by kind, watchers connect again, and
//! the report has the gaps. So a run can watch a rolling restart or a fault from its beginning to its end.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::Instant;

mod changes;
mod failures;
mod fate;
mod frame;
mod population;
mod report;
mod source;
mod tally;
mod watcher;

use population::Population;
use report::{LoadReport, Measured};
use source::SourceAddresses;
use tally::Tally;
use watcher::{LoadWatcher, WatchPlan};

use super::interrupted;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};

/// Handshakes or changes in flight at once: enough to be fast, few enough not to measure a queue in this
/// process.
const MAX_IN_FLIGHT: usize = 64;
/// Arguments of `muster loadgen`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Loadgen {
    /// Number of watches.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    watchers: u32,
    /// Number of consumers over which the watches are spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    consumers: u32,
    /// Number of providers, with one instance each. Every consumer uses all of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    providers: u32,
    /// Changes per second, of all providers together.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    rate: f64,
    /// Time for which changes are made.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lasting: Duration,
    /// Number of watchers that read only ten frames per second until the changes end.
    #[arg(long, default_value_t = 0)]
    slow: u32,
    /// Bytes added to each change, and so to each frame. Registries accept about 3 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=2800))]
    payload: u16,
    /// Time to wait for the arrival of the last changes.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    settle: Duration,
    /// Watch with revisions, which Service-Center does not have: a watcher that lost its connection resumes
    /// and misses nothing.
    #[arg(long)]
    resume: bool,
    /// Addresses of this machine from which the watches are opened in turn, such as `127.0.0.2-127.0.0.9`.
    /// Each of them has ports for about 28 000 watches.
    #[arg(long, value_name = "ADDRESSES", default_value = "", hide_default_value = true, value_parser = sources)]
    source: SourceAddresses,
    #[command(flatten)]
    target: Target,
}

fn sources(text: &str) -> Result<SourceAddresses, String> {
    if text.is_empty() { Ok(SourceAddresses::default()) } else { text.parse() }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if rate > 0.0 && rate <= 100_000.0 {
        Ok(rate)
    } else {
        Err("expected more than 0, at most 100000".to_owned())
    }
}

impl Loadgen {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.slow > self.watchers {
            let problem = "--slow counts among --watchers, so it cannot be more than those".to_owned();
            return Err(CommandFailure::Usage(problem));
        }
        source::raise_file_limit(self.watchers).map_err(CommandFailure::Usage)?;
        let registry = Arc::new(RegistryClient::new(&self.target)?);
        // Outside of the measurement, so that an interrupt too leaves nothing behind in the registry.
        let mut population = Population::default();
        let result = tokio::select! {
            // In this order the handlers of the signals are in place before the first service is registered.
            biased;
            result = interrupted() => result.map(|()| None),
            result = self.measure(&registry, &mut population, screen) => result.map(Some),
        };
        screen.note("removing the services of this run");
        let removed = population.remove(&registry, screen).await;
        let Some(report) = result? else { return removed };
        match self.target.output {
            OutputFormat::Json => screen.json(&report)?,
            OutputFormat::Table => report.show(screen)?,
        }
        removed.and(report.verdict())
    }

    async fn measure(
        &self,
        registry: &Arc<RegistryClient>,
        population: &mut Population,
        screen: &mut Screen,
    ) -> Result<LoadReport, CommandFailure> {
        population.register(self, registry, screen).await?;
        let tally = Arc::new(Tally::new(population.providers.len()));
        let opening = Instant::now();
        let mut watchers = self.open(registry, population, &tally, screen).await?;
        let opened_in = opening.elapsed();
        screen.note(&format!("{} watches are open; making changes", watchers.len()));
        let begun = Instant::now();
        let changes = changes::make_all(self, registry, population, &tally, screen).await?;
        let changing = begun.elapsed();
        let answers = tally.answers.times();
        tally.end();
        if answers.outages == 0 && (changes as f64) < 0.95 * self.rate * changing.as_secs_f64() {
            screen.note(
                "the rate was not reached, because changes of one provider wait for each other: raise --providers",
            );
        }
        let settled = tokio::time::timeout(self.settle, self.settle(&tally, screen)).await.is_ok();
        // Before the watchers are ended, which ends their connections too.
        let report =
            LoadReport::new(self, &tally, Measured { changes, opened_in, changing, answers, settled });
        watchers.abort_all();
        while watchers.join_next().await.is_some() {}
        Ok(report)
    }

    /// Waits until every watcher has seen the final state.
    async fn settle(&self, tally: &Tally, screen: &mut Screen) {
        while tally.settled() < self.watchers as usize {
            let settled = tally.settled();
            let share = settled as f64 / f64::from(self.watchers);
            let words = format!("{settled} of {} have seen the final state", self.watchers);
            screen.progress("settling", share, &words);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens all watches, some at a time. The returned set owns their tasks.
    async fn open(
        &self,
        registry: &Arc<RegistryClient>,
        population: &Population,
        tally: &Arc<Tally>,
        screen: &mut Screen,
    ) -> Result<JoinSet<()>, CommandFailure> {
        let mut opening = JoinSet::new();
        let mut watchers = JoinSet::new();
        let mut next = 0;
        while next < self.watchers || !opening.is_empty() {
            if next < self.watchers && opening.len() < MAX_IN_FLIGHT {
                let plan = WatchPlan {
                    consumer: population.consumers[next as usize % population.consumers.len()].clone(),
                    source: self.source.of(next as usize),
                    slow: next < self.slow,
                    resumes: self.resume,
                };
                opening.spawn(LoadWatcher::open(plan, registry.clone(), tally.clone()));
                next += 1;
                continue;
            }
            if let Some(Ok(opened)) = opening.join_next().await {
                watchers.spawn(opened?.run());
                // A line for each watch would cost more time than its handshake.
                if watchers.len().is_multiple_of(100) {
                    let open = watchers.len();
                    let words = format!("{open} of {} watches", self.watchers);
                    screen.progress("opening", open as f64 / f64::from(self.watchers), &words);
                }
            }
        }
        Ok(watchers)
    }
}
