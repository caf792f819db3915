//! `muster top`: what each process is doing, on one screen, from the figures that they tell.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub(crate) mod figures;

use figures::Figures;

use super::processes;
use super::register::interrupted;
use crate::cli::{Trust, duration};
use crate::failure::Failure;
use crate::registry::Registry;
use crate::screen::{Format, Screen};

/// Arguments of `muster top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Where processes serve /metrics; of a name with several addresses all are shown.
    #[arg(
        long,
        env = "MUSTER_ADMIN",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:30100"
    )]
    admin: Vec<url::Url>,
    /// Pause between two looks.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    every: Duration,
    /// How many times to look; 0 for ever.
    #[arg(long, default_value_t = 0)]
    count: u32,
    /// How to write the result; as JSON, one line for each look.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    trust: Trust,
}

/// A process with what it told last.
struct Process {
    name: String,
    registry: Registry,
    last: Option<(Instant, Figures)>,
}

/// What is shown of a process; what it does not tell is left out.
#[derive(Debug, Default, Serialize)]
struct Row {
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
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        tokio::select! {
            biased;
            it = interrupted() => it,
            it = self.look(screen) => it,
        }
    }

    async fn look(&self, screen: &mut Screen) -> Result<(), Failure> {
        let mut processes = self.processes().await?;
        let mut tick = interval(self.every.max(Duration::from_millis(100)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Rates need two looks; the first shows nothing.
        tick.tick().await;
        for process in &mut processes {
            process.row().await;
        }
        let mut looks = 0;
        loop {
            tick.tick().await;
            let mut rows = Vec::with_capacity(processes.len());
            for process in &mut processes {
                rows.push(process.row().await);
            }
            self.show(&rows, screen)?;
            looks += 1;
            if self.count > 0 && looks >= self.count {
                return answered(&rows);
            }
        }
    }

    async fn processes(&self) -> Result<Vec<Process>, Failure> {
        let found = processes::of(&self.admin, self.every.max(Duration::from_secs(1)), &self.trust).await?;
        let process = |it: processes::Process| Process { name: it.name, registry: it.registry, last: None };
        Ok(found.into_iter().map(process).collect())
    }

    fn show(&self, rows: &[Row], screen: &mut Screen) -> Result<(), Failure> {
        if self.output == Format::Json {
            let line = serde_json::to_string(rows).map_err(std::io::Error::from)?;
            return screen.line(&line);
        }
        let heads = [
            "PROCESS", "ROLE", "WATCHERS", "PUSH/S", "P99 MS", "PENDING", "RESYNC/S", "REQ/S", "REVISION",
            "CORES", "MIB",
        ];
        let cells = |row: &Row| {
            let whole = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}"));
            let fine = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"));
            if let Some(problem) = &row.problem {
                return vec![row.process.clone(), problem.clone()];
            }
            vec![
                row.process.clone(),
                row.role.to_owned(),
                whole(row.watchers),
                whole(row.pushes_per_second),
                fine(row.push_p99_ms),
                whole(row.pending),
                fine(row.resyncs_per_second),
                whole(row.requests_per_second),
                whole(row.revision),
                fine(row.cores),
                whole(row.memory_mib),
            ]
        };
        screen.clear()?;
        screen.table(&heads, &rows.iter().map(cells).collect::<Vec<_>>())
    }
}

/// A script that looks a few times is to know when nobody answered.
fn answered(rows: &[Row]) -> Result<(), Failure> {
    match rows.iter().all(|row| row.problem.is_some()) {
        true => Err(Failure::Unwell("no process could be looked at".to_owned())),
        false => Ok(()),
    }
}

impl Process {
    /// Looks once; rates are since the look before.
    async fn row(&mut self) -> Row {
        let process = self.name.clone();
        let problem =
            |problem: String| Row { process: process.clone(), problem: Some(problem), ..Row::default() };
        let text = match self.registry.root("/metrics").await {
            Ok(answer) if answer.status().is_success() => answer.into_body(),
            Ok(answer) => return problem(format!("HTTP status {}", answer.status())),
            Err(failure) => return problem(failure.to_string()),
        };
        let (now, figures) = (Instant::now(), Figures::parse(&text));
        let (then, before) = self.last.replace((now, figures.clone())).unwrap_or((now, Figures::default()));
        let seconds = (now - then).as_secs_f64().max(1e-3);
        let rate = |name: &str, labels: &[&str]| {
            let new = figures.sum(name, labels)? - before.sum(name, labels).unwrap_or(0.0);
            // A restart begins at zero again.
            Some(new.max(0.0) / seconds)
        };
        let role =
            match (figures.sum("muster_publisher_active", &[]), figures.sum("muster_edge_sessions", &[])) {
                (Some(_), Some(_)) => "both",
                (Some(active), None) if active > 0.0 => "publisher",
                (Some(_), None) => "control",
                (None, Some(_)) => "edge",
                (None, None) => "?",
            };
        Row {
            role,
            watchers: figures.sum("muster_edge_sessions", &[]),
            pushes_per_second: rate("service_center_notify_publish_total", &["status=\"SUCCESS\""]),
            push_p99_ms: figures
                .quantile_since(&before, "muster_edge_event_lag_seconds", 0.99)
                .filter(|it| it.is_finite())
                .map(|it| it * 1e3),
            pending: figures.sum("service_center_notify_pending_total", &[]),
            resyncs_per_second: rate("muster_edge_resyncs_total", &[]),
            requests_per_second: rate("service_center_http_request_total", &[])
                .or_else(|| rate("muster_edge_forwarded_total", &[])),
            revision: figures
                .sum("muster_view_revision", &[])
                .or_else(|| figures.sum("muster_edge_revision", &[])),
            cores: rate("process_cpu_seconds_total", &[]),
            memory_mib: figures.sum("process_resident_memory_bytes", &[]).map(|it| it / f64::from(1 << 20)),
            problem: None,
            process,
        }
    }
}
