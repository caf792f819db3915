//! The messages between reporters and keepers, and their form on the bus.

use std::time::Duration;

use proto::event::v1 as pb;
use shared::model::Revision;

use crate::Key;

/// The name of a reporter: new for each start of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReporterId(pub u128);

impl ReporterId {
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }
}

/// A heartbeat that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The instance.
    pub key: Key,
    /// The time since then, when the report was sent.
    pub age: Duration,
}

/// The heartbeats that a reporter has answered since the report before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The reporter.
    pub reporter: ReporterId,
    /// The number of the report, from 1 without a gap.
    pub number: u64,
    /// The lowest number that the reporter can send again. All before were acknowledged.
    pub from: u64,
    /// The term of the last tick that the reporter had heard when it closed this report.
    pub epoch: u64,
    /// The number of that tick.
    pub tick: u64,
    /// The reporter answers no heartbeat any more.
    pub is_last: bool,
    /// The heartbeats.
    pub beats: Vec<Beat>,
}

impl Report {
    /// The message of the bus.
    pub fn encode(&self) -> pb::BeatReport {
        pb::BeatReport {
            reporter: self.reporter.0.to_be_bytes().to_vec(),
            number: self.number,
            from: self.from,
            epoch: self.epoch,
            tick: self.tick,
            last: self.is_last,
            keys: Key::join(self.beats.iter().map(|beat| beat.key)),
            ages: self.beats.iter().map(|beat| millis(beat.age)).collect(),
        }
    }

    /// A report from a message. `None` if that does not name its reporter, or if its parts do not match.
    pub fn decode(message: &pb::BeatReport) -> Option<Self> {
        let keys: Vec<Key> = Key::all_in(&message.keys).collect();
        if keys.len() != message.ages.len() || message.from > message.number {
            return None;
        }
        let ages = message.ages.iter().map(|age| Duration::from_millis((*age).into()));
        Some(Self {
            reporter: ReporterId::read(&message.reporter)?,
            number: message.number,
            from: message.from,
            epoch: message.epoch,
            tick: message.tick,
            is_last: message.last,
            beats: keys.into_iter().zip(ages).map(|(key, age)| Beat { key, age }).collect(),
        })
    }
}

/// The reports of a reporter that a keeper has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The reporter.
    pub reporter: ReporterId,
    /// All its reports up to this number were heard.
    pub upto: u64,
}

/// The instances that have ended in a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Ends at this revision and before are not among them.
    pub after: Revision,
    /// Every end up to this revision is.
    pub upto: Revision,
    /// The instances.
    pub keys: Vec<Key>,
}

/// A keeper's message to all reporters, sent once each interval and whenever a deadline has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// The keeper's term.
    pub epoch: u64,
    /// The number of the tick in the term, from 1.
    pub number: u64,
    /// Each reporter is to report at once.
    pub is_call: bool,
    /// The reporters that the keeper hears.
    pub acknowledged: Vec<Acknowledgement>,
    /// Instances that were reported and that this keeper does not keep.
    pub unknown: Vec<Key>,
    /// Instances that have ended of late. `None` in a tick that does not tell.
    pub ended: Option<Ended>,
}

impl Tick {
    /// The message of the bus.
    pub fn encode(&self) -> pb::BeatTick {
        let acknowledged = self
            .acknowledged
            .iter()
            .map(|of| pb::BeatsHeard { reporter: of.reporter.0.to_be_bytes().to_vec(), upto: of.upto });
        pb::BeatTick {
            epoch: self.epoch,
            number: self.number,
            call: self.is_call,
            heard: acknowledged.collect(),
            unknown: Key::join(self.unknown.iter().copied()),
            ended: self.ended.iter().flat_map(|of| Key::join(of.keys.iter().copied())).collect(),
            ended_after: self.ended.as_ref().map_or(0, |of| of.after.get()),
            ended_upto: self.ended.as_ref().map_or(0, |of| of.upto.get()),
        }
    }

    /// A tick from a message.
    pub fn decode(message: &pb::BeatTick) -> Self {
        let acknowledged = message.heard.iter().filter_map(|of| {
            Some(Acknowledgement { reporter: ReporterId::read(&of.reporter)?, upto: of.upto })
        });
        Self {
            epoch: message.epoch,
            number: message.number,
            is_call: message.call,
            acknowledged: acknowledged.collect(),
            unknown: Key::all_in(&message.unknown).collect(),
            ended: (message.ended_upto > 0).then(|| Ended {
                after: Revision::new(message.ended_after),
                upto: Revision::new(message.ended_upto),
                keys: Key::all_in(&message.ended).collect(),
            }),
        }
    }
}

/// Rounded down, so that no heartbeat seems older than it is.
fn millis(age: Duration) -> u32 {
    u32::try_from(age.as_millis()).unwrap_or(u32::MAX)
}
