//! The simulation held against runs of the real programs on one machine.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::coefficients::Coefficients;
use crate::simulation::{self, Tree};
use crate::storm::{self, Storm};
use crate::table::{Table, count, figure};

const FILE: &str = include_str!("../measured.toml");

/// A measured run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    /// Cores of the machine.
    cores: u32,
    /// CPU of the load generator for a handshake, in microseconds.
    client_open_us: f64,
    /// Handshakes that it has under way.
    at_once: u32,
    run: Vec<Run>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    watchers: u32,
    consumers: u32,
    providers: u32,
    rate: f64,
    seconds: f64,
    /// CPU of the load generator for a frame, in microseconds; less when it reads several together.
    client_frame_us: f64,
    frames: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    open_per_second: f64,
}

/// The predictions, what was measured, and by how much they differ.
///
/// # Errors
/// When the file of the runs cannot be read or understood.
pub(crate) fn table(with: &Coefficients, seed: u64) -> Result<Table> {
    let runs: Runs = toml::from_str(FILE).context("measured.toml")?;
    let mut table = Table::new(&["run", "figure", "predicted", "measured", "predicted ÷ measured"]);
    for run in &runs.run {
        let tree = Tree {
            gateways: 1,
            played: 1,
            shards: runs.cores,
            watchers: run.watchers,
            consumers: run.consumers,
            providers: run.providers,
            // Every consumer of the load uses every provider.
            uses: run.providers,
            zipf: 0.0,
            only: None,
            rate: run.rate,
            regular: true,
            seconds: run.seconds,
            client_us: run.client_frame_us,
            processors: Some(runs.cores),
        };
        let pushed = simulation::play(&tree, with, seed);
        let storm = Storm {
            watchers: run.watchers,
            over: 0.0,
            jitter: 0.0,
            // Both ends do their part on the same cores.
            open: with.get("gateway_open_us") + runs.client_open_us,
            cores: runs.cores,
            backlog: 1024,
            patience: 10e6,
            backoff: 1e6,
            at_once: Some(runs.at_once),
        };
        let opened = f64::from(run.watchers) / (storm::play(&storm, seed).steady / 1e6);
        let name = format!("{} watchers, {} changes /s", count(run.watchers.into()), figure(run.rate));
        for (what, predicted, measured) in [
            ("frames", pushed.received as f64, run.frames as f64),
            ("p50 ms", pushed.p50 / 1e3, run.p50_ms),
            ("p99 ms", pushed.p99 / 1e3, run.p99_ms),
            ("max ms", pushed.max / 1e3, run.max_ms),
            ("watches opened /s", opened, run.open_per_second),
        ] {
            table.row([
                name.clone(),
                what.to_owned(),
                figure(predicted),
                figure(measured),
                figure(predicted / measured),
            ]);
        }
    }
    Ok(table)
}
