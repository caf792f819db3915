//! `muster top`: the activity of each process from its metrics; full-screen on a terminal, as lines
//! elsewhere.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use host::figures::Figures;
use host::telemetry::scrape::Scrape;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::interrupted;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::processes::{self, AdminProcess};
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};
use crate::top::{self, Sources};

/// Arguments of `muster top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Addresses that serve /metrics. All processes behind a name with several network addresses are shown.
    #[arg(
        long,
        env = "MUSTER_ADMIN",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:30100"
    )]
    admin: Vec<url::Url>,
    /// Pause between two refreshes.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    every: Duration,
    /// Number of refreshes, printed one after the other; 0 for no end.
    #[arg(long, default_value_t = 0)]
    count: u32,
    /// Print one refresh, also on a terminal: the same as --count 1.
    #[arg(long, conflicts_with = "count")]
    once: bool,
    #[command(flatten)]
    target: Target,
}

/// A process with its metrics of the last refresh.
struct ObservedProcess {
    name: String,
    client: RegistryClient,
    last: Option<(Instant, Scrape)>,
}

/// The activity of one process; as JSON, one line for each refresh.
#[derive(Debug, Serialize)]
struct ProcessRow {
    process: String,
    #[serde(flatten)]
    figures: Figures,
    problem: Option<String>,
}

impl Top {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let is_printed = self.once || self.count > 0 || self.target.output == OutputFormat::Json;
        if is_printed || !screen.is_interactive() {
            return tokio::select! {
                biased;
                result = interrupted() => result,
                result = self.refresh(screen) => result,
            };
        }
        let found = self.processes().await?;
        let sources = Sources {
            found,
            registry: RegistryClient::new(&self.target)?,
            every: self.every(),
            timeout: self.timeout(),
            trust: self.target.trust,
            admin: self.admin,
        };
        top::run(sources, screen.has_colours(), interrupted()).await
    }

    fn every(&self) -> Duration {
        self.every.max(Duration::from_millis(100))
    }

    /// The deadline of a question: a process that does not answer must not hold up the others for long.
    fn timeout(&self) -> Duration {
        self.every.max(Duration::from_secs(1)).min(self.target.timeout)
    }

    async fn refresh(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let count = if self.once { 1 } else { self.count };
        let mut processes = Vec::new();
        for process in self.processes().await? {
            processes.push(ObservedProcess { name: process.name, client: process.client, last: None });
        }
        let mut tick = interval(self.every());
        // Two refreshes in quick succession after a stall would show rates of a moment.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Rates need two scrapes, so the first is not shown.
        tick.tick().await;
        join_all(processes.iter_mut().map(ObservedProcess::observe)).await;
        let mut refreshes = 0;
        loop {
            tick.tick().await;
            let rows = join_all(processes.iter_mut().map(ObservedProcess::observe)).await;
            self.show(&rows, screen)?;
            refreshes += 1;
            if count > 0 && refreshes >= count {
                return one_answered(&rows);
            }
        }
    }

    async fn processes(&self) -> Result<Vec<AdminProcess>, CommandFailure> {
        processes::resolve(&self.admin, self.timeout(), &self.target.trust).await
    }

    fn show(&self, rows: &[ProcessRow], screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.target.output == OutputFormat::Json {
            // One line and not the indented form, so that a reader of the pipe can take line by line.
            return screen.json_line(&rows);
        }
        let heads = [
            "PROCESS", "ROLE", "WATCHERS", "PUSH/S", "P99 MS", "PENDING", "RESYNC/S", "REQ/S", "REVISION",
            "CORES", "MIB",
        ];
        let rows: Vec<_> = rows.iter().map(cells).collect();
        screen.clear()?;
        screen.table(&heads, &rows)
    }
}

fn cells(row: &ProcessRow) -> Vec<String> {
    if let Some(problem) = &row.problem {
        return vec![row.process.clone(), problem.clone()];
    }
    let figures = &row.figures;
    vec![
        row.process.clone(),
        figures.role.to_owned(),
        number(figures.watchers, 0),
        number(figures.pushes_per_second, 0),
        number(figures.push_p99_ms, 2),
        number(figures.pending, 0),
        number(figures.resyncs_per_second, 2),
        number(figures.requests_per_second, 0),
        number(figures.revision, 0),
        number(figures.cores, 2),
        number(figures.memory_mib, 0),
    ]
}

fn number(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

/// A script that refreshes a few times is to learn when no process answered.
fn one_answered(rows: &[ProcessRow]) -> Result<(), CommandFailure> {
    if rows.iter().all(|row| row.problem.is_some()) {
        return Err(CommandFailure::Unwell("no process answered; look at --admin".to_owned()));
    }
    Ok(())
}

impl ObservedProcess {
    /// Scrapes the process. Rates are those since the scrape before.
    async fn observe(&mut self) -> ProcessRow {
        let outcome = top::scrape(&self.client).await;
        let now = Instant::now();
        let (figures, problem) = match outcome {
            Ok(scrape) => {
                let before = self
                    .last
                    .as_ref()
                    .map(|(then, before)| (before, now.duration_since(*then).as_secs_f64()));
                let figures = Figures::of(&scrape, before);
                self.last = Some((now, scrape));
                (figures, None)
            }
            Err(failure) => (Figures::default(), Some(failure.to_string())),
        };
        ProcessRow { process: self.name.clone(), figures, problem }
    }
}
