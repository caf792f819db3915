//! Compares one watcher's record with the commits. Pure: commits and receipts go in, findings come out.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::truth::{Commit, Commits};
use super::{ChangeKind, Ledger, Mark, Segment, Sight, State};

mod visible;

/// The longest time by which the truth may lag behind a reply of the registry.
const TRUTH_LAG: Duration = Duration::from_millis(500);

/// The meaning of a hole in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// Each is a loss.
    Lost,
    /// Each is a loss, but that an instance was away, there and away again may have been passed over.
    Lives,
    /// An intermediate state may have been passed over, as a resync or a merge does; the final state counts.
    Merged,
}

/// The result of checking one watcher's record.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Commits that the watcher had to receive.
    pub due: usize,
    /// The part of them that it received as events.
    pub delivered: usize,
    /// Commits passed over where that was allowed, or covered by a pull after a reconnect.
    pub merged: usize,
    /// Commits that it never received, nor anything later where that would do.
    pub lost: usize,
    /// Frames that repeat a commit.
    pub repeated: usize,
    /// Frames with a commit that come after a later one of the same instance.
    pub reordered: usize,
    /// Frames with a change that was never committed, or not yet.
    pub invented: usize,
    /// Complete states that it received instead of changes.
    pub resets: usize,
    /// Bookmarks that claimed completeness wrongly.
    pub claimed: usize,
    /// The longest delay of an event, counted from its commit or the end of the fault, whichever was later.
    pub delay: Duration,
    /// The delay of every event, counted likewise.
    pub delays: Vec<Duration>,
    /// The first few faults in words.
    pub words: Vec<String>,
    /// The instance that the first of them is about.
    pub first: Option<u32>,
}

impl Findings {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.reordered + self.invented + self.claimed == 0
    }

    fn say(&mut self, key: u32, words: impl FnOnce() -> String) {
        self.first.get_or_insert(key);
        // A single lost subscription makes thousands of findings; the first ones show what happened.
        if self.words.len() < 5 {
            self.words.push(words());
        }
    }
}

/// The conditions of a check: the first revision that counts, and its strictness.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Commits at or before this revision were there before the watcher was.
    pub from: u64,
    /// The meaning of a hole in the record.
    pub holes: Holes,
    /// True when the watcher must have everything in the end. False for watchers with a changing interest,
    /// which are told of what becomes visible as created, and of what is hidden as deleted.
    pub whole: bool,
    /// The end of the fault, from which delays count.
    pub over: Instant,
    /// Instances of providers that come and go as a whole. Dependencies are requested as a state, so
    /// after a loss a provider that came and went meanwhile is passed over, with all of its instances' lives;
    /// nothing else.
    pub passing: HashSet<u32>,
}

impl Terms {
    fn holes(&self, key: u32) -> Holes {
        match self.holes {
            Holes::Lost if self.passing.contains(&key) => Holes::Lives,
            holes => holes,
        }
    }
}

/// Checks the record of one watcher against the commits of the instances it watches.
pub fn check(ledger: &Ledger, commits: &Commits, segments: &[Segment], terms: &Terms) -> Findings {
    let mut findings = Findings::default();
    let mut places: HashMap<u32, Walk<'_>> =
        commits.iter().map(|(key, commits)| (*key, Walk::new(commits, terms.from))).collect();
    for (number, segment) in segments.iter().enumerate() {
        let mut marks = segment.marks.iter().peekable();
        for walk in places.values_mut() {
            walk.begin_segment(segment.resumed);
        }
        if let Some(pulled) = &segment.pulled {
            for (key, walk) in &mut places {
                walk.pull(pulled.instances.get(key).copied(), pulled.at);
            }
        }
        for (place, sight) in segment.sights.iter().enumerate() {
            while let Some((_, mark)) = marks.next_if(|(before, _)| *before <= place) {
                heed(ledger, mark, &mut places, terms, &mut findings);
            }
            let Some(walk) = places.get_mut(&sight.key) else {
                findings.invented += 1;
                findings.say(sight.key, || format!("{}: never committed: {sight:?}", ledger.name(sight.key)));
                continue;
            };
            if terms.whole {
                walk.see(ledger, sight, number, terms, &mut findings);
            } else {
                walk.see_visible(ledger, sight, &mut findings);
            }
        }
        for (_, mark) in marks {
            heed(ledger, mark, &mut places, terms, &mut findings);
        }
    }
    for (key, walk) in &mut places {
        if terms.whole {
            walk.after_states(ledger, *key, &mut findings);
        }
        findings.due += walk.commits.len() - walk.base;
        if terms.whole {
            walk.finish(ledger, *key, terms.holes(*key), &mut findings);
        }
    }
    findings
}

