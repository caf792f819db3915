//! The stamp of a change: it identifies the change and the time of its request to anyone who sees it.
//!
//! A text of fixed length in the property `stamp`, found by a search: parsing each frame would measure the
//! parser.

use memchr::memmem;
use serde_json::{Value, json};

/// The text before a stamp in JSON.
pub const NAME: &[u8] = b"\"stamp\":\"";
/// Bytes of a stamp.
pub const LENGTH: usize = 6 + 1 + 10 + 1 + 16;

/// A change of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The number of the provider, below a million.
    pub provider: u32,
    /// The number of the change, from 1.
    pub seq: u64,
    /// The time of the request: Unix time in microseconds.
    pub at: u64,
}

impl Stamp {
    /// As text.
    pub fn text(&self) -> String {
        // Fixed widths let the floor overwrite a stamp without changing the length of the frame.
        format!("{:06}-{:010}-{:016}", self.provider, self.seq, self.at)
    }

    /// The properties of an instance with this stamp.
    pub fn properties(&self) -> Value {
        json!({ "stamp": self.text() })
    }

    /// The offset of the first stamp.
    pub fn find(bytes: &[u8]) -> Option<usize> {
        memmem::find(bytes, NAME).map(|at| at + NAME.len())
    }

    /// Reads the stamp at an offset from [`Stamp::find`].
    pub fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(at..at + LENGTH)?).ok()?;
        Some(Self {
            provider: text.get(..6)?.parse().ok()?,
            seq: text.get(7..17)?.parse().ok()?,
            at: text.get(18..)?.parse().ok()?,
        })
    }

    /// The first stamp in JSON, or in a message of protobuf, where a tag and a length stand before name and
    /// value.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if let Some(at) = Self::find(bytes) {
            return Self::read(bytes, at);
        }
        let name = b"stamp";
        let at = memmem::find(bytes, name)? + name.len();
        // The tag and the length of the value take one byte each, because a stamp is shorter than 128 bytes.
        Self::read(bytes, at + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_again() {
        let stamp = Stamp { provider: 7, seq: 42, at: 1_700_000_000_123_456 };
        let frame = format!(r#"{{"action":"UPDATE","properties":{}}}"#, stamp.properties()).into_bytes();
        let at = Stamp::find(&frame).expect("it is there");
        assert_eq!(Stamp::read(&frame, at), Some(stamp));
        assert_eq!(Stamp::read(&frame[..frame.len() - 5], at), None);
    }
}
