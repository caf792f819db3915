//! The incarnation of the store.

use std::fmt;

/// The number of the history that the store's revisions count. It grows, by a random step, whenever a control
/// plane notices that the store was restored from a backup; before the first restore it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The incarnation before the first restore.
    pub const FIRST: Self = Self(0);

    /// The incarnation with this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The incarnation after a restore. `step` is random, so that two restores to the same backup differ also
    /// when nobody remembers the first.
    #[must_use]
    pub fn after(self, step: u32) -> Self {
        Self(self.0.saturating_add(1).saturating_add(step.into()))
    }

    /// Reads the decimal text of the store.
    pub fn parse(text: &[u8]) -> Option<Self> {
        std::str::from_utf8(text).ok()?.parse().ok().map(Self)
    }
}

/// Decimal text, as the store has it.
impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_grows_and_is_read_back() {
        for step in [0, 7, u32::MAX] {
            let next = Incarnation::FIRST.after(step);
            assert!(next > Incarnation::FIRST);
            assert_eq!(Incarnation::parse(next.to_string().as_bytes()), Some(next));
        }
        for text in [&b""[..], b"-1", b"\xff", b"99999999999999999999999"] {
            assert_eq!(Incarnation::parse(text), None);
        }
    }
}