/// Checks a bookmark or a state of a resumable watch.
fn heed(
    ledger: &Ledger,
    mark: &Mark,
    places: &mut HashMap<u32, Walk<'_>>,
    terms: &Terms,
    out: &mut Findings,
) {
    match mark {
        Mark::Bookmark(rev) if terms.whole => {
            for (key, walk) in places {
                walk.after_states(ledger, *key, out);
                walk.claim(ledger, *key, *rev, terms.holes(*key), out);
            }
        }
        Mark::Bookmark(_) => {}
        Mark::State(state) => {
            out.resets += 1;
            if state.service.is_empty() {
                for walk in places.values_mut() {
                    walk.void(state.rev);
                }
                return;
            }
            for (key, walk) in places {
                if ledger.name(*key).split_once('/').is_some_and(|(service, _)| service == state.service) {
                    walk.state(ledger, *key, state, out);
                }
            }
        }
    }
}

/// One instance's commits and how far the watcher knows them: a count of commits from the oldest.
struct Walk<'a> {
    commits: &'a [Commit],
    /// Commits that were there before the watcher.
    base: usize,
    /// Commits told, or covered by a pull.
    known: usize,
    /// Commits covered by the pull of this segment: events in this order may still tell of them.
    pulled: usize,
    /// Commits told of in this segment, when any was.
    here: Option<usize>,
    /// The most commits that the last state of this segment may contain, of those that the watcher knew
    /// already; 0 after a later event.
    here_at_most: usize,
    /// The revision from which this segment was resumed: nothing up to it comes again.
    resumed: Option<u64>,
    /// The last frame about it in this segment told of a delete.
    hidden: bool,
    /// The revision at which everything known was declared void, until a state mentions the instance again.
    voided: Option<u64>,
    /// This segment began with the present instances, and has told nothing of this one.
    anew: bool,
}

impl<'a> Walk<'a> {
    fn new(commits: &'a [Commit], from: u64) -> Self {
        let base = commits.partition_point(|commit| commit.rev <= from);
        Self {
            commits,
            base,
            known: base,
            pulled: 0,
            here: None,
            here_at_most: 0,
            resumed: None,
            hidden: false,
            voided: None,
            anew: false,
        }
    }

    fn begin_segment(&mut self, resumed: Option<u64>) {
        // A connection that ended before all states had come leaves the watcher with its earlier knowledge.
        (self.here, self.pulled, self.resumed, self.voided) = (None, 0, resumed, None);
        self.here_at_most = 0;
        self.hidden = false;
        self.anew = resumed == Some(0);
    }

    /// The instance is there after so many commits.
    fn is_there(&self, place: usize) -> bool {
        place.checked_sub(1).is_some_and(|place| self.commits[place].stamp.is_some())
    }

    /// The stamp of the instance after so many commits; `None` when it is absent.
    fn stamp_after(&self, count: usize) -> Option<u64> {
        count.checked_sub(1).and_then(|last| self.commits[last].stamp)
    }

    /// The number of commits up to a revision.
    fn upto(&self, rev: u64) -> usize {
        self.commits.partition_point(|commit| commit.rev <= rev)
    }

    /// A bookmark claimed that the watcher has everything up to `rev`.
    fn claim(&mut self, ledger: &Ledger, key: u32, rev: u64, holes: Holes, out: &mut Findings) {
        let known = self.known.max(self.pulled);
        let due = self.upto(rev);
        // A watch from the beginning tells of what is there, and of what has gone by silence. It may have
        // begun later than at the revision, but only the service of a passing instance has no state then.
        let latest = if holes == Holes::Lost { due } else { self.commits.len() };
        let gone = (due..=latest).find(|place| self.anew && !self.is_there(*place));
        if let Some(gone) = gone {
            self.known = self.known.max(gone);
            return;
        }
        // When the instance is absent before and after, only a whole life can be missing between them.
        let passed_over = holes != Holes::Lost && !self.is_there(known) && !self.is_there(due);
        if known < due && !passed_over {
            out.claimed += 1;
            out.say(key, || format!("{}: bookmark {rev}, but told {known} of {due}", ledger.name(key)));
        }
    }

