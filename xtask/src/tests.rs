//! All tests, with the servers and our own programs that they start.

use anyhow::{Context, Result};

use crate::run::{cargo, run};
use crate::servers;

/// Our programs that tests start; each is the binary of a package of the same name.
const PROGRAMS: [&str; 3] = ["control-plane", "edge-gateway", "muster"];

/// Installs servers, builds our programs once, runs the tests whose names contain `filter`.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn test(filter: Option<&str>) -> Result<()> {
    prepare()?;
    run(cargo(&["test", "--locked", "--workspace"]).args(filter))
}

/// Runs the fault cases `times` times in a row, one at a time, and shows the line that each prints. Ends with the
/// first that fails. `MUSTER_TEST_LONG` adds the long variants.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn faults(times: &str) -> Result<()> {
    let times: u32 = times.parse().context("--times takes a number")?;
    prepare()?;
    for _ in 0..times {
        let cases = ["test", "--locked", "--package", "integration-tests", "--test", "cases"];
        run(cargo(&cases).args(["faults::", "--", "--nocapture", "--test-threads", "1"]))?;
    }
    Ok(())
}

fn prepare() -> Result<()> {
    servers::ensure_installed()?;
    let mut build = cargo(&["build", "--locked", "--bins"]);
    PROGRAMS.iter().for_each(|program| _ = build.args(["--package", program]));
    run(&mut build)
}
