//! Settings that cannot be accepted, reported all at once.

use std::fmt;

use super::Origin;

/// One setting that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The source of the value: a flag, a variable, a file or the program's own default.
    pub origin: Origin,
    /// The key of the setting; empty when the mistake concerns a whole file.
    pub key: String,
    /// A sentence without capital and full stop that says what is wrong and what was expected.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin.name(&self.key), self.problem)
    }
}

/// All mistakes of a configuration, at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "a mistake in the configuration:")?,
            n => write!(f, "{n} mistakes in the configuration:")?,
        }
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}
