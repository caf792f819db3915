//! `muster top`: the activity of each process on one screen, from its metrics.

use std::time::Duration;

use clap::Args;
use host::telemetry::scrape::Scrape;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{interrupted, processes};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Trust, duration};

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
    /// Number of refreshes; 0 for no end.
    #[arg(long, default_value_t = 0)]
    count: u32,
    /// Format of the result; as JSON, one line for each refresh.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    trust: Trust,
}

/// A process with its metrics of the last refresh.
struct ObservedProcess {
    name: String,
    client: RegistryClient,
    last: Option<(Instant, Scrape)>,
}

/// The activity of one process. Figures that the process does not have are absent.
#[derive(Debug, Default, Serialize)]
struct ProcessRow {
    process: String,
    role: &'static str,
    watchers: Option<f64>,
    pushes_per_second: Option<f64>,
    push_p99_ms: Option<f64>,
    pending: Option<f64>,
    resyncs_per_second: Option<f64>,
    requests_per_second: Option<f64>,
    revision: Option<f64>,
    cores: Option<f64>,
    memory_mib: Option<f64>,
    problem: Option<String>,
}

impl Top {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        tokio::select! {
            biased;
            result = interrupted() => result,
            result = self.refresh(screen) => result,
        }
    }

    async fn refresh(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let mut processes = self.processes().await?;
        let mut tick = interval(self.every.max(Duration::from_millis(100)));
        // Two refreshes in quick succession after a stall would show rates of a moment.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Rates need two scrapes, so the first is not shown.
        tick.tick().await;
        for process in &mut processes {
            process.observe().await;
        }
        let mut refreshes = 0;
        loop {
            tick.tick().await;
            let mut rows = Vec::with_capacity(processes.len());
            for process in &mut processes {
                rows.push(process.observe().await);
            }
            self.show(&rows, screen)?;
            refreshes += 1;
            if self.count > 0 && refreshes >= self.count {
                return one_answered(&rows);
            }
        }
    }

    async fn processes(&self) -> Result<Vec<ObservedProcess>, CommandFailure> {
        let timeout = self.every.max(Duration::from_secs(1));
        let mut observed = Vec::new();
        for process in processes::resolve(&self.admin, timeout, &self.trust).await? {
            observed.push(ObservedProcess { name: process.name, client: process.client, last: None });
        }
        Ok(observed)
    }

    fn show(&self, rows: &[ProcessRow], screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.output == OutputFormat::Json {
            // One line and not the indented form, so that a reader of the pipe can take line by line.
            let line = serde_json::to_string(rows).map_err(std::io::Error::from)?;
            return screen.line(&line);
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
    vec![
        row.process.clone(),
        row.role.to_owned(),
        number(row.watchers, 0),
        number(row.pushes_per_second, 0),
        number(row.push_p99_ms, 2),
        number(row.pending, 0),
        number(row.resyncs_per_second, 2),
        number(row.requests_per_second, 0),
        number(row.revision, 0),
        number(row.cores, 2),
        number(row.memory_mib, 0),
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
        match self.client.get_root("/metrics").await {
            Ok(reply) if reply.status().is_success() => self.row(&Scrape::parse(reply.body())),
            Ok(reply) => self.problem(format!("HTTP status {}", reply.status())),
            Err(failure) => self.problem(failure.to_string()),
        }
    }

    fn problem(&self, problem: String) -> ProcessRow {
        ProcessRow { process: self.name.clone(), problem: Some(problem), ..ProcessRow::default() }
    }

    fn row(&mut self, scrape: &Scrape) -> ProcessRow {
        let now = Instant::now();
        let (then, before) = self.last.replace((now, scrape.clone())).unwrap_or((now, Scrape::default()));
        let seconds = (now - then).as_secs_f64().max(1e-3);
        let rate = |name: &str, labels: &str| {
            let increase = scrape.sum(name, labels)? - before.sum(name, labels).unwrap_or(0.0);
            // After a restart the counter begins at zero again.
            Some(increase.max(0.0) / seconds)
        };
        let lag = scrape.quantile_since(&before, "muster_edge_event_lag_seconds", 0.99);
        let memory = scrape.sum("process_resident_memory_bytes", "");
        ProcessRow {
            process: self.name.clone(),
            role: role(scrape),
            watchers: scrape.sum("muster_edge_sessions", ""),
            pushes_per_second: rate("service_center_notify_publish_total", "status=\"SUCCESS\""),
            // Beyond the largest bucket there is no figure to show.
            push_p99_ms: lag.filter(|lag| lag.is_finite()).map(|lag| lag * 1e3),
            pending: scrape.sum("service_center_notify_pending_total", ""),
            resyncs_per_second: rate("muster_edge_resyncs_total", ""),
            // A gateway counts the requests that it forwards; it does not answer any itself.
            requests_per_second: rate("service_center_http_request_total", "")
                .or_else(|| rate("muster_edge_forwarded_total", "")),
            revision: scrape
                .sum("muster_view_revision", "")
                .or_else(|| scrape.sum("muster_edge_revision", "")),
            cores: rate("process_cpu_seconds_total", ""),
            memory_mib: memory.map(|bytes| bytes / f64::from(1 << 20)),
            problem: None,
        }
    }
}

/// The role of a process, by the metrics that only one of the planes has.
fn role(scrape: &Scrape) -> &'static str {
    let publishes = scrape.sum("muster_publisher_active", "");
    let watchers = scrape.sum("muster_edge_sessions", "");
    match (publishes, watchers) {
        (Some(_), Some(_)) => "both",
        (Some(active), None) if active > 0.0 => "publisher",
        (Some(_), None) => "control",
        (None, Some(_)) => "edge",
        (None, None) => "?",
    }
}
