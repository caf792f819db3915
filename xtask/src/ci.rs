//! All checks that a change must pass before it is merged.

use anyhow::{Result, ensure};

use crate::advisories::{self, Advisories};
use crate::console::{self, Bundle};
use crate::run::{cargo, root, run};
use crate::{licences, rooms, tests};

/// Files that a reader of the repository must find.
const REQUIRED: [&str; 5] = ["README.md", "ARCHITECTURE.md", "LICENSE", "docker-compose.yml", "deny.toml"];

/// Runs all checks, the quick ones first.
///
/// # Errors
/// The first check that fails.
pub fn ci() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let missing: Vec<_> = REQUIRED.iter().filter(|file| !root().join(file).is_file()).collect();
    ensure!(missing.is_empty(), "these files are missing: {missing:?}");
    rooms::check()?;
    licences::check()?;
    // CI must also work on a machine without a network. The notice is repeated at the end, where it is seen.
    let advisories = advisories::check()?;
    let bundle = console::check()?;
    run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // A broken link in the documentation is only a warning by default, and would pass unnoticed.
    run(cargo(&["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    tests::test(None)?;
    match bundle {
        Bundle::Unchecked(reason) => {
            eprintln!("==> the console's bundle was NOT compared with its sources: {reason}");
        }
        Bundle::Same if console::has_browser() => console::smoke(&[])?,
        Bundle::Same => eprintln!("==> the console was NOT opened in a browser: chromium is not installed"),
    }
    if let Advisories::Unchecked(reason) = advisories {
        eprintln!("==> all checks passed, but advisories were NOT checked: {reason}");
    }
    Ok(())
}
