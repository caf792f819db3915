//! Keeps the deadlines of instances, and says which are over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::{Acknowledgement, Key, Moment, Report, ReporterId, Tick, Timing};

/// Ticks whose times are remembered. A report that answers an older one says nothing new.
const REMEMBERED_TICKS: usize = 256;
/// Reports of one reporter that came before one with a lower number.
const EARLY: usize = 256;
/// Reporters that are heard at once. A further one gets no acknowledgement, so it passes heartbeats on.
const REPORTERS: usize = 4096;
/// Instances that one tick names as unknown. Further ones are named when they are reported again.
const UNKNOWN: usize = 4096;

/// An instance with its deadline.
#[derive(Debug)]
struct Kept<T> {
    last: Moment,
    time: Duration,
    /// The time of its entry in the order. Other entries of its key are void.
    queued: Moment,
    /// The deadline at which it was found to be over. The caller has not said yet what became of it.
    judged: Option<Moment>,
    item: T,
}

/// The last reports of a reporter.
#[derive(Debug)]
struct Heard {
    /// All reports up to this number were heard.
    upto: u64,
    /// Reports after a gap: their numbers, and until when they are complete.
    early: BTreeMap<u64, Moment>,
    /// The last time at which `upto` rose.
    rose_at: Moment,
    /// All heartbeats that it had answered before this time were heard.
    complete_until: Moment,
    /// The number of its last report, once that was heard.
    last: Option<u64>,
}

/// The result of looking at the deadlines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Instances whose time is over, as far as the reporters know. The caller says what becomes of each.
    pub over: Vec<Key>,
    /// A deadline has passed, and the reporters have to be called before it can be judged.
    pub needs_call: bool,
    /// Reporters that were given up.
    pub given_up: Vec<ReporterId>,
}

/// The deadlines of one term in the publisher's seat. `T` is what the caller knows of an instance.
#[derive(Debug)]
pub struct Keeper<T> {
    timing: Timing,
    epoch: u64,
    /// There may be heartbeats before this time that were not heard.
    known_since: Moment,
    instances: HashMap<Key, Kept<T>>,
    order: BinaryHeap<Reverse<(Moment, Key)>>,
    reporters: HashMap<ReporterId, Heard>,
    ticks: VecDeque<(u64, Moment)>,
    next_tick: u64,
    unknown: HashSet<Key>,
}

impl<T> Keeper<T> {
    /// The keeper of a term that begins now.
    pub fn new(timing: Timing, epoch: u64, now: Moment) -> Self {
        Self {
            timing,
            epoch,
            // Reporters that an earlier keeper has acknowledged may go on for that long without this one.
            known_since: now + timing.trust + timing.margin,
            instances: HashMap::new(),
            order: BinaryHeap::new(),
            reporters: HashMap::new(),
            ticks: VecDeque::new(),
            next_tick: 1,
            unknown: HashSet::new(),
        }
    }

