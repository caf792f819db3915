//! Lets this crate compile with both forms of a revision, until the newtype is everywhere.

#![allow(missing_docs)]

pub trait RevisionNumber: Sized {
    const ZERO: Self;
    fn new(number: u64) -> Self;
    fn get(self) -> u64;
    fn next(self) -> Self;
    fn previous(self) -> Self;
}

impl RevisionNumber for u64 {
    const ZERO: Self = 0;
    fn new(number: u64) -> Self {
        number
    }
    fn get(self) -> u64 {
        self
    }
    fn next(self) -> Self {
        self + 1
    }
    fn previous(self) -> Self {
        self.saturating_sub(1)
    }
}
