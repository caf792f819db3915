//! Is a text UTF-8? Asked byte by byte, so that a message that comes in pieces need not be kept.
//!
//! In: bytes, in order. Out: at the first byte that cannot be, that it cannot be.

use std::ops::RangeInclusive;

const CONTINUATION: RangeInclusive<u8> = 0x80..=0xbf;

/// Where in a character a text stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// Bytes of the character still to come.
    missing: u8,
    /// What the next of them may be.
    next: RangeInclusive<u8>,
}

impl Default for Text {
    fn default() -> Self {
        Self { missing: 0, next: CONTINUATION }
    }
}

impl Text {
    /// Takes the next byte; false when no text goes on like this.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            let fits = self.next.contains(&byte);
            self.missing -= 1;
            self.next = CONTINUATION;
            return fits;
        }
        // Neither overlong forms, nor surrogates, nor what is beyond the last character.
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

    /// The text may end here.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many bytes are taken, and whether they are a whole text.
    fn judge(bytes: &[u8]) -> (usize, bool) {
        let mut text = Text::default();
        let taken = bytes.iter().take_while(|byte| text.take(**byte)).count();
        (taken, taken == bytes.len() && text.is_whole())
    }

    #[test]
    fn every_character_and_every_pair_of_bytes_is_judged_as_the_standard_library_does() {
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
            let (taken, whole) = judge(&bytes);
            prop_assert_eq!(whole, expected.0);
            // A bad byte within a character is found there; the library tells where the character begins.
            prop_assert!(taken >= expected.1 && taken <= expected.1 + 3);
        }
    }
}
