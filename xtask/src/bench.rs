//! Measurements, with the servers that they need.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, run};
use crate::servers;

/// Every bench with what it takes to run it in a few minutes, in the order of the data's way.
pub const BENCHES: [(&str, &[&str]); 11] = [
    ("store", &[]),
    ("registry", &[]),
    ("publish", &[]),
    ("path", &[]),
    ("fanout", &[]),
    ("many", &[]),
    ("slow", &[]),
    ("idle", &[]),
    ("reconnect", &[]),
    ("seed", &["2500", "500"]),
    ("costs", &[]),
];
/// The micro-benches, which need no servers.
pub const MICRO: &str = "micro";

/// Runs the bench `benches/{name}.rs`, optimised. Its figures go to `target/bench/{name}.jsonl`, too.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn bench(name: &str, arguments: &[&str]) -> Result<()> {
    if name == MICRO {
        let mut command = cargo(&["bench", "--locked", "--package", "benches", "--bench", MICRO, "--"]);
        return run(command.args(arguments));
    }
    ensure!(BENCHES.iter().any(|(known, _)| *known == name), "no bench is called {name}");
    prepare()?;
    measure(name, arguments)
}

/// Runs them all, each within bounds.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn all() -> Result<()> {
    prepare()?;
    for (name, arguments) in BENCHES {
        measure(name, arguments)?;
    }
    bench(MICRO, &[])
}

/// Builds the benches and the programs that they start, together: what is built for one is what all of them use.
fn prepare() -> Result<()> {
    servers::ensure_installed()?;
    let packages =
        ["benches", "control-plane", "edge-gateway"].map(|package| ["--package", package]).concat();
    run(cargo(&["build", "--locked", "--release", "--bins"]).args(packages))
}

fn measure(name: &str, arguments: &[&str]) -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let mut figures = File::create(folder.join(format!("{name}.jsonl")))?;
    eprintln!("==> bench-{name} {}", arguments.join(" "));
    let mut child = std::process::Command::new(target.join("release").join(format!("bench-{name}")))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("bench-{name} cannot be started"))?;
    // Tables go to standard error, as ever; a line of JSON to both places.
    for line in BufReader::new(child.stdout.take().context("piped")?).lines() {
        let line = line?;
        println!("{line}");
        writeln!(figures, "{line}")?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "bench-{name} failed ({status})");
    Ok(())
}
