//! `cargo xtask scale`: the tables, for the fleet that is asked about.

use anyhow::{Context, Result};
use clap::Parser;

use crate::coefficients::Coefficients;
use crate::fleet::Fleet;
use crate::simulation::{self, Tree};
use crate::storm::{self, Storm};
use crate::table::{Table, count, figure, time};
use crate::{compare, model};

/// A fleet on paper, from measured parts.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask scale")]
pub struct Command {
    #[command(flatten)]
    fleet: Fleet,
    /// Another figure in the place of one of coefficients.toml; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, f64)>,
    /// Seed of the simulations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn assignment(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value: f64 = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
    if value.is_finite() && value >= 0.0 {
        Ok((name.to_owned(), value))
    } else {
        Err("at least 0".to_owned())
    }
}

/// Prints all tables for the fleet of these arguments, of which the first is the program's name.
///
/// # Errors
/// When they make no sense.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<()> {
    let command = match Command::try_parse_from(arguments) {
        Ok(command) => command,
        // Help is one of those.
        Err(told) => return told.print().context("standard output").and_then(|()| told_ok(&told)),
    };
    for (title, table) in sections(&command)? {
        println!("{title}\n\n{}", table.markdown());
    }
    Ok(())
}

fn told_ok(told: &clap::Error) -> Result<()> {
    anyhow::ensure!(!told.use_stderr(), "the arguments make no sense");
    Ok(())
}

/// The tables by name, for the usual fleet: those that the document carries.
///
/// # Errors
/// When a file of figures cannot be read or understood.
pub fn documented() -> Result<Vec<(&'static str, Table)>> {
    sections(&Command { fleet: Fleet::default(), set: Vec::new(), seed: 1 })
}

fn sections(command: &Command) -> Result<Vec<(&'static str, Table)>> {
    let fleet = &command.fleet;
    fleet.check()?;
    let mut with = Coefficients::built_in()?;
    for (name, value) in &command.set {
        with.set(name, *value)?;
    }
    Ok(vec![
        ("coefficients", with.table()),
        ("fleet", fleet.table()),
        ("hops", model::hop_table(fleet, &with)),
        ("limits", model::limit_table(fleet, &with)),
        ("sizes", model::size_table(fleet, &with)),
        ("overload", model::overload_table(fleet, &with)),
        ("simulation", simulated(fleet, &with, command.seed)),
        ("storms", storms(fleet, &with, command.seed)),
        ("comparison", compare::table(&with, command.seed)?),
    ])
}

/// Frames of one change that are played at most, and frames altogether: more makes no figure better.
const MOST_FRAMES: f64 = 2_000_000.0;

fn simulated(fleet: &Fleet, with: &Coefficients, seed: u64) -> Table {
    let mut table = Table::new(&[
        "situation",
        "changes",
        "frames on two gateways",
        "p50",
        "p99",
        "p99.9",
        "max",
        "frames a write",
        "busy: publisher, NATS, shard",
    ]);
    for (number, situation) in model::situations(fleet).into_iter().enumerate() {
        let of_gateway = fleet.watchers as f64 / fleet.gateways() as f64;
        let frames = situation.events * situation.audience * of_gateway * 2.0;
        let seconds = (MOST_FRAMES / frames).clamp(0.5, 30.0);
        let mut tree = Tree::of(fleet, situation.events, seconds);
        if number == 1 {
            tree.only = Some(0);
        }
        let outcome = simulation::play(&tree, with, seed);
        table.row([
            situation.name.to_owned(),
            count(outcome.events),
            count(outcome.received),
            time(outcome.p50),
            time(outcome.p99),
            time(outcome.p999),
            time(outcome.max),
            figure(outcome.together),
            outcome.busy.map(|part| format!("{} %", figure(part * 100.0))).join(", "),
        ]);
    }
    table
}

fn storms(fleet: &Fleet, with: &Coefficients, seed: u64) -> Table {
    let mut table = Table::new(&[
        "what",
        "to each gateway",
        "all back after",
        "away: p50",
        "away: p99",
        "calls dropped",
        "tries wasted",
        "waiting to be accepted, at most",
    ]);
    let each = u32::try_from(fleet.watchers.div_ceil(fleet.gateways())).unwrap_or(u32::MAX);
    let others = u32::try_from(fleet.gateways().saturating_sub(1).max(1)).unwrap_or(u32::MAX);
    let base = Storm {
        watchers: each.div_ceil(others),
        over: 0.0,
        jitter: 1e6,
        open: with.get("gateway_open_us"),
        cores: u32::try_from(fleet.cores).unwrap_or(u32::MAX),
        backlog: 1024,
        patience: 10e6,
        backoff: 1e6,
        at_once: None,
    };
    for (what, storm) in [
        ("a gateway dies; clients wait up to 1 s", base.clone()),
        ("a gateway dies; clients do not wait", Storm { jitter: 0.0, ..base.clone() }),
        ("a gateway is drained over 15 s", Storm { over: 15e6, jitter: 0.0, ..base.clone() }),
        ("all gateways die; clients do not wait", Storm { watchers: each, jitter: 0.0, ..base.clone() }),
        ("all gateways die; clients wait up to 10 s", Storm { watchers: each, jitter: 10e6, ..base }),
    ] {
        let outcome = storm::play(&storm, seed);
        table.row([
            what.to_owned(),
            count(storm.watchers.into()),
            time(outcome.steady),
            time(outcome.away_p50),
            time(outcome.away_p99),
            count(outcome.dropped),
            count(outcome.given_up),
            count(outcome.queue as u64),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(arguments: &[&str]) -> Result<Vec<(&'static str, Table)>> {
        sections(&Command::try_parse_from([&["scale"], arguments].concat())?)
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_with_a_reason() {
        for (arguments, reason) in [
            (&["--watchers", "0"][..], "watchers"),
            (&["--services", "2000000"], "services"),
            (&["--set", "nonsense=1"], "nonsense"),
            (&["--set", "gateway_write_us"], "NAME=VALUE"),
            (&["--set", "gateway_write_us=-1"], "at least 0"),
            (&["--zipf", "9"], "zipf"),
        ] {
            let problem = format!("{:#}", told(arguments).expect_err(reason));
            assert!(problem.contains(reason), "{arguments:?}: {problem}");
        }
    }

    #[test]
    fn a_small_fleet_of_one_gateway_has_tables_too() {
        let small = ["--watchers", "100", "--services", "10", "--uses", "2", "--per-gateway", "100"];
        for (name, table) in told(&small).expect("makes sense") {
            let text = table.markdown();
            assert!(!text.contains("NaN") && !text.contains("inf"), "{name}:\n{text}");
        }
    }
}
