//! Cutting what a server sends into frames of RFC 6455, as cheaply as a watcher can.

/// A whole frame and what follows it; nothing when more bytes are needed.
pub(super) fn cut(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let first = *bytes.first()?;
    let second = *bytes.get(1)?;
    let (header, length) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into()),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, short.into()),
    };
    // Frames of a server are never masked (RFC 6455, 5.1). Only states come in fragments, of which the last tells from
    // where to resume, so none are put together.
    let payload = bytes.get(header..header + length)?;
    Some((first & 0x0f, payload, &bytes[header + length..]))
}

/// Text.
pub(super) const TEXT: u8 = 1;
/// More of a text.
pub(super) const CONTINUATION: u8 = 0;
/// The end.
pub(super) const CLOSE: u8 = 8;
/// To be answered.
pub(super) const PING: u8 = 9;

/// The answer to a ping: masked by zeros, which leaves the payload as it is.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    // A control frame carries 125 bytes at most (RFC 6455, 5.5).
    let payload = &payload[..payload.len().min(125)];
    let mut frame = vec![0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The revision from which a client resumes after it received this text; `None` when the text has none.
pub(super) fn since(text: &[u8]) -> Option<u64> {
    // Both stand at the end; names and values of an instance before them do not matter.
    let tail = &text[text.len().saturating_sub(48)..];
    let name: &[u8] =
        if text.starts_with(br#"{"action":"BOOKMARK""#) { br#","rev":"# } else { br#","since":"# };
    let at = tail.windows(name.len()).rposition(|some| some == name)? + name.len();
    std::str::from_utf8(tail[at..].strip_suffix(b"}")?).ok()?.parse().ok()
}

/// The text is the state of a provider, not a change.
pub(super) fn is_reset(text: &[u8]) -> bool {
    text.starts_with(br#"{"action":"RESET""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_where_they_end() {
        let mut bytes = vec![0x81, 2, b'h', b'i', 0x89, 0, 0x81, 126, 1, 0];
        bytes.extend([b'x'; 255]);
        let (opcode, payload, rest) = cut(&bytes).expect("whole");
        assert_eq!((opcode, payload), (TEXT, &b"hi"[..]));
        let (opcode, payload, rest) = cut(rest).expect("whole");
        assert_eq!((opcode, payload.len()), (PING, 0));
        assert_eq!(cut(rest), None, "a byte is missing");
    }

    #[test]
    fn frames_say_from_where_to_resume() {
        assert_eq!(since(br#"{"action":"UPDATE","instance":{},"rev":4711,"since":4690}"#), Some(4690));
        assert_eq!(since(br#"{"action":"BOOKMARK","rev":4720}"#), Some(4720));
        assert_eq!(since(br#"{"action":"UPDATE","instance":{},"rev":4711}"#), None);
    }
}
