//! The state of the store that an answer shows, as a control plane names it for a gateway.
//!
//! A gateway requires of the next read of the same tenant what an earlier answer has shown, whichever control
//! plane takes it. So the reads that a gateway forwards do not go back in time while a replica lags.

use http::{HeaderName, HeaderValue};
use shared::model::{Incarnation, Revision};

/// The state that the answer shows. A gateway reads it and never passes it on.
pub const SHOWN: HeaderName = HeaderName::from_static("x-muster-shown");

/// The state of the store that an answer shows: nothing in it is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The incarnation of the store that counts the revision. After a restore, revisions of another one mean
    /// nothing, and a replica may still show them for a moment.
    pub incarnation: Incarnation,
    /// The last revision that the answer can contain.
    pub rev: Revision,
}

impl Shown {
    /// The header: both numbers in decimal, with a slash between them.
    pub fn encode(self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}/{}", self.incarnation.get(), self.rev)).ok()
    }

    /// Reads the header. `None` when it is something else.
    pub fn decode(header: &HeaderValue) -> Option<Self> {
        let (incarnation, rev) = header.to_str().ok()?.split_once('/')?;
        Some(Self { incarnation: Incarnation::new(incarnation.parse().ok()?), rev: rev.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_both_numbers() {
        let shown = Shown { incarnation: Incarnation::new(3), rev: Revision::new(1042) };
        let header = shown.encode().expect("is plain text");
        assert_eq!(header, "3/1042");
        assert_eq!(Shown::decode(&header), Some(shown));
        for other in ["", "3", "3/", "/1042", "3/1042/7", "-1/2", "3/x"] {
            assert_eq!(Shown::decode(&HeaderValue::from_static(other)), None, "{other}");
        }
    }
}
