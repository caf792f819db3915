//! Bytes of clients may be anything. Inputs: see the crate `fuzz`.

use fuzz::Corpus;

use super::websocket::{Decoder, Violation};

const TIMES: u32 = 10_000;

/// Decodes the bytes in pieces of `size`; returns every frame and the violation that ended it, if one did.
fn decoded(bytes: &[u8], size: usize) -> (Vec<String>, Option<Violation>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        let read = decoder.read(piece, |frame| {
            frames.push(format!("{frame:?}"));
            true
        });
        if let Err(violation) = read {
            return (frames, Some(violation));
        }
    }
    (frames, None)
}

#[test]
fn frames() {
    let corpus = Corpus::of("frames");
    corpus.smoke(TIMES, |bytes| {
        let whole = decoded(bytes, bytes.len());
        assert_eq!(decoded(bytes, 1), whole, "the same in pieces of one byte");
        assert_eq!(decoded(bytes, 7), whole, "the same in pieces of seven bytes");
    });
}
