//! The types that all rooms use to speak of watches.

mod limit;

pub(crate) use follow::{Cause, GroupId, Selector};
pub(crate) use limit::Full;

/// The reservation of a session in a shard, before its connection is attached. Unique within the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// The first ticket of a gateway.
    pub(crate) const FIRST: Self = Self(1);

    /// The ticket with this number, for benches and tests.
    #[cfg(any(test, feature = "micro"))]
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, for traces.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// The ticket after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A shard's report that sessions of a group have closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionsClosed {
    /// The group of all of these sessions.
    pub group: GroupId,
    /// The number of sessions that have closed since the last report.
    pub sessions: u64,
}