    /// The watcher received the state of the service at a revision or soon after.
    fn state(&mut self, ledger: &Ledger, key: u32, state: &State, out: &mut Findings) {
        (self.voided, self.anew) = (None, false);
        // The state of each service is at least as new as the revision.
        let said = state.instances.get(&key).copied();
        let Some(place) =
            (self.upto(state.rev)..=self.commits.len()).find(|place| self.stamp_after(*place) == said)
        else {
            out.invented += 1;
            out.say(key, || format!("{}: said to be {said:?} at {}", ledger.name(key), state.rev));
            return;
        };
        if self.here.is_some_and(|here| here > place) {
            out.reordered += 1;
            out.say(key, || format!("{}: a state at {} after a later change", ledger.name(key), state.rev));
        }
        out.merged += place.saturating_sub(self.known.max(self.base));
        self.here = Some(self.here.unwrap_or(0).max(place));
        // The instance may have been so more than once since the revision. Which of these times it was does
        // not matter as far as the watcher knows what happened between them.
        let same = (place..=self.known).rfind(|later| self.stamp_after(*later) == said);
        self.here_at_most = same.unwrap_or(place);
        self.known = self.known.max(place);
    }

    /// A reset without a service: nothing that the watcher knows counts. States follow; an instance in none
    /// of them was absent at `rev` or soon after.
    fn void(&mut self, rev: u64) {
        self.voided = Some(rev);
    }

    /// All states after the reset have come. An instance in none of them was gone.
    fn after_states(&mut self, ledger: &Ledger, key: u32, out: &mut Findings) {
        let Some(rev) = self.voided.take() else { return };
        let known = self.known;
        let mut gone =
            (self.upto(rev)..=self.commits.len()).filter(|place| !self.is_there(*place)).peekable();
        let first = gone.peek().copied();
        match gone.take_while(|place| *place <= known).last().or(first) {
            // Even if the watcher knew it to be there: that does not count any more.
            Some(gone) => self.known = gone,
            None => {
                out.lost += 1;
                out.say(key, || format!("{}: voided at {rev}, and no state tells of it", ledger.name(key)));
            }
        }
    }

    /// Applies a state pulled at some time: the commits up to the one with its stamp are known. An
    /// instance that is not in it was gone, by the newest delete before that time.
    fn pull(&mut self, stamp: Option<u64>, at: Instant) {
        let place = match stamp {
            Some(stamp) => self.commits.iter().rposition(|commit| commit.stamp == Some(stamp)),
            None => {
                self.commits.iter().rposition(|commit| commit.stamp.is_none() && commit.at <= at + TRUTH_LAG)
            }
        };
        self.pulled = place.map_or(0, |place| place + 1);
    }

