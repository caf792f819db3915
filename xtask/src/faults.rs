//! The fault cases: rounds of all of them, and one table of what their oracles told.
//!
//! In: a file to which the cases of a round add a line of JSON for each verdict. Out: a table in Markdown, summed over
//! the rounds as `docs/guarantees.md` has it.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::run::run;
use crate::tests::{cases, prepare_with};

/// The variable by which cases know the file.
const VERDICTS: &str = "MUSTER_TEST_VERDICTS";

/// Rounds of all fault cases.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults {
    times: u32,
    /// With optimised programs.
    release: bool,
}

impl Faults {
    /// Reads `[--times N] [--release]`.
    ///
    /// # Errors
    /// When an argument is not one of these.
    pub fn parse(mut arguments: &[&str]) -> Result<Self> {
        let mut faults = Self { times: 1, release: false };
        while let [first, rest @ ..] = arguments {
            arguments = match (*first, rest) {
                ("--times", [times, rest @ ..]) => {
                    faults.times = times.parse().context("--times takes a number")?;
                    rest
                }
                ("--release", rest) => {
                    faults.release = true;
                    rest
                }
                (option, _) => bail!("`{option}`: expected --times N or --release"),
            };
        }
        Ok(faults)
    }

    /// Runs the cases one at a time, shows the line that each prints, and prints the table at the end, also after
    /// a failure, which ends the rounds. `MUSTER_TEST_LONG` adds the long variants.
    ///
    /// # Errors
    /// When something is missing, does not build, or fails.
    pub fn run(&self) -> Result<()> {
        let profile: &[&str] = if self.release { &["--release"] } else { &[] };
        prepare_with(profile)?;
        let directory = tempfile::tempdir().context("a directory for the verdicts")?;
        let mut table = Table::default();
        let began = Instant::now();
        let rounds = (0..self.times).try_for_each(|round| {
            let file = directory.path().join(round.to_string());
            let outcome = run(cases(profile, "faults::").env(VERDICTS, &file));
            table.add_round(&told(&file)?)?;
            outcome
        });
        // Whole seconds are enough for minutes of work.
        let took = Duration::from_secs(began.elapsed().as_secs());
        println!("\n{table}\nrounds: {}, in {}", table.rounds, humantime::format_duration(took));
        rounds
    }
}

/// What the cases of a round have told; nothing if none came as far as that.
fn told(file: &Path) -> Result<String> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.context("the verdicts cannot be read"),
    }
}

/// One verdict; times in milliseconds.
#[derive(Clone, Debug, Deserialize)]
struct Verdict {
    fault: String,
    events: u64,
    delivered: u64,
    merged: u64,
    /// Everything that was lost, repeated, out of order, invented or falsely claimed.
    lost: u64,
    resumed: u64,
    p50: u64,
    max: u64,
    told: u64,
}

/// The verdicts of all rounds, by fault, in the order in which the faults came first.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    rounds: u32,
}

#[derive(Debug)]
struct Row {
    /// The sums and maxima.
    sum: Verdict,
    /// The medians of the rounds.
    p50: Vec<u64>,
}

impl Table {
    fn add_round(&mut self, lines: &str) -> Result<()> {
        let mut round: Vec<Verdict> = Vec::new();
        for line in lines.lines() {
            let verdict: Verdict = serde_json::from_str(line).context("a line is no verdict")?;
            match round.iter_mut().find(|before| before.fault == verdict.fault) {
                // A case that asks its oracle several times counts on, so the last of its verdicts has all that
                // happened; the times are of the part before each.
                Some(before) => {
                    let [p50, max, told] = [before.p50, before.max, before.told];
                    let times = [p50.max(verdict.p50), max.max(verdict.max), told.max(verdict.told)];
                    *before = verdict;
                    [before.p50, before.max, before.told] = times;
                }
                None => round.push(verdict),
            }
        }
        round.into_iter().for_each(|verdict| self.add(verdict));
        self.rounds += 1;
        Ok(())
    }

