//! Measurements, with the servers that they need.

use anyhow::Result;

use crate::run::{cargo, run};
use crate::servers;

/// Runs the bench `benches/{name}.rs`, optimised.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn bench(name: &str, arguments: &[&str]) -> Result<()> {
    servers::ensure_installed()?;
    let program = format!("bench-{name}");
    let mut command =
        cargo(&["run", "--locked", "--release", "--package", "benches", "--bin", &program, "--"]);
    run(command.args(arguments))
}
