//! The decision that an instance lives or has ended, by the heartbeats that others have answered. Pure but
//! for [`Desk`], which has a reporter speak with the bus: the rest knows no I/O and no clock.
//!
//! ```text
//! heartbeat ──▶ Reporter ──Report──▶ Keeper ──▶ instances whose time is over
//!                   ▲                   │
//!                   └───────Tick────────┘       acknowledgements, and instances that are not kept here
//! ```
//!
//! A [`Reporter`] answers heartbeats and tells of them in numbered reports. The [`Keeper`] of the one replica
//! that holds the publisher's seat keeps a deadline for each instance. The bus between them may lose, delay
//! and reorder everything.
//!
//! *No news is not death.* An instance is over only if each reporter has told, after the instance's deadline,
//! everything that it had answered until then. A reporter answers by itself only while it is *trusted*: a
//! keeper has acknowledged a report that is at most [`Timing::trust`] old. So a keeper that hears nothing of
//! a reporter, or that has only just begun, knows until when there may be heartbeats that it has not heard
//! of, and gives every instance its full time from then on.
//!
//! A control plane finds an instance in its view before it reports a heartbeat. A gateway has no view. It keeps
//! in [`Known`] the instances that a control plane has answered for, and drops those of whose end the keeper
//! tells ([`Endings`]).
//!
//! Times are counted by the process' own monotonic clock from any beginning. No process compares its clock
//! with another one's; only their rates must agree, within [`Timing::margin`].

use std::time::Duration;

mod desk;
mod endings;
mod keeper;
mod key;
mod known;
mod message;
mod reporter;

pub use desk::Desk;
pub use endings::Endings;
pub use keeper::{Judgement, Keeper};
pub use key::Key;
pub use known::Known;
pub use message::{Acknowledgement, Beat, Ended, Report, ReporterId, Tick};
pub use reporter::Reporter;

/// A time by the process' own clock.
pub type Moment = Duration;

/// The intervals that all reporters and keepers of a fleet share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The interval of ticks and of reports.
    pub interval: Duration,
    /// A reporter of whom nothing new was heard for this long is given up. Until then deadlines stand still.
    pub silence: Duration,
    /// A reporter answers heartbeats by itself for this long after it sent a report that was acknowledged.
    pub trust: Duration,
    /// The most by which two clocks, or two views of the end of a publisher's term, differ.
    pub margin: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            trust: Duration::from_secs(5),
            margin: Duration::from_secs(1),
        }
    }
}
