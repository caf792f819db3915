//! The fuzz target of the frames of clients, which may be any bytes.

use super::websocket::{Decoder, Violation};

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

/// Frames are the same however the network cuts them.
///
/// # Panics
/// When they are not.
pub fn frames(bytes: &[u8]) {
    let whole = decoded(bytes, bytes.len());
    assert_eq!(decoded(bytes, 1), whole, "the same in pieces of one byte");
    assert_eq!(decoded(bytes, 7), whole, "the same in pieces of seven bytes");
}
