//! The outcome of a run, from the lines that the engine prints.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::corpus::Size;

/// The outcome of one target's run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    target: String,
    executions: u64,
    /// The processor's time of the run.
    pub(super) processor: Duration,
    /// The edges before the run, which the corpus passes.
    edges_before: u64,
    /// The edges of the program that were passed.
    edges: u64,
    /// The corpus after it was merged.
    pub(super) corpus: Size,
    /// The file with the input on which the target failed.
    pub(super) finding: Option<PathBuf>,
}

impl Outcome {
    /// Reads the engine's lines.
    pub(super) fn read(target: &str, lines: &str) -> Self {
        let mut outcome = Self { target: target.to_owned(), ..Self::default() };
        for line in lines.lines() {
            if let Some((_, rest)) = line.split_once(" cov: ") {
                let edges = rest.split(' ').next().and_then(|word| word.parse().ok());
                outcome.edges = edges.unwrap_or(outcome.edges);
                if line.contains("INITED") {
                    outcome.edges_before = outcome.edges;
                }
            }
            if let Some(number) = line.strip_prefix("stat::number_of_executed_units:") {
                outcome.executions = number.trim().parse().unwrap_or_default();
            }
            if let Some((_, path)) = line.split_once("Test unit written to ") {
                outcome.finding = Some(path.into());
            }
        }
        outcome
    }

    /// The command that repeats the finding, if there is one.
    pub(super) fn repeat(&self, program: &Path) -> Option<String> {
        let file = self.finding.as_ref()?;
        Some(format!("  MUSTER_FUZZ_TARGET={} {} {}", self.target, program.display(), file.display()))
    }
}

/// One line for each target.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut lines: Vec<_> = outcomes.iter().collect();
    lines.sort_by(|one, other| one.target.cmp(&other.target));
    let head = "target        processor  executions    before     after  inputs     bytes  crashes\n";
    let mut text = String::from(head);
    for Outcome { target, processor, executions, edges_before, edges, corpus, finding } in lines {
        let seconds = processor.as_secs();
        let Size { inputs, bytes } = corpus;
        let crashes = u8::from(finding.is_some());
        // A text grows without fail.
        _ = writeln!(
            text,
            "{target:<13} {seconds:>7} s {executions:>11} {edges_before:>9} {edges:>9} {inputs:>7} {bytes:>9} {crashes:>8}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
        INFO: seed corpus: files: 3 min: 1b max: 9b total: 15b rss: 27Mb\n\
        #5\tINITED cov: 37 ft: 38 corp: 3/12b exec/s: 0 rss: 27Mb\n\
        #22399\tREDUCE cov: 39 ft: 40 corp: 4/14b lim: 212 exec/s: 0 rss: 27Mb\n\
        #22677\tNEW    cov: 41 ft: 44 corp: 4/13b lim: 212 exec/s: 0 rss: 27Mb\n";

    #[test]
    fn a_finished_run_is_read() {
        let done = "#30000\tDONE   cov: 42 ft: 45 corp: 5/20b\nstat::number_of_executed_units: 30000\n";
        let outcome = Outcome::read("frames", &format!("{LINES}{done}"));
        assert_eq!([outcome.edges_before, outcome.edges], [37, 42]);
        assert_eq!((outcome.executions, &outcome.finding), (30_000, &None));
        assert_eq!(outcome.repeat(Path::new("program")), None);
    }

    #[test]
    fn a_finding_is_shown_with_the_command_that_repeats_it() {
        let lines = format!("{LINES}artifact_prefix='/c/'; Test unit written to /c/crash-1\n");
        let outcome = Outcome::read("frames", &lines);
        let repeat = outcome.repeat(Path::new("/t/muster-fuzz"));
        assert_eq!(repeat.as_deref(), Some("  MUSTER_FUZZ_TARGET=frames /t/muster-fuzz /c/crash-1"));
        let corpus = Size { inputs: 7, bytes: 80 };
        let processor = Duration::from_millis(61_900);
        let paths = Outcome { target: "a".into(), processor, corpus, ..Outcome::default() };
        let table = table(&[outcome, paths]);
        let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows[1..],
            [
                vec!["a", "61", "s", "0", "0", "0", "7", "80", "0"],
                vec!["frames", "0", "s", "0", "37", "41", "0", "0", "1"]
            ]
        );
    }
}