    fn add(&mut self, verdict: Verdict) {
        let p50 = verdict.p50;
        let Some(row) = self.rows.iter_mut().find(|row| row.sum.fault == verdict.fault) else {
            return self.rows.push(Row { sum: verdict, p50: vec![p50] });
        };
        row.p50.push(p50);
        let sum = &mut row.sum;
        sum.events += verdict.events;
        sum.delivered += verdict.delivered;
        sum.merged += verdict.merged;
        sum.lost += verdict.lost;
        sum.resumed += verdict.resumed;
        sum.max = sum.max.max(verdict.max);
        sum.told = sum.told.max(verdict.told);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| fault | events | delivered | merged | lost | resumed | p50 | max | told p99 |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for Row { sum, p50 } in &self.rows {
            let Verdict { fault, events, delivered, merged, lost, resumed, max, told, .. } = sum;
            let [events, delivered, merged, lost, resumed] =
                [events, delivered, merged, lost, resumed].map(|count| grouped(*count));
            let [p50, max, told] = [median(p50), *max, *told].map(time);
            writeln!(
                f,
                "| {fault} | {events} | {delivered} | {merged} | {lost} | {resumed} | {p50} | {max} | {told} |"
            )?;
        }
        Ok(())
    }
}

/// The upper one of two that are in the middle.
fn median(times: &[u64]) -> u64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// `1 811 264`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// `22 ms`, and from a second on `2.4 s`.
fn time(milliseconds: u64) -> String {
    if milliseconds < 1000 {
        return format!("{milliseconds} ms");
    }
    let tenths = (milliseconds + 50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests_of_tables {
    use super::*;

    fn line(fault: &str, events: u64, p50: u64, max: u64) -> String {
        format!(
            r#"{{"fault":"{fault}","events":{events},"delivered":{},"merged":1,"lost":0,"resumed":2,"p50":{p50},"max":{max},"told":{max}}}"#,
            events * 30
        )
    }

    #[test]
    fn arguments_name_the_rounds_and_the_programs() {
        let faults = Faults::parse(&["--release", "--times", "3"]).expect("is right");
        assert_eq!(faults, Faults { times: 3, release: true });
        assert_eq!(Faults::parse(&[]).expect("is right"), Faults { times: 1, release: false });
        for wrong in [&["--times"][..], &["--times", "x"], &["3"]] {
            assert!(Faults::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rounds_are_summed_by_fault() {
        let mut table = Table::default();
        for (p50, max) in [(30, 400), (10, 2449), (20, 900)] {
            let round = [line("etcd killed twice", 1000, p50, max), line("none", 10, 5, 6)].join("\n");
            table.add_round(&round).expect("verdicts");
        }
        assert_eq!(
            table.to_string(),
            "| fault | events | delivered | merged | lost | resumed | p50 | max | told p99 |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n\
             | etcd killed twice | 3 000 | 90 000 | 3 | 0 | 6 | 20 ms | 2.4 s | 2.4 s |\n\
             | none | 30 | 900 | 3 | 0 | 6 | 5 ms | 6 ms | 6 ms |\n"
        );
        assert_eq!(table.rounds, 3);
    }

    #[test]
    fn the_last_verdict_of_a_case_counts_and_the_longest_time() {
        let mut table = Table::default();
        let round = [line("lost", 100, 50, 70), line("lost", 250, 10, 20)].join("\n");
        table.add_round(&round).expect("verdicts");
        assert!(table.to_string().contains("| lost | 250 | 7 500 | 1 | 0 | 2 | 50 ms | 70 ms | 70 ms |"));
        assert!(table.add_round("no verdict").is_err());
        table.add_round("").expect("a round that failed at once");
    }

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!([0, 999, 1000, 1_811_264].map(grouped), ["0", "999", "1 000", "1 811 264"]);
        assert_eq!([0, 999, 1000, 5950].map(time), ["0 ms", "999 ms", "1.0 s", "6.0 s"]);
    }
}