    /// The term.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of instances.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// True without instances.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The caller's own record of an instance.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.instances.get(&key).map(|kept| &kept.item)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.instances.get_mut(&key).map(|kept| &mut kept.item)
    }

    /// Keeps an instance that lives for `time` after a heartbeat, or changes what is known of it. Its
    /// registration counts as a heartbeat.
    pub fn keep(&mut self, key: Key, time: Duration, item: T, now: Moment) {
        self.instances.insert(key, Kept { last: now, time, queued: now + time, judged: None, item });
        self.order.push(Reverse((now + time, key)));
    }

    /// Forgets an instance that has ended.
    pub fn forget(&mut self, key: Key) -> Option<T> {
        self.instances.remove(&key).map(|kept| kept.item)
    }

    /// Forgets the instances for which `stays` is false.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        self.instances.retain(|_, kept| stays(&kept.item));
    }

    /// Nothing can be known of heartbeats before this time, because those that others could have answered may
    /// not have reached the store. Every instance has its full time from here on.
    pub fn begin_anew(&mut self, from: Moment) {
        self.known_since = self.known_since.max(from);
    }

    fn deadline(&self, kept: &Kept<T>) -> Moment {
        kept.last.max(self.known_since) + kept.time
    }

    /// The instance was alive at `at`, as its lease says that was asked at `asked`. True if its time was over
    /// all the same: the caller goes on to end it. If not, it is judged again later.
    pub fn settle(&mut self, key: Key, at: Moment, asked: Moment) -> bool {
        let (known_since, complete_until) = (self.known_since, self.complete_until());
        let Some(kept) = self.instances.get_mut(&key) else { return false };
        kept.last = kept.last.max(at);
        let deadline = kept.last.max(known_since) + kept.time;
        let Some(judged) = kept.judged else { return false };
        // The deadline may have moved since it was judged, if only by what clocks differ. It must have passed
        // before the lease was asked, and every reporter must have told what it had answered until then.
        let is_known = deadline <= asked && complete_until.is_none_or(|until| until > deadline);
        if deadline <= judged || is_known {
            return true;
        }
        kept.judged = None;
        kept.queued = deadline;
        self.order.push(Reverse((deadline, key)));
        false
    }

    /// The instance's lease was renewed by the caller, which hides whether others have renewed it before.
    pub fn renewed(&mut self, key: Key, now: Moment) {
        if let Some(kept) = self.instances.get_mut(&key) {
            kept.last = kept.last.max(now);
        }
    }

    /// The instance could not be ended, or it could not be found out whether it has to be. It is judged again
    /// at `at`.
    pub fn judge_again(&mut self, key: Key, at: Moment) {
        let Some(kept) = self.instances.get_mut(&key) else { return };
        if kept.judged.take().is_some() {
            kept.queued = at;
            self.order.push(Reverse((at, key)));
        }
    }

    /// Takes a report. `noted` is called for each instance that it names and that is kept here.
    pub fn heard(&mut self, report: &Report, now: Moment, mut noted: impl FnMut(Key, &mut T)) {
        if self.reporters.len() >= REPORTERS && !self.reporters.contains_key(&report.reporter) {
            return;
        }
        // One that comes again has been counted. Its heartbeats would seem younger than they are.
        let is_new = self
            .reporters
            .get(&report.reporter)
            .is_none_or(|of| report.number > of.upto && !of.early.contains_key(&report.number));
        for beat in report.beats.iter().filter(|_| is_new) {
            let Some(kept) = self.instances.get_mut(&beat.key) else {
                if self.unknown.len() < UNKNOWN {
                    self.unknown.insert(beat.key);
                }
                continue;
            };
            // By this clock the heartbeat came a little later than this, for the time that the report took.
            kept.last = kept.last.max(now.saturating_sub(beat.age));
            noted(beat.key, &mut kept.item);
        }
        let before = report.from.saturating_sub(1);
        let complete_until = self.time_of(report).unwrap_or_default();
        let heard = self.reporters.entry(report.reporter).or_insert_with(|| Heard {
            // Only another keeper can have acknowledged the reports before, in an earlier term. This term
            // began with full times because of them.
            upto: before,
            early: BTreeMap::new(),
            rose_at: now,
            complete_until: Moment::ZERO,
            last: None,
        });
        if heard.upto < before {
            // Another keeper's acknowledgement has overtaken the reports, which then never come.
            heard.upto = before;
            heard.early.retain(|number, _| *number > before);
            self.known_since = self.known_since.max(now);
        }
        if report.number > heard.upto && heard.early.len() < EARLY {
            heard.early.insert(report.number, complete_until);
        }
        if report.is_last {
            heard.last = Some(report.number);
        }
        while let Some(first) = heard.early.first_entry().filter(|first| *first.key() == heard.upto + 1) {
            heard.complete_until = heard.complete_until.max(first.remove());
            heard.upto += 1;
            heard.rose_at = now;
        }
        if heard.last.is_some_and(|last| last <= heard.upto) {
            self.reporters.remove(&report.reporter);
        }
    }

    /// The time of the tick that a report answers: its reporter sent it later.
    fn time_of(&self, report: &Report) -> Option<Moment> {
        if report.epoch != self.epoch {
            return None;
        }
        let first = self.ticks.front()?.0;
        let index = usize::try_from(report.tick.checked_sub(first)?).ok()?;
        self.ticks.get(index).map(|(_, at)| *at)
    }

    /// The next tick. The caller sends it after this call, never before.
    pub fn tick(&mut self, now: Moment, is_call: bool) -> Tick {
        let number = self.next_tick;
        self.next_tick += 1;
        self.ticks.push_back((number, now));
        if self.ticks.len() > REMEMBERED_TICKS {
            self.ticks.pop_front();
        }
        let acknowledged =
            self.reporters.iter().map(|(id, heard)| Acknowledgement { reporter: *id, upto: heard.upto });
        Tick {
            epoch: self.epoch,
            number,
            is_call,
            acknowledged: acknowledged.collect(),
            unknown: self.unknown.drain().collect(),
            ended: None,
        }
    }

    /// Looks at the deadlines. At most `most` instances are found to be over at once.
    pub fn judge(&mut self, now: Moment, most: usize) -> Judgement {
        let mut judgement = Judgement { given_up: self.give_up_silent(now), ..Judgement::default() };
        let complete_until = self.complete_until();
        while judgement.over.len() < most
            && let Some(Reverse((at, key))) = self.order.peek().copied()
            && at <= now
        {
            let Some(kept) =
                self.instances.get(&key).filter(|kept| kept.queued == at && kept.judged.is_none())
            else {
                self.order.pop();
                continue;
            };
            let deadline = self.deadline(kept);
            if deadline <= at && complete_until.is_some_and(|until| until <= deadline) {
                // All deadlines after this one wait for the same news.
                judgement.needs_call = self.ticks.back().is_none_or(|(_, ticked)| *ticked <= deadline);
                break;
            }
            self.order.pop();
            let Some(kept) = self.instances.get_mut(&key) else { continue };
            if deadline > at {
                // Heartbeats move the deadline only; the entry follows when its old time has come.
                kept.queued = deadline;
                self.order.push(Reverse((deadline, key)));
            } else {
                kept.judged = Some(deadline);
                judgement.over.push(key);
            }
        }
        judgement
    }

    /// The time until which every reporter's heartbeats are known. `None` without reporters.
    fn complete_until(&self) -> Option<Moment> {
        self.reporters.values().map(|heard| heard.complete_until).min()
    }

    /// Gives up the reporters that are silent: what they may have answered until their trust ended stays
    /// unknown.
    fn give_up_silent(&mut self, now: Moment) -> Vec<ReporterId> {
        let Timing { silence, trust, margin, .. } = self.timing;
        let silent: Vec<(ReporterId, Moment)> = self
            .reporters
            .iter()
            .filter(|(_, heard)| heard.rose_at + silence <= now)
            .map(|(id, heard)| (*id, heard.rose_at))
            .collect();
        for (id, rose_at) in &silent {
            self.reporters.remove(id);
            self.begin_anew(*rose_at + trust + margin);
        }
        silent.into_iter().map(|(id, _)| id).collect()
    }

    /// The number of instances whose deadline has passed and that cannot be judged yet.
    pub fn frozen(&self, now: Moment) -> usize {
        let passed = |kept: &&Kept<T>| kept.last + kept.time <= now && kept.judged.is_none();
        self.instances.values().filter(passed).count()
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Tenant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn keeper() -> (Keeper<()>, Key) {
        let mut keeper = Keeper::new(Timing::default(), 1, Moment::ZERO);
        let key = Key::of(&shared::model::ServiceRef::new(Tenant::default(), "s"), "i");
        keeper.keep(key, 2 * SECOND, (), Moment::ZERO);
        (keeper, key)
    }

    #[test]
    fn a_new_term_gives_every_instance_its_full_time() {
        let (mut keeper, key) = keeper();
        assert!(keeper.judge(7 * SECOND, 10).over.is_empty(), "reporters may be trusted for 6 s");
        assert_eq!(keeper.judge(8 * SECOND, 10).over, [key]);
    }

    #[test]
    fn clocks_that_differ_do_not_put_off_an_end_for_ever() {
        let (mut keeper, key) = keeper();
        assert_eq!(keeper.judge(60 * SECOND, 10).over, [key]);
        // By the lease it beat a little later than before, each time that it is asked.
        let at = 7 * SECOND + Duration::from_millis(1);
        assert!(keeper.settle(key, at, 60 * SECOND));
    }

    #[test]
    fn a_renewed_lease_counts_as_a_heartbeat() {
        let (mut keeper, key) = keeper();
        assert_eq!(keeper.judge(60 * SECOND, 10).over, [key]);
        assert!(!keeper.settle(key, 59 * SECOND, 60 * SECOND));
        assert!(keeper.judge(60 * SECOND, 10).over.is_empty());
        assert_eq!(keeper.judge(62 * SECOND, 10).over, [key]);
    }

    #[test]
    fn no_flood_of_reporters_takes_all_memory() {
        let (mut keeper, _) = keeper();
        for reporter in 0..REPORTERS as u128 + 10 {
            let report = Report {
                reporter: ReporterId(reporter),
                number: 1,
                from: 1,
                epoch: 0,
                tick: 0,
                is_last: false,
                beats: Vec::new(),
            };
            keeper.heard(&report, SECOND, |_, ()| {});
        }
        assert_eq!(keeper.tick(SECOND, false).acknowledged.len(), REPORTERS);
    }

    #[test]
    fn a_report_that_comes_again_is_no_heartbeat() {
        let (mut keeper, key) = keeper();
        let report = Report {
            reporter: ReporterId(1),
            number: 1,
            from: 1,
            epoch: 0,
            tick: 0,
            is_last: false,
            beats: vec![crate::Beat { key, age: Duration::ZERO }],
        };
        let mut noted = 0;
        keeper.heard(&report, SECOND, |_, ()| noted += 1);
        keeper.heard(&report, 2 * SECOND, |_, ()| noted += 1);
        assert_eq!(noted, 1);
    }
}
