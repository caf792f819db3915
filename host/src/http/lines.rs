//! The ends of the lines of heads on HTTP/1, as the bytes of a connection arrive.
//!
//! A proxy may take a line feed alone for a part of a value where the parser of heads takes it for the end of a line, and
//! then the two read different requests. The parser accepts both and does not tell which it was, so the bytes are followed
//! here, beside it. Several requests may come in one read, so bodies are followed as well, to know where the next head
//! begins.
//!
//! ```text
//!   Head ──empty line──▶ Ended ──begin()──▶ Body, or Chunk ──its end──▶ Head
//! ```
//! The bytes after a head wait in Ended until its request begins, because only the parser knows the length of its body.

use bytes::{Buf as _, BytesMut};

/// The length of the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// So many bytes, also none.
    Known(u64),
    /// In chunks, each of which has its own length.
    Chunked,
}

/// The bytes of a connection, as far as they have been followed.
#[derive(Debug, Default)]
pub(super) struct Lines {
    place: Place,
    /// The last byte of the head so far.
    last: u8,
    /// A line of the head ended without a carriage return.
    is_bare: bool,
    /// The bytes after a head whose request has not begun. The parser has them in a buffer of its own, too, whose size
    /// bounds them.
    rest: BytesMut,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Within a head. Empty lines may come before its first one, and the first one after it is its end.
    Head { has_begun: bool, is_empty: bool },
    /// After a head whose request has not begun.
    Ended,
    /// So many bytes of a body are left.
    Body(u64),
    /// In the line with the length of a chunk; `is_over` after the digits.
    Size { length: u64, is_over: bool },
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// In the line end after a chunk.
    ChunkEnd,
    /// In the lines after the last chunk, of which an empty one is the end.
    Trailer { is_empty: bool },
}

impl Default for Place {
    fn default() -> Self {
        Self::Head { has_begun: false, is_empty: true }
    }
}

impl Lines {
    /// Follows bytes from the client.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Ended => return self.rest.extend_from_slice(bytes),
                Place::Body(left) => {
                    if pass(left, &mut bytes) {
                        self.place = Place::default();
                    }
                }
                Place::Chunk(left) => {
                    if pass(left, &mut bytes) {
                        self.place = Place::ChunkEnd;
                    }
                }
                _ => {
                    self.read_byte(bytes[0]);
                    bytes.advance(1);
                }
            }
        }
    }

    /// The parser has read a head and knows the length of its body. False if a line of the head ended without a carriage
    /// return; what follows is not sure then.
    pub(super) fn begin(&mut self, body: BodyLength) -> bool {
        let is_strict = !std::mem::take(&mut self.is_bare);
        self.last = 0;
        self.place = match body {
            BodyLength::Known(0) => Place::default(),
            BodyLength::Known(length) => Place::Body(length),
            BodyLength::Chunked => Place::Size { length: 0, is_over: false },
        };
        let rest = std::mem::take(&mut self.rest);
        self.read(&rest);
        is_strict
    }

    /// Reads one byte of a line.
    fn read_byte(&mut self, byte: u8) {
        match &mut self.place {
            Place::Head { has_begun, is_empty } => {
                match byte {
                    b'\n' => {
                        self.is_bare |= self.last != b'\r';
                        if *is_empty && *has_begun {
                            self.place = Place::Ended;
                        } else {
                            (*has_begun, *is_empty) = (!*is_empty, true);
                        }
                    }
                    b'\r' => {}
                    _ => *is_empty = false,
                }
                self.last = byte;
            }
            Place::Size { length, is_over } => match (byte, char::from(byte).to_digit(16)) {
                (b'\n', _) => {
                    self.place = match *length {
                        0 => Place::Trailer { is_empty: true },
                        length => Place::Chunk(length),
                    }
                }
                // The parser refuses a length that is beyond this.
                (_, Some(digit)) if !*is_over => {
                    *length = length.saturating_mul(16).saturating_add(digit.into());
                }
                // An extension of the chunk may have digits, too.
                _ => *is_over = true,
            },
            Place::ChunkEnd if byte == b'\n' => self.place = Place::Size { length: 0, is_over: false },
            Place::Trailer { is_empty } => match byte {
                b'\n' if *is_empty => self.place = Place::default(),
                b'\n' => *is_empty = true,
                b'\r' => {}
                _ => *is_empty = false,
            },
            Place::ChunkEnd | Place::Ended | Place::Body(_) | Place::Chunk(_) => {}
        }
    }
}

