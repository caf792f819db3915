//! Answers heartbeats while it is trusted, and tells of them until that is acknowledged.

use std::collections::{BTreeMap, VecDeque};

use crate::{Beat, Key, Moment, Report, ReporterId, Tick, Timing};

/// Reports without an acknowledgement from which on no empty one is added.
const WAITING: usize = 8;
/// The most old reports that are sent again at once.
const REPEATED: usize = 8;

/// A report that was not acknowledged yet.
#[derive(Debug)]
struct Closed {
    number: u64,
    /// The time at which it was sent first: from then on its acknowledgement makes trust.
    closed_at: Moment,
    sent_at: Option<Moment>,
    epoch: u64,
    tick: u64,
    is_last: bool,
    beats: Vec<(Key, Moment)>,
}

/// The heartbeats of one process.
#[derive(Debug)]
pub struct Reporter {
    id: ReporterId,
    timing: Timing,
    /// The most heartbeats that wait for an acknowledgement.
    limit: usize,
    /// The last heartbeat of each instance since the last report. A client that sends many costs no more.
    open: BTreeMap<Key, Moment>,
    closed: VecDeque<Closed>,
    waiting: usize,
    next: u64,
    epoch: u64,
    tick: u64,
    /// A tick of this term was heard then.
    heard_at: Moment,
    trusted_until: Moment,
}

impl Reporter {
    /// A reporter that nobody trusts yet. At most `limit` heartbeats wait for an acknowledgement.
    pub fn new(id: ReporterId, timing: Timing, limit: usize) -> Self {
        Self {
            id,
            timing,
            limit,
            open: BTreeMap::new(),
            closed: VecDeque::new(),
            waiting: 0,
            next: 1,
            epoch: 0,
            tick: 0,
            heard_at: Moment::ZERO,
            trusted_until: Moment::ZERO,
        }
    }

    /// True while heartbeats may be answered here.
    pub fn is_trusted(&self, now: Moment) -> bool {
        now < self.trusted_until && self.waiting < self.limit
    }

    /// Notes a heartbeat. True if it may be answered: a report will tell of it. False if it must be passed
    /// on.
    pub fn beat(&mut self, key: Key, now: Moment) -> bool {
        if !self.is_trusted(now) {
            return false;
        }
        self.waiting += usize::from(self.open.insert(key, now).is_none());
        true
    }

    /// The reports that are to be sent now: a new one of at most `most` heartbeats, or several, and old ones
    /// that nobody has acknowledged. Due once each interval, and at each call.
    pub fn reports(&mut self, now: Moment, most: usize) -> Vec<Report> {
        // Nobody listens, perhaps for a long time, and one more that says nothing would help nobody.
        if !self.open.is_empty() || self.closed.len() < WAITING {
            self.close(now, most, false);
        }
        self.due(now)
    }

    /// The last reports. No heartbeat is answered from now on.
    pub fn leave(&mut self, now: Moment, most: usize) -> Vec<Report> {
        self.trusted_until = Moment::ZERO;
        self.close(now, most, true);
        self.due(now)
    }

    /// Closes the open heartbeats into one report, or into several.
    fn close(&mut self, now: Moment, most: usize, is_last: bool) {
        let most = most.max(1);
        let mut open: Vec<(Key, Moment)> = std::mem::take(&mut self.open).into_iter().collect();
        while open.len() > most {
            let rest = open.split_off(most);
            // It answers no tick: more of what was answered before that is in the reports that follow.
            self.close_one(std::mem::replace(&mut open, rest), now, (0, 0), false);
        }
        self.close_one(open, now, (self.epoch, self.tick), is_last);
    }

    fn close_one(&mut self, beats: Vec<(Key, Moment)>, now: Moment, heard: (u64, u64), is_last: bool) {
        let (epoch, tick) = heard;
        let number = self.next;
        self.next += 1;
        self.closed.push_back(Closed { number, closed_at: now, sent_at: None, epoch, tick, is_last, beats });
    }

    fn due(&mut self, now: Moment) -> Vec<Report> {
        let from = self.closed.front().map_or(self.next, |first| first.number);
        // Two intervals: the acknowledgement of the last report may still be on its way.
        let patience = self.timing.interval * 2;
        let reporter = self.id;
        let mut repeated = 0;
        let due = self.closed.iter_mut().filter(|report| {
            let Some(sent_at) = report.sent_at else { return true };
            let is_due = sent_at + patience <= now && repeated < REPEATED;
            repeated += usize::from(is_due);
            is_due
        });
        due.map(|report| {
            report.sent_at = Some(now);
            let age = |at: Moment| now.saturating_sub(at);
            Report {
                reporter,
                number: report.number,
                from,
                epoch: report.epoch,
                tick: report.tick,
                is_last: report.is_last,
                beats: report.beats.iter().map(|(key, at)| Beat { key: *key, age: age(*at) }).collect(),
            }
        })
        .collect()
    }

    /// Takes a keeper's tick. True if a report is due at once.
    pub fn heard(&mut self, tick: &Tick, now: Moment) -> bool {
        // A keeper that has lost its seat and does not know that yet. After a while it is a keeper of a store
        // that was restored, whose terms begin anew.
        if tick.epoch < self.epoch && now < self.heard_at + self.timing.trust * 2 {
            return false;
        }
        if tick.epoch != self.epoch {
            self.epoch = tick.epoch;
            self.tick = 0;
        }
        self.heard_at = now;
        self.tick = self.tick.max(tick.number);
        let Some(of) = tick.acknowledged.iter().find(|of| of.reporter == self.id) else {
            return tick.is_call;
        };
        // A number that was never sent acknowledges nothing more than what was.
        while let Some(report) = self.closed.pop_front_if(|report| report.number <= of.upto) {
            self.waiting -= report.beats.len();
            if !report.is_last {
                self.trusted_until = self.trusted_until.max(report.closed_at + self.timing.trust);
            }
        }
        tick.is_call
    }
}
