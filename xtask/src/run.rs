//! Running other programs, visibly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The pause between two looks at a program that may take its time.
const LOOK: Duration = Duration::from_millis(100);

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
    // Cargo has set these for this program. Build scripts watch some of them, so with them everything above such a
    // crate would be built anew whenever a build by this program follows one by hand.
    for (name, _) in std::env::vars_os() {
        let is_of_this_package = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if is_of_this_package {
            command.env_remove(name);
        }
    }
    command
}

/// Prints a command and runs it; its output goes to the terminal.
///
/// # Errors
/// When the command cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("{shown} cannot be started"))?;
    succeeded(&shown, status)
}

/// Like [`run`], for at most this time. After it the command is killed, with everything that it has started.
///
/// # Errors
/// When the command cannot be started, fails, or takes longer.
pub fn run_within(command: &mut Command, most: Duration) -> Result<()> {
    let shown = show(command);
    let mut child = command.spawn().with_context(|| format!("{shown} cannot be started"))?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("{shown} cannot be waited for"))? {
            return succeeded(&shown, status);
        }
        if begun.elapsed() >= most {
            end(&mut child);
            bail!("{shown} did not end within {}, and was killed", humantime::format_duration(most));
        }
        std::thread::sleep(LOOK);
    }
}

fn show(command: &Command) -> String {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default();
    let shown = format!("{} {}", program.to_string_lossy(), arguments.join(" "));
    eprintln!("==> {shown}");
    shown
}

fn succeeded(shown: &str, status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "{shown} failed ({status})");
    Ok(())
}

/// Kills a program and everything that it has started. They stay in the process group of the terminal, so that
/// a key that interrupts this program interrupts them too; hence they are found by their parents.
fn end(child: &mut Child) {
    // Each is stopped before its own are looked for: one that goes on could start another one meanwhile, and
    // one that has ended leaves its own to nobody.
    let mut stopped = BTreeSet::new();
    let mut next = vec![child.id()];
    while !next.is_empty() {
        next.iter().for_each(|id| signal(*id, Signal::STOP));
        stopped.extend(next);
        let parents = parents();
        let is_new =
            |(id, parent): (&u32, &u32)| (stopped.contains(parent) && !stopped.contains(id)).then_some(*id);
        next = parents.iter().filter_map(is_new).collect();
    }
    stopped.iter().for_each(|id| signal(*id, Signal::KILL));
    // An error means that it has ended before.
    _ = child.wait();
}

fn signal(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // An error means that it has ended before.
        _ = kill_process(id, signal);
    }
}

/// All processes with their parents.
fn parents() -> BTreeMap<u32, u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let known = processes.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        // The name of the program stands in parentheses and may contain any character.
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        Some((id, rest.split_whitespace().nth(1)?.parse().ok()?))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_command_that_ends_in_time_has_its_own_result() {
        let long = Duration::from_mins(1);
        assert!(run_within(&mut Command::new("true"), long).is_ok());
        let failed = run_within(&mut Command::new("false"), long).expect_err("it fails");
        assert!(failed.to_string().contains("failed"), "{failed}");
    }

    #[test]
    fn a_command_that_takes_too_long_ends_with_everything_that_it_has_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ids");
        // A grandchild, whose parent has no reason to end it.
        let script = format!("sh -c 'echo $$ > {0}; exec sleep 600' & wait", file.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::null());
        let grandchild = std::thread::scope(|scope| {
            // The time begins to count only when the grandchild is there.
            let mut child = command.spawn().expect("a shell");
            let id = scope.spawn(|| {
                loop {
                    if let Some(id) =
                        std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok())
                    {
                        return id;
                    }
                    std::thread::sleep(LOOK);
                }
            });
            let id: u32 = id.join().expect("an id");
            end(&mut child);
            id
        });
        // Its new parent takes it up when it likes, but long before it would end by itself.
        let begun = Instant::now();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next())
        };
        while !matches!(state(), None | Some('Z' | 'X')) {
            assert!(begun.elapsed() < Duration::from_mins(1), "it goes on: {:?}", state());
            std::thread::sleep(LOOK);
        }
        let slow = run_within(Command::new("sleep").arg("600"), Duration::ZERO).expect_err("too long");
        assert!(slow.to_string().contains("did not end"), "{slow}");
    }
}
