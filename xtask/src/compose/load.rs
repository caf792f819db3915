//! The load beside a disturbance: `muster loadgen` with watchers that resume, and its verdict.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::engine::{Stack, ended_within, within};
use crate::run::program;

/// The time for which changes are made. A disturbance begins after a quarter of it.
const CHANGING: Duration = Duration::from_secs(40);
const SETTLE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(60);

/// A client that has logged in.
pub(super) struct Load {
    server: String,
    credentials: PathBuf,
}

/// The figures beside one disturbance.
pub(super) struct Row {
    disturbance: String,
    /// The time until everything was healthy again.
    took: Duration,
    figures: Value,
}

impl Load {
    /// Logs in as root with the password that `init` made.
    pub(super) fn login(stack: &Stack<'_>, work: &Path) -> Result<Self> {
        let load = Self { server: stack.server(), credentials: work.join("credentials.json") };
        let password = stack.volume("control-plane-secrets")?.join("root-password");
        let mut login = load.muster(&["login", "--account", "root", "--for", "2h", "--password-file"]);
        within(login.arg(password), SHORT)?;
        Ok(load)
    }

    fn muster(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("muster"));
        command
            .args(arguments)
            .env("MUSTER_SERVER", &self.server)
            .env("MUSTER_CREDENTIALS", &self.credentials);
        command
    }

    /// Runs the load, and the disturbance after a quarter of its time.
    pub(super) fn beside(&self, name: &str, disturb: impl FnOnce() -> Result<()>) -> Result<Row> {
        eprintln!("==> under load: {name}");
        let mut command =
            self.muster(&["loadgen", "--watchers", "300", "--consumers", "20", "--providers", "10"]);
        command.args(["--rate", "10", "--resume", "--output", "json"]);
        command.args(["--for", &format!("{}s", CHANGING.as_secs())]);
        command.args(["--settle", &format!("{}s", SETTLE.as_secs())]);
        let running = std::thread::spawn(move || {
            // It fails when a change has failed, which is allowed here: its figures are judged.
            ended_within(&mut command, CHANGING + SETTLE + SHORT)
        });
        std::thread::sleep(CHANGING / 4);
        let begun = Instant::now();
        let disturbed = disturb();
        let took = begun.elapsed();
        let ended = running.join().ok().context("the load panicked")??;
        disturbed?;
        let figures = serde_json::from_str(&ended.output)
            .with_context(|| format!("loadgen printed no figures: {}", ended.errors.trim()))?;
        let row = Row { disturbance: name.to_owned(), took, figures };
        // Shown at once, so that a later failure does not lose it.
        eprint!("{row}");
        Ok(row)
    }
}

impl Row {
    fn number(&self, pointer: &str) -> f64 {
        self.figures.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// The sum of the counts under a name.
    fn sum(&self, pointer: &str) -> u64 {
        let counts = self.figures.pointer(pointer).and_then(Value::as_object);
        counts.into_iter().flat_map(serde_json::Map::values).filter_map(Value::as_u64).sum()
    }

    /// The thing that is wrong, if any. Changes may fail while their service is away; what was accepted must
    /// reach every watcher once, in order.
    pub(super) fn fault(&self) -> Option<String> {
        let mut wrong: Vec<&str> = Vec::new();
        for pointer in [
            "/watchers_lost",
            "/frames_out_of_order",
            "/frames_told_twice",
            "/changes_missed_while_away",
            "/changes_merged_or_missed",
        ] {
            if self.number(pointer) != 0.0 {
                wrong.push(pointer);
            }
        }
        if self.figures.get("settled_in_time") != Some(&Value::Bool(true)) {
            wrong.push("/settled_in_time");
        }
        (!wrong.is_empty()).then(|| format!("{}: {}: {}", self.disturbance, wrong.join(", "), self.figures))
    }
}

/// A row of a Markdown table.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| {} | {:.1} | {} | {} | {:.0} | {} | {:.0} | {:.0} / {:.0} |",
            self.disturbance,
            self.took.as_secs_f64(),
            self.number("/changes"),
            self.sum("/changes_failed"),
            self.number("/without_answer/longest_ms"),
            self.sum("/connections_lost"),
            self.number("/watch_gap_ms/max"),
            self.number("/latency_ms/p50"),
            self.number("/latency_ms/p99"),
        )
    }
}

/// The rows as a Markdown table.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| disturbance | healthy after (s) | changes | failed | longest without answer (ms) | connections lost | \
         longest gap of a watcher (ms) | change to frame p50 / p99 (ms) |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    rows.iter().for_each(|row| table += &row.to_string());
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(figures: Value) -> Row {
        Row { disturbance: "nats killed".to_owned(), took: Duration::from_secs(2), figures }
    }

    #[test]
    fn a_row_is_judged_by_its_figures() {
        let mut figures = json!({
            "watchers_lost": 0, "frames_out_of_order": 0, "frames_told_twice": 0,
            "changes_missed_while_away": 0,
            "changes_merged_or_missed": 0, "settled_in_time": true, "changes": 350,
            "changes_failed": {"status 503": 3}, "latency_ms": {"p50": 3.2, "p99": 90.0},
        });
        assert_eq!(row(figures.clone()).fault(), None, "failed changes are no fault");
        assert!(table(&[row(figures.clone())]).contains("| nats killed | 2.0 | 350 | 3 |"));
        for counted in ["frames_out_of_order", "frames_told_twice"] {
            figures[counted] = json!(1);
            assert!(row(figures.clone()).fault().is_some_and(|fault| fault.contains(counted)), "{counted}");
            figures[counted] = json!(0);
        }
        figures["settled_in_time"] = json!(false);
        assert!(row(figures).fault().is_some());
        assert!(row(json!({})).fault().is_some(), "no figures");
    }
}
