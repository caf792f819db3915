//! A body in pieces, of which large ones are shared with other answers: as long as nobody reads it, it holds little of
//! its own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The bytes from which a piece is shared. Shorter ones are copied, because each piece costs a write.
const SHARED_FROM: usize = 16 * 1024;

/// A body in pieces.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Pieces {
    /// All bytes in one piece.
    pub fn joined(self) -> Bytes {
        let mut all = Vec::with_capacity(self.bytes);
        self.pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all.into()
    }

    /// The pieces in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

/// Equal when they have the same bytes, however they are divided.
impl PartialEq for Pieces {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.pieces.iter().flatten().eq(other.pieces.iter().flatten())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.pieces.pop_front();
        self.bytes -= next.as_ref().map_or(0, Bytes::len);
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes as u64)
    }
}

/// Writes a body in pieces.
#[derive(Debug, Default)]
pub(crate) struct PiecesWriter {
    done: Pieces,
    /// The bytes after the last shared piece.
    text: Vec<u8>,
}

impl PiecesWriter {
    /// Appends bytes.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// Appends bytes that others have, too.
    pub(crate) fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_FROM {
            return self.extend(bytes);
        }
        self.done.push(std::mem::take(&mut self.text).into());
        self.done.push(bytes.clone());
    }

    /// The body.
    pub(crate) fn finish(mut self) -> Pieces {
        self.done.push(self.text.into());
        self.done
    }
}

impl io::Write for PiecesWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_shared_and_everything_comes_in_order() {
        let large = Bytes::from(vec![b'x'; SHARED_FROM]);
        let mut writer = PiecesWriter::default();
        for _ in 0..3 {
            writer.extend(b"[");
            writer.share(&large);
            writer.share(&Bytes::from_static(b"small"));
        }
        let body = writer.finish();
        assert_eq!(body.size_hint().exact(), Some(3 * (SHARED_FROM as u64 + 6)));
        let own: usize =
            body.pieces.iter().filter(|piece| piece.as_ptr() != large.as_ptr()).map(Bytes::len).sum();
        assert_eq!((own, body.pieces.len()), (18, 7));
        let expected = [b"[", &large[..], b"small"].concat().repeat(3);
        assert_eq!(body.joined(), expected);
    }
}
