//! The store's number of a commit.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The store's number of a commit: commits are ordered by it, and by nothing else.
///
/// On every wire and in the store it is a plain unsigned number. It is a type of its own so that no count,
/// lease or time is ever compared with it, and so that arithmetic on it cannot wrap.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// Before every commit.
    pub const ZERO: Self = Self(0);
    /// After every commit.
    pub const MAX: Self = Self(u64::MAX);

    /// The revision with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, for wires and figures.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision that follows; the greatest one has no other after it and stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The revision that is `commits` after this one, or the greatest there is.
    #[must_use]
    pub const fn plus(self, commits: u64) -> Self {
        Self(self.0.saturating_add(commits))
    }

    /// The revision before this; zero stays zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Revision> for u64 {
    fn from(revision: Revision) -> Self {
        revision.0
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_never_leave_the_range() {
        assert_eq!(Revision::ZERO.previous(), Revision::ZERO);
        assert_eq!(Revision::MAX.next(), Revision::MAX);
        assert_eq!(Revision::new(7).next().previous(), Revision::new(7));
    }

    #[test]
    fn it_is_a_plain_number_in_json_and_in_its_schema() {
        assert_eq!(serde_json::to_string(&Revision::new(7)).expect("serialises"), "7");
        assert_eq!(serde_json::from_str::<Revision>("7").expect("a number"), Revision::new(7));
        assert_eq!(schemars::schema_for!(Revision).get("type"), Some(&"integer".into()));
    }
}