/// Passes over as many bytes as are left, at most. True if none is left then.
fn pass(left: &mut u64, bytes: &mut &[u8]) -> bool {
    let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *bytes = &bytes[length..];
    *left -= length as u64;
    *left == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads these pieces, and tells which of the requests that have begun were strict. None has a body.
    fn strict(pieces: &[&[u8]]) -> Vec<bool> {
        let mut lines = Lines::default();
        let mut strict = Vec::new();
        for piece in pieces {
            lines.read(piece);
            while let Place::Ended = lines.place {
                strict.push(lines.begin(BodyLength::Known(0)));
            }
        }
        strict
    }

    #[test]
    fn a_line_feed_alone_is_seen_wherever_a_head_begins() {
        assert_eq!(strict(&[b"\r\nGET / HTTP/1.1\r\nHost: a\r", b"\n\r\n"]), [true]);
        assert_eq!(strict(&[b"GET / HTTP/1.1\nHost: a\r\n\r\n"]), [false]);
        assert_eq!(strict(&[b"\r\nGET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"]), [false]);
        assert_eq!(strict(&[b"GET / HTTP/1.1\r\nHost: a", b"\n\n"]), [false]);
        // In the read of the request before it.
        assert_eq!(strict(&[b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\nHost: a\r\n\r\n"]), [true, false]);
        assert_eq!(strict(&[b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r", b"\n\r", b"\n"]), [true, true]);
    }

    /// Requests at random, in pieces of random lengths.
    #[test]
    fn no_body_is_taken_for_a_head_and_no_head_for_a_body() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2000 {
            let (mut bytes, mut requests) = (Vec::new(), Vec::new());
            for _ in 0..random.usize(1..6) {
                let is_strict = random.bool();
                bytes.extend_from_slice(if random.bool() { b"\r\n" } else { b"" });
                let end = if is_strict { "\r\n" } else { "\n" };
                bytes.extend_from_slice(format!("POST / HTTP/1.1{end}Host: a\r\n\r\n").as_bytes());
                // A body that looks like much else.
                let body = &b"\n\r\n\n0\r\n\r\nGET / HTTP/1.1\nHost: a\n\n"[..random.usize(..32)];
                let length = if random.bool() {
                    bytes.extend_from_slice(body);
                    BodyLength::Known(body.len() as u64)
                } else {
                    for chunk in body.chunks(random.usize(1..20)) {
                        bytes.extend_from_slice(format!("{:02x};a=b1\r\n", chunk.len()).as_bytes());
                        bytes.extend_from_slice(chunk);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(if random.bool() { b"0\r\n\r\n" } else { b"0\r\nA: b\r\n\r\n" });
                    BodyLength::Chunked
                };
                requests.push((length, is_strict));
            }
            let mut lines = Lines::default();
            let mut begun = requests.iter();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(random.usize(1..=rest.len().min(40)));
                lines.read(piece);
                rest = later;
                // The parser may come to the next head only after further reads.
                while matches!(lines.place, Place::Ended) && (later.is_empty() || random.bool()) {
                    let (length, is_strict) = begun.next().expect("there are no more requests");
                    assert_eq!(lines.begin(*length), *is_strict, "seed {seed}: {}", bytes.escape_ascii());
                }
            }
            assert_eq!(begun.next(), None, "seed {seed}: {}", bytes.escape_ascii());
        }
    }
}
