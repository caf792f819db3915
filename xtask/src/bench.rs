//! Measurements, with the servers that they need.

use anyhow::Result;

use crate::run::{cargo, run};
use crate::servers;

/// Our programs that benches start; each is the binary of a package of the same name.
const PROGRAMS: [&str; 2] = ["control-plane", "edge-gateway"];

/// Runs the bench `benches/{name}.rs`, optimised.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn bench(name: &str, arguments: &[&str]) -> Result<()> {
    servers::ensure_installed()?;
    // The benches start our programs as they are shipped, from beside themselves.
    let mut build = cargo(&["build", "--locked", "--release", "--bins"]);
    PROGRAMS.iter().for_each(|program| _ = build.args(["--package", program]));
    run(&mut build)?;
    let program = format!("bench-{name}");
    let mut command =
        cargo(&["run", "--locked", "--release", "--package", "benches", "--bin", &program, "--"]);
    run(command.args(arguments))
}
