//! Long runs of the fuzz targets, guided by coverage, with a stable toolchain: the compiler's own passes
//! count the edges, and no sanitizer is needed in a workspace that forbids `unsafe`.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::run::{cargo, root, run};

mod corpus;
mod report;

use report::Outcome;

/// The flags with which every fuzzer of this language is built, without those of a sanitizer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The time and the memory that an input may take before it counts as a finding. The time goes by on a busy
/// machine too, and while a long run is paused (`SIGSTOP`) for something else, so it is far beyond that of any
/// input.
const LIMITS: [&str; 3] = ["-timeout=1200", "-report_slow_units=30", "-rss_limit_mb=2048"];
/// The pause after which the processor's time of the engine is read again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The directory of Linux whose files are in memory.
const MEMORY: &str = "/dev/shm";

/// A run, as its arguments ask for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Fuzz {
    targets: Vec<String>,
    /// The time for each target.
    time: Duration,
    /// The targets that run at once.
    jobs: usize,
}

impl Fuzz {
    /// Reads `[TARGET…] [--for TIME] [--jobs N]`. Without a target all of them run, each for a minute.
    ///
    /// # Errors
    /// When an argument is not one of these.
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let known = targets()?;
        let mut fuzz = Self { targets: Vec::new(), time: Duration::from_secs(60), jobs: 1 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--for" => {
                    let text = arguments.next().context("--for takes a time, such as 1h")?;
                    fuzz.time = humantime::parse_duration(text).with_context(|| format!("--for {text}"))?;
                    // The engine counts in seconds, and takes zero for no end.
                    ensure!(fuzz.time.as_secs() > 0, "--for {text}: expected a second or more");
                }
                "--jobs" => {
                    let text = arguments.next().context("--jobs takes a number")?;
                    fuzz.jobs = text.parse().with_context(|| format!("--jobs {text}"))?;
                    ensure!((1..=256).contains(&fuzz.jobs), "--jobs {text}: expected 1 to 256");
                }
                option if option.starts_with('-') => bail!("`{option}`: expected --for TIME or --jobs N"),
                name if fuzz.targets.iter().any(|other| other == name) => bail!("`{name}` is named twice"),
                name if known.iter().any(|other| other == name) => fuzz.targets.push(name.to_owned()),
                name => bail!("`{name}` is no target; there are {}", known.join(", ")),
            }
        }
        if fuzz.targets.is_empty() {
            fuzz.targets = known;
        }
        Ok(fuzz)
    }

    /// Builds the targets, runs them, and takes what reached new code into the corpus.
    ///
    /// # Errors
    /// When something does not build, or an input was found on which a target fails.
    pub fn run(&self) -> Result<()> {
        let program = build()?;
        let waiting = Mutex::new(self.targets.iter().collect::<VecDeque<_>>());
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(self.targets.len()) {
                scope.spawn(|| {
                    while let Some(target) = next(&waiting) {
                        eprintln!("==> {target}, for {}", humantime::format_duration(self.time));
                        let outcome = one(&program, target, self.time)
                            .with_context(|| format!("{target} could not be run"));
                        done.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                    }
                });
            }
        });
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (outcomes, failures): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
        let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
        print!("{}", report::table(&outcomes));
        failures.into_iter().collect::<Result<Vec<_>>>()?;
        let findings: Vec<_> = outcomes.iter().flat_map(|outcome| outcome.repeat(&program)).collect();
        ensure!(findings.is_empty(), "inputs on which a target fails:\n{}", findings.join("\n"));
        Ok(())
    }
}

fn next<'a>(waiting: &Mutex<VecDeque<&'a String>>) -> Option<&'a String> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// The names of the targets. Each has a corpus; a test of the targets compares both lists.
fn targets() -> Result<Vec<String>> {
    let folders = std::fs::read_dir(root().join("fuzz/corpus")).context("fuzz/corpus")?;
    let mut names = folders
        .map(|entry| entry?.file_name().into_string().map_err(|name| anyhow!("{}", name.display())))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Builds the program with all targets, in a directory of its own: everything in it is compiled with other
/// flags than elsewhere.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let directory = root().join("target/fuzz");
    let mut build = cargo(&["build", "--locked", "--package", "muster-fuzz", "--bin", "muster-fuzz"]);
    // With a target named, the flags are for the program alone and not for the programs that build it.
    build.args(["--profile", "fuzz", "--target", &host, "--target-dir"]).arg(&directory);
    // The other variable for flags would have precedence.
    run(build.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(directory.join(host).join("fuzz/muster-fuzz"))
}

fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").current_dir(root()).output().context("rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not name its host")
}

