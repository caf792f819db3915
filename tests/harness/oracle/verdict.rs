//! The oracle over all witnesses: waits until they have been told everything, then judges.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::check::{Findings, Holes, Terms, check};
use super::{Ledger, Truth, WatchPlan, Witness};
use crate::deadline;

/// Witnesses that are opened at once.
const AT_ONCE: usize = 32;
/// Witnesses of which the story is told when they were told something wrong.
const STORIES: usize = 4;
/// The interval at which the oracle looks for missing receipts.
const LOOK: Duration = Duration::from_millis(250);

/// The variable with the name of a file, to which every verdict is added as a line of JSON.
const VERDICTS: &str = "MUSTER_TEST_VERDICTS";

/// The truth and those who watch.
pub struct Oracle {
    /// Stamps and names.
    pub ledger: Ledger,
    /// The commits in etcd.
    pub truth: Truth,
    /// The watchers.
    pub witnesses: Vec<Witness>,
    from: u64,
}

/// The judgement on a case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Commits since the oracle began to count.
    pub events: usize,
    /// Watchers.
    pub watchers: usize,
    /// The sums over all watchers.
    pub all: Findings,
    /// Delay of half of the watchers at most.
    pub p50: Duration,
    /// Delay of the worst of them.
    pub worst: Duration,
    /// Delay of 99 of 100 events at most, to watchers that stay connected.
    pub told: Duration,
    /// Connections that watchers opened again, not counting those that leave by themselves.
    pub reconnects: usize,
    /// Watches that were resumed.
    pub resumed: usize,
    /// The story of the first faults: commits and receipts of the instance in question.
    pub stories: Vec<String>,
}

impl Oracle {
    /// An oracle on an etcd, without witnesses.
    pub async fn on(endpoint: String) -> Self {
        let ledger = Ledger::default();
        let truth = Truth::follow(endpoint, ledger.clone()).await;
        Self { ledger, truth, witnesses: Vec::new(), from: 0 }
    }

    /// Opens watches.
    pub async fn watch(&mut self, plans: Vec<WatchPlan>) {
        for plans in plans.chunks(AT_ONCE) {
            let begun = plans.iter().map(|plan| Witness::begin(plan.clone(), self.ledger.clone()));
            self.witnesses.extend(futures_util::future::join_all(begun).await);
        }
    }

    /// From now on everything counts. To be called when every witness is known to be told of changes.
    pub async fn begin(&mut self) {
        self.from = self.truth.reaches().await;
    }

