//! Running other programs, visibly.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// A program of the workspace, as an ordinary build makes it.
pub fn program(name: &str) -> PathBuf {
    root().join("target/debug").join(name)
}

/// This workspace's cargo, in its root.
pub fn cargo(arguments: &[&str]) -> Command {
    // Cargo names itself in `CARGO`, so the toolchain that built this program also builds the rest.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Prints a command and runs it; its output goes to the terminal.
///
/// # Errors
/// When the command cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default();
    let shown = format!("{} {}", program.to_string_lossy(), arguments.join(" "));
    eprintln!("==> {shown}");
    let status = command.status().with_context(|| format!("{shown} cannot be started"))?;
    ensure!(status.success(), "{shown} failed ({status})");
    Ok(())
}