/// Runs a target for this time or until it fails, and merges what was found into its corpus.
fn one(program: &Path, target: &str, time: Duration) -> Result<Outcome> {
    let work = root().join("target/fuzz/work").join(target);
    let found = work.join("found");
    let crashes = work.join("crashes");
    for directory in [&found, &crashes] {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let committed = root().join("fuzz/corpus").join(target);
    let log = work.join("run.log");
    let mut run = engine(program, target, &crashes, &log)?;
    run.arg("-print_final_stats=1").arg(format!("-max_total_time={}", time.as_secs()));
    let (status, processor) = timed(run.arg(&found).arg(&committed)).context("the engine")?;
    let text = std::fs::read(&log).context("the engine's output")?;
    let mut outcome = Outcome::read(target, &String::from_utf8_lossy(&text));
    outcome.processor = processor;
    let is_explained = status.success() || outcome.finding.is_some();
    ensure!(is_explained, "the engine failed ({status}); see {}", log.display());
    let smallest = work.join("smallest");
    corpus::keep_named(&committed, &smallest)?;
    let log = work.join("merge.log");
    let mut merge = engine(program, target, &crashes, &log)?;
    // The repository gets what reaches an edge, and not every number of times that edges are passed.
    merge.args(["-set_cover_merge=1", "-use_counters=0"]);
    merge.args([&smallest, &committed, &found]);
    let status = merge.status().context("the engine")?;
    ensure!(status.success(), "the corpus could not be merged ({status}); see {}", log.display());
    outcome.corpus = corpus::replace_found(&committed, &smallest)?;
    Ok(outcome)
}

/// Runs a program to its end. Gives the processor's time of its first thread, which is the engine's only one, to
/// half a second; zero where the system does not tell. On a busy machine that is less than the time gone by.
fn timed(program: &mut Command) -> io::Result<(ExitStatus, Duration)> {
    let mut child = program.spawn()?;
    // In nanoseconds. The first program replaces itself by the engine, which keeps its number.
    let file = format!("/proc/{}/schedstat", child.id());
    let mut processor = Duration::ZERO;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, processor));
        }
        let figures = std::fs::read_to_string(&file).unwrap_or_default();
        let used = figures.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok());
        processor = processor.max(used.map(Duration::from_nanos).unwrap_or_default());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The engine with a target: it writes its lines to `log` and what it finds to `crashes`.
fn engine(program: &Path, target: &str, crashes: &Path, log: &Path) -> Result<Command> {
    let log = File::create(log).with_context(|| log.display().to_string())?;
    // A long run leaves the machine to everything else.
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program).args(LIMITS).current_dir(root());
    command.arg(format!("-artifact_prefix={}/", crashes.display())).env("MUSTER_FUZZ_TARGET", target);
    // The targets that need a store open its file in memory where the system has such a place.
    if Path::new(MEMORY).is_dir() {
        command.env("TMPDIR", MEMORY);
    }
    command.stdout(log.try_clone().context("the log")?).stderr(log);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_program_is_that_of_the_processor() {
        let (status, processor) = timed(Command::new("sleep").arg("0.1")).expect("runs");
        assert!(status.success() && processor < Duration::from_millis(100), "{processor:?}");
    }

    #[test]
    fn arguments_name_targets_and_how_long_they_run() {
        let fuzz = Fuzz::parse(&["frames", "--for", "2h", "paths", "--jobs", "2"]).expect("is right");
        let targets = vec!["frames".to_owned(), "paths".to_owned()];
        assert_eq!(fuzz, Fuzz { targets, time: Duration::from_secs(7200), jobs: 2 });
        let all = Fuzz::parse(&[]).expect("is right");
        assert!(all.targets.len() >= 11 && all.targets.contains(&"tokens".to_owned()), "{all:?}");
        for wrong in [
            &["--for"][..],
            &["--for", "soon"],
            &["--for", "0s"],
            &["--for", "10ms"],
            &["--jobs", "0"],
            &["--jobs", "many"],
            &["--times", "3"],
            &["frames", "frames"],
            &["../frames"],
        ] {
            assert!(Fuzz::parse(wrong).is_err(), "{wrong:?}");
        }
        let error = Fuzz::parse(&["frame"]).expect_err("no target").to_string();
        assert!(error.contains("`frame` is no target") && error.contains("frames"), "{error}");
    }
}
