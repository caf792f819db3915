//! The name of a group.

use std::fmt;

/// All sessions of a gateway with the same selector.
///
/// Groups are numbered in the order in which they begin, and a number is never used again: a reply that
/// arrives after its group has ended finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u64);

impl GroupId {
    /// The first group of a gateway.
    pub const FIRST: Self = Self(1);

    /// The group with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The group that begins after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
