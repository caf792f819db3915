//! All tests, with the servers and our own programs that they start.

use anyhow::Result;

use crate::run::{cargo, run};
use crate::servers;

/// Our programs that tests start; each is the binary of a package of the same name.
const PROGRAMS: [&str; 3] = ["control-plane", "edge-gateway", "muster"];

/// Installs servers, builds our programs once, runs the tests whose names contain `filter`.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn test(filter: Option<&str>) -> Result<()> {
    servers::ensure_installed()?;
    let mut build = cargo(&["build", "--locked", "--bins"]);
    PROGRAMS.iter().for_each(|program| _ = build.args(["--package", program]));
    run(&mut build)?;
    run(cargo(&["test", "--locked", "--workspace"]).args(filter))
}

/// Runs the conformance suite against a server by address, or against our own.
///
/// # Errors
/// When something does not build, or a case fails.
pub fn conformance(server: Option<&str>) -> Result<()> {
    if server.is_none() {
        run(&mut cargo(&["build", "--locked", "--package", "muster"]))?;
    }
    let mut suite = cargo(&["test", "--locked", "--package", "integration-tests", "--test", "conformance"]);
    run(suite.env("MUSTER_CONFORMANCE_SERVER", server.unwrap_or_default()))
}
