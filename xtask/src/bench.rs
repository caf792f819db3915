//! Benches: builds our programs optimised, starts the servers, and keeps the figures.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, run};
use crate::servers;

/// Every bench, with arguments that keep it to a few minutes, in the order in which data passes the parts.
pub const BENCHES: [(&str, &[&str]); 19] = [
    ("store", &[]),
    ("registry", &[]),
    ("publish", &[]),
    ("path", &[]),
    ("fanout", &[]),
    ("steer", &[]),
    ("many", &[]),
    ("slow", &[]),
    ("idle", &[]),
    ("reconnect", &[]),
    ("away", &[]),
    ("seed", &["2500", "500"]),
    ("edge", &[]),
    ("access", &[]),
    ("roles", &[]),
    ("fairness", &[]),
    ("dns", &[]),
    ("xds", &[]),
    ("costs", &[]),
];
/// The micro-benches, which need no servers.
pub const MICRO: &str = "micro";
/// The bench beside a peer, which is built first; [`all`] leaves it out, because that takes a quarter of an hour.
pub const PEERS: &str = "peers";
/// The bench beside a server that runs already, which its arguments name; [`all`] leaves it out.
pub const BESIDE: &str = "beside";
/// The peer and its version, from the registry of packages.
const PEER: (&str, &str) = ("rnacos", "0.8.8");
/// The variable that names the peer's program to the bench.
const PEER_VARIABLE: &str = "MUSTER_TEST_RNACOS";

/// Runs the bench `benches/{name}.rs`, optimised. A copy of its figures goes to `target/bench/{name}.jsonl`.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn bench(name: &str, arguments: &[&str]) -> Result<()> {
    if name == MICRO {
        let mut command = cargo(&["bench", "--locked", "--package", "benches", "--bench", MICRO, "--"]);
        return run(command.args(arguments));
    }
    ensure!(
        [PEERS, BESIDE].contains(&name) || BENCHES.iter().any(|(listed, _)| *listed == name),
        "no bench is called {name}; `cargo xtask bench` lists them"
    );
    prepare()?;
    measure(name, arguments)
}

/// Runs every bench, each with the arguments of [`BENCHES`].
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

/// Builds the benches and the programs that they start. One build for all: cargo would otherwise choose
/// features per package, and benches would measure different programs.
fn prepare() -> Result<()> {
    servers::ensure_installed()?;
    let packages =
        ["benches", "control-plane", "edge-gateway"].map(|package| ["--package", package]).concat();
    run(cargo(&["build", "--locked", "--release", "--bins"]).args(packages))
}

/// Installs the peer below `target`, once. Returns its program.
fn peer() -> Result<PathBuf> {
    let (name, version) = PEER;
    let folder = target().join("peers");
    let version = format!("{name}@{version}");
    // Does nothing when this version is there.
    run(cargo(&["install", "--locked", "--root"]).arg(&folder).arg(version))?;
    Ok(folder.join("bin").join(name))
}

/// The folder of what is built.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

fn measure(name: &str, arguments: &[&str]) -> Result<()> {
    let target = target();
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let mut figures = File::create(folder.join(format!("{name}.jsonl")))?;
    eprintln!("==> bench-{name} {}", arguments.join(" "));
    let mut program = Command::new(target.join("release").join(format!("bench-{name}")));
    if name == PEERS && std::env::var_os(PEER_VARIABLE).is_none() {
        program.env(PEER_VARIABLE, peer()?);
    }
    let mut child = program
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("bench-{name} cannot be started"))?;
    // Tables go to standard error. Each line of JSON is a figure, and goes to the terminal and to the file.
    for line in BufReader::new(child.stdout.take().context("piped")?).lines() {
        let line = line?;
        println!("{line}");
        writeln!(figures, "{line}")?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "bench-{name} failed ({status})");
    Ok(())
}