    fn see(&mut self, ledger: &Ledger, sight: &Sight, segment: usize, terms: &Terms, out: &mut Findings) {
        self.after_states(ledger, sight.key, out);
        let anew = std::mem::take(&mut self.anew);
        let start = self.here.unwrap_or(0);
        let holes = terms.holes(sight.key);
        let Some(place) = self.place(sight, start, holes) else {
            let known = self.place(sight, 0, holes);
            let name = ledger.name(sight.key);
            match known {
                Some(place) if place + 1 == start => {
                    out.repeated += 1;
                    out.say(sight.key, || format!("{name}: told again: {:?} {}", sight.kind, sight.stamp));
                }
                Some(place) => {
                    out.reordered += 1;
                    out.say(sight.key, || {
                        format!("{name}: {:?} {} ({place}) after {start}", sight.kind, sight.stamp)
                    });
                }
                None => {
                    out.invented += 1;
                    out.say(sight.key, || format!("{name}: not committed: {:?} {}", sight.kind, sight.stamp));
                }
            }
            return;
        };
        let commit = self.commits[place];
        if anew && holes != Holes::Lost && !self.is_there(place) {
            // There was no state of its service, which was gone, and so is what the watcher knew of the
            // instance.
            self.known = self.known.max(place);
        }
        // An instance that was written without a stamp has 0, for which the ledger knows no time.
        if sight.rev.is_some_and(|rev| rev < commit.rev)
            || commit
                .stamp
                .is_some_and(|stamp| stamp != 0 && ledger.given(stamp).is_none_or(|at| at > sight.at))
        {
            out.invented += 1;
            out.say(sight.key, || {
                format!("{}: told before it was written: {}", ledger.name(sight.key), sight.stamp)
            });
        }
        // Only where every change comes alone: a merged change may carry a later revision than this commit.
        if sight.rev.is_some_and(|rev| rev != commit.rev && holes == Holes::Lost) {
            out.invented += 1;
            out.say(sight.key, || {
                format!("{}: {:?} is not of {}", ledger.name(sight.key), sight.rev, commit.rev)
            });
        }
        if sight.rev.zip(self.resumed).is_some_and(|(rev, resumed)| rev <= resumed) {
            out.repeated += 1;
            out.say(sight.key, || format!("{}: {:?} told, resumed later", ledger.name(sight.key), sight.rev));
        }
        // The first event after a reconnect may be older than the watcher's knowledge or the state it pulled.
        let from = if self.here.is_some() { start.max(self.here_at_most) } else { self.known };
        let before = from.max(self.pulled);
        if place >= self.known.max(self.base) {
            out.delivered += 1;
            let due = commit.at.max(terms.over);
            let delay = sight.at.saturating_duration_since(due);
            out.delay = out.delay.max(delay);
            out.delays.push(delay);
        }
        // The first event after a pull shows that the pull covered everything between the old knowledge and
        // the event.
        let pulled_over = self.pulled.saturating_sub(self.known.max(self.base));
        if self.here.is_none() && pulled_over > 0 {
            out.merged += pulled_over.min(place.saturating_sub(self.known));
        }
        let before = before.max(self.base);
        let hole = place.saturating_sub(before);
        if hole > 0 && terms.whole {
            match holes {
                Holes::Merged => out.merged += hole,
                Holes::Lives if !self.is_there(before) && !self.is_there(place) => out.merged += hole,
                Holes::Lost | Holes::Lives => {
                    out.lost += hole;
                    let name = ledger.name(sight.key);
                    out.say(sight.key, || {
                        format!("{name}: {hole} lost before {} (connection {segment})", sight.stamp)
                    });
                }
            }
        }
        let told = self.told_by(sight, place, holes);
        out.merged += told - (place + 1);
        self.here = Some(told);
        self.here_at_most = 0;
        self.known = self.known.max(told);
    }

    /// The number of commits that a watcher knows after a sight of this one. A delete that a comparison of states
    /// has shown names the instance as the watcher knew it, and the revision of the later state: it tells of everything
    /// up to there.
    fn told_by(&self, sight: &Sight, place: usize, holes: Holes) -> usize {
        let of_revision = sight.rev.map_or(0, |rev| self.upto(rev));
        let is_state = sight.kind == ChangeKind::Delete && holes == Holes::Merged;
        if is_state && !self.is_there(of_revision) { of_revision.max(place + 1) } else { place + 1 }
    }

    /// The first commit at or after `start` that the sight is of.
    fn place(&self, sight: &Sight, start: usize, holes: Holes) -> Option<usize> {
        let tells = |place: usize| match (sight.kind, self.commits[place].stamp) {
            (ChangeKind::Create | ChangeKind::Update, Some(stamp)) => stamp == sight.stamp,
            (ChangeKind::Delete, None) => {
                let last = self.commits[..place].iter().rev().find_map(|commit| commit.stamp);
                last == Some(sight.stamp)
            }
            _ => false,
        };
        let found = (start..self.commits.len()).find(|place| tells(*place));
        // When changes may be passed over, a delete carries the last state that the watcher knew.
        let any_delete = sight.kind == ChangeKind::Delete && holes == Holes::Merged && found.is_none();
        if !any_delete {
            return found;
        }
        (start..self.commits.len()).find(|place| self.commits[*place].stamp.is_none())
    }

    fn finish(&self, ledger: &Ledger, key: u32, holes: Holes, out: &mut Findings) {
        let known = self.known.max(self.pulled).max(self.base);
        let missing = self.commits.len() - known;
        if missing == 0 {
            return;
        }
        if holes != Holes::Lost && !self.is_there(known) && !self.is_there(self.commits.len()) {
            // Created and deleted again: where changes are merged there is nothing to tell.
            out.merged += missing;
            return;
        }
        out.lost += missing;
        out.say(key, || format!("{}: the last {missing} of {} lost", ledger.name(key), self.commits.len()));
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
