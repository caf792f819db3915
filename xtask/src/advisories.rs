//! Security advisories about our dependencies, from the RustSec database.
//!
//! cargo-deny does the work, by the rules of `deny.toml`. It needs to be installed, and it needs the network
//! for the database. A check that cannot be made is reported as such: silence would read as "nothing was
//! found".

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, run};

/// The result of looking for advisories.
#[derive(Debug, PartialEq, Eq)]
pub enum Advisories {
    /// The database was read, and no dependency has an advisory.
    Clear,
    /// Nothing was checked, for this reason.
    Unchecked(&'static str),
}

/// Looks up every dependency.
///
/// # Errors
/// When a dependency has an advisory; cargo-deny has printed it.
pub fn check() -> Result<Advisories> {
    if !succeeds(cargo(&["deny", "--version"]))? {
        return Ok(Advisories::Unchecked("cargo-deny is not installed (cargo install --locked cargo-deny)"));
    }
    // Fetching is a step of its own because `check` ends with the same exit code for a failed download and
    // for an advisory, and only the second one is a reason to stop a merge.
    if !succeeds(cargo(&["deny", "fetch", "db"]))? {
        return Ok(Advisories::Unchecked("the advisory database cannot be fetched; is there a network?"));
    }
    run(&mut cargo(&["deny", "check", "--disable-fetch", "advisories"]))?;
    Ok(Advisories::Clear)
}

/// Checks and insists on a result.
///
/// # Errors
/// When a dependency has an advisory, or nothing could be checked.
pub fn insist() -> Result<()> {
    match check()? {
        Advisories::Clear => Ok(()),
        Advisories::Unchecked(reason) => bail!("advisories were NOT checked: {reason}"),
    }
}

fn succeeds(mut command: Command) -> Result<bool> {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.context("cargo cannot be started")?.success())
}
