//! Checks byte by byte that a text is UTF-8, so that a message that comes in pieces need not be kept.
//!
//! The standard library checks whole slices only. Here the state between two bytes is two numbers and a
//! range.

use std::ops::RangeInclusive;

const CONTINUATION: RangeInclusive<u8> = 0x80..=0xbf;

/// The state between two bytes of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Utf8 {
    /// Bytes of the current character that are still missing.
    missing: u8,
    /// The values that the next of them may have.
    next: RangeInclusive<u8>,
}

impl Default for Utf8 {
    fn default() -> Self {
        Self { missing: 0, next: CONTINUATION }
    }
}

impl Utf8 {
    /// Takes the next byte; false at the first byte that no UTF-8 text can have there.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            let fits = self.next.contains(&byte);
            self.missing -= 1;
            self.next = CONTINUATION;
            return fits;
        }
        // The narrower ranges rule out overlong forms (e0, f0), surrogates (ed), and everything beyond
        // U+10FFFF (f4).
        (self.missing, self.next) = match byte {
            0x00..=0x7f => (0, CONTINUATION),
            0xc2..=0xdf => (1, CONTINUATION),
            0xe0 => (2, 0xa0..=0xbf),
            0xed => (2, 0x80..=0x9f),
            0xe1..=0xef => (2, CONTINUATION),
            0xf0 => (3, 0x90..=0xbf),
            0xf1..=0xf3 => (3, CONTINUATION),
            0xf4 => (3, 0x80..=0x8f),
            _ => return false,
        };
        true
    }

    /// True between two characters, where a text may end.
    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number of bytes that are taken, and true if they are a complete text.
    fn judge(bytes: &[u8]) -> (usize, bool) {
        let mut text = Utf8::default();
        let taken = bytes.iter().take_while(|byte| text.take(**byte)).count();
        (taken, taken == bytes.len() && text.is_complete())
    }

    #[test]
    fn characters_and_pairs_of_bytes_are_judged_as_by_std() {
        for character in char::MIN..=char::MAX {
            assert!(judge(character.encode_utf8(&mut [0; 4]).as_bytes()).1, "{character:?}");
        }
        for pair in 0..=u16::MAX {
            let bytes = pair.to_be_bytes();
            assert_eq!(judge(&bytes).1, std::str::from_utf8(&bytes).is_ok(), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn junk_is_refused_at_the_byte_that_makes_it_junk(
            text in "\\PC{0,8}",
            junk in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let bytes = [text.as_bytes(), &junk].concat();
            let expected = match std::str::from_utf8(&bytes) {
                Ok(_) => (true, bytes.len()),
                Err(error) => (false, error.error_len().map_or(bytes.len(), |_| error.valid_up_to())),
            };
            let (taken, complete) = judge(&bytes);
            prop_assert_eq!(complete, expected.0);
            // A bad byte within a character is found there; std reports the beginning of the character.
            prop_assert!(taken >= expected.1 && taken <= expected.1 + 3);
        }
    }
}
