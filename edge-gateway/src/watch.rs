//! The words that all rooms use for watches: their names, what they watch, and what happens to them.

mod cause;
mod limit;
mod selector;

pub(crate) use cause::Cause;
pub(crate) use limit::Full;
pub(crate) use selector::Selector;

/// All sessions of this gateway with the same selector. Numbers are given in the order in which groups begin
/// and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) u64);

/// The reservation of a session in a shard, before its connection is attached. Unique within the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// A shard's report that sessions of a group have closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionsClosed {
    /// The group of all of these sessions.
    pub group: GroupId,
    /// The number of sessions that have closed since the last report.
    pub sessions: u64,
}
