//! Everything that must hold before a change is merged.

use anyhow::{Result, ensure};

use crate::run::{cargo, root, run};
use crate::{licences, rooms, tests};

/// What a reader of the repository must find.
const REQUIRED: [&str; 5] = ["README.md", "ARCHITECTURE.md", "LICENSE", "docker-compose.yml", "deny.toml"];

/// Runs all checks, the quick ones first.
///
/// # Errors
/// The first check that fails.
pub fn ci() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let missing: Vec<_> = REQUIRED.iter().filter(|file| !root().join(file).is_file()).collect();
    ensure!(missing.is_empty(), "missing: {missing:?}");
    rooms::check()?;
    run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    licences::check()?;
    run(cargo(&["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    tests::test(None)
}