    /// Waits until every witness was told everything, or the deadline has passed, and judges. Delays count
    /// from `over`, the end of the fault.
    pub async fn judge(&self, holes: Holes, over: Instant) -> Verdict {
        let give_up = Instant::now() + deadline();
        // Before any check: a commit that the truth has not seen yet would make its delivery look invented.
        self.truth.reaches().await;
        let mut waiting: Vec<usize> = (0..self.witnesses.len()).collect();
        let mut found: Vec<Findings> = vec![Findings::default(); self.witnesses.len()];
        loop {
            for number in &waiting {
                found[*number] = self.check(&self.witnesses[*number], holes, over);
            }
            // Only witnesses with a fault are checked again. Checking all of them each time would take the
            // cores from the programs under test, which then take longer to recover.
            waiting.retain(|number| !found[*number].is_clean());
            if waiting.is_empty() || Instant::now() >= give_up {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let events = self.truth.count_after(self.from);
        let mut verdict = Verdict::of(events, [self.reopened(false), self.reopened(true)], &found);
        let staying = self.witnesses.iter().zip(&found).filter(|(witness, _)| witness.connections() == 1);
        let mut delays: Vec<Duration> = staying.flat_map(|(_, finding)| finding.delays.clone()).collect();
        delays.sort_unstable();
        verdict.told = delays.get(delays.len() * 99 / 100).copied().unwrap_or_default();
        let faulty = found.iter().enumerate().filter_map(|(number, finding)| Some((number, finding.first?)));
        verdict.stories = faulty.take(STORIES).map(|(number, key)| self.story(number, key)).collect();
        verdict
    }

    /// The connections that witnesses opened again, of those that resume or of the others.
    fn reopened(&self, resumes: bool) -> usize {
        let some = self.witnesses.iter().filter(|witness| witness.plan.way.resumes() == resumes);
        some.map(|witness| witness.connections().saturating_sub(1)).sum()
    }

    /// The commits of an instance, and a witness's receipts of it.
    fn story(&self, number: usize, key: u32) -> String {
        let witness = &self.witnesses[number];
        let mut story =
            format!("{} as told to witness {number}, {:?}\n", self.ledger.name(key), witness.plan.way);
        for commit in self.truth.commits(&witness.plan.services).remove(&key).unwrap_or_default() {
            let _ = writeln!(story, "  commit {} stamp {:?}", commit.rev, commit.stamp);
        }
        for segment in witness.segments() {
            let pulled = segment.pulled.as_ref().map(|state| state.instances.get(&key));
            let _ = writeln!(story, "  connection resumed from {:?}, pulled {pulled:?}", segment.resumed);
            let mut marks = segment.marks.iter().peekable();
            for (place, sight) in segment.sights.iter().enumerate() {
                while let Some((_, mark)) = marks.next_if(|(before, _)| *before <= place) {
                    let _ = writeln!(story, "    {}", mark.about(key));
                }
                if sight.key == key {
                    let _ = writeln!(
                        story,
                        "    {:?} stamp {} revision {:?}",
                        sight.kind, sight.stamp, sight.rev
                    );
                }
            }
            for (_, mark) in marks {
                let _ = writeln!(story, "    {}", mark.about(key));
            }
        }
        story
    }

    /// Pulls that claimed that there is nothing.
    pub fn lies(&self) -> Vec<String> {
        self.witnesses.iter().flat_map(|witness| witness.look(|record| record.lies.clone())).collect()
    }

    fn check(&self, witness: &Witness, holes: Holes, over: Instant) -> Findings {
        let commits = self.truth.commits(&witness.plan.services);
        let passing = self.truth.commits(&witness.plan.passing).into_keys().collect();
        let terms = Terms { from: self.from, holes, whole: witness.plan.whole, over, passing };
        check(&self.ledger, &commits, &witness.segments(), &terms)
    }
}

impl Verdict {
    fn of(events: usize, [reconnects, resumed]: [usize; 2], found: &[Findings]) -> Self {
        let mut all = Findings::default();
        for finding in found {
            all.due += finding.due;
            all.delivered += finding.delivered;
            all.merged += finding.merged;
            all.lost += finding.lost;
            all.repeated += finding.repeated;
            all.reordered += finding.reordered;
            all.invented += finding.invented;
            all.claimed += finding.claimed;
            all.resets += finding.resets;
            let room = 8_usize.saturating_sub(all.words.len());
            all.words.extend(finding.words.iter().take(room).cloned());
        }
        let mut delays: Vec<Duration> = found.iter().map(|finding| finding.delay).collect();
        delays.sort();
        let p50 = delays.get(delays.len() / 2).copied().unwrap_or_default();
        let worst = delays.last().copied().unwrap_or_default();
        Self {
            events,
            watchers: found.len(),
            all,
            p50,
            worst,
            told: Duration::ZERO,
            reconnects,
            resumed,
            stories: Vec::new(),
        }
    }

    /// Prints one line, adds it to the file of verdicts if there is one, and asserts that nothing was lost,
    /// repeated, reordered or invented.
    ///
    /// # Panics
    /// When something was, or the file cannot be written.
    pub fn hold(&self, fault: &str) {
        println!("{fault}: {self}");
        if let Some(file) = std::env::var_os(VERDICTS) {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
            let line = format!("{}\n", self.json(fault));
            file.and_then(|mut file| file.write_all(line.as_bytes()))
                .expect("the file of verdicts is writable");
        }
        let words = [self.all.words.join("\n"), self.stories.join("\n")].join("\n");
        assert!(self.all.is_clean(), "{fault}: {self}\n{words}");
        assert!(self.all.delivered > 0, "{fault}: nobody was told anything");
    }

    /// The figures of a row in the table of faults; times in milliseconds.
    fn json(&self, fault: &str) -> Value {
        let Findings { delivered, merged, lost, repeated, reordered, invented, claimed, .. } = &self.all;
        let [p50, max, told] = [self.p50, self.worst, self.told].map(|time| time.as_millis() as u64);
        json!({
            "fault": fault, "events": self.events, "delivered": delivered, "merged": merged,
            "lost": lost + repeated + reordered + invented + claimed, "resumed": self.resumed,
            "p50": p50, "max": max, "told": told,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings { delivered, merged, lost, repeated, reordered, invented, claimed, resets, .. } =
            &self.all;
        write!(
            f,
            "events {}, watchers {}, told {delivered}, merged {merged}, lost {lost}, repeated {repeated}, \
             reordered {reordered}, invented {invented}, claimed {claimed}, reconnects {}, resumed {} \
             (states {resets}), recovery p50 {:.0?} max {:.0?}, told p99 {:.0?}",
            self.events, self.watchers, self.reconnects, self.resumed, self.p50, self.worst, self.told
        )
    }
}
