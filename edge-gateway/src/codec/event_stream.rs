//! Server-sent events, as the HTML standard defines the type `text/event-stream`.
//!
//! An event has the same text as a frame of a resumable watch over WebSocket. Its id is the revision from
//! which a client resumes that has read it: a client sends the id of its last event back by itself.

use bytes::Bytes;
use serde::Serialize;
use shared::model::Revision;

use super::websocket::Fragment;

/// A sign of life. Clients skip comments, and proxies see that the stream is in use.
pub(crate) const COMMENT: &[u8] = b":\n\n";

#[derive(Serialize)]
struct End<'a> {
    action: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

/// The first bytes of a stream: the milliseconds after which the client comes back when the stream ends.
pub(crate) fn opening(retry_ms: u32) -> Vec<u8> {
    format!("retry: {retry_ms}\n\n").into_bytes()
}

/// An event with this text, which has no line break because it is compact JSON. A client that has read it
/// resumes from `resume`.
pub(crate) fn event(resume: Revision, text: &[u8]) -> Bytes {
    debug_assert!(!text.contains(&b'\n'), "compact JSON");
    let id = format!("id: {resume}\ndata: ");
    [id.as_bytes(), text, b"\n\n"].concat().into()
}

/// Appends a part of an event with such a text.
pub(crate) fn put_part(resume: Revision, text: &[u8], part: Fragment, out: &mut Vec<u8>) {
    debug_assert!(!text.contains(&b'\n'), "compact JSON");
    if part.is_first {
        out.extend_from_slice(format!("id: {resume}\ndata: ").as_bytes());
    }
    out.extend_from_slice(text);
    if part.is_last {
        out.extend_from_slice(b"\n\n");
    }
}

/// A change. With `resume` zero it confirms nothing, and leaves the place from which a client resumes as it is.
pub(crate) fn change(resume: Revision, text: &[u8]) -> Bytes {
    if resume == Revision::ZERO { [b"data: ", text, b"\n\n"].concat().into() } else { event(resume, text) }
}

/// The last event of a stream that the gateway ends: its name is `end`, and its data says why. It leaves the
/// place from which a client resumes as it is, unless the client has to begin anew: then it is revision 0.
pub(crate) fn end(reason: &str, detail: &str, begins_anew: bool) -> Vec<u8> {
    let text = serde_json::to_vec(&End { action: "END", reason, detail })
        .expect("a struct of texts always serialises");
    let id: &[u8] = if begins_anew { b"id: 0\n" } else { b"" };
    [b"event: end\n", id, b"data: ", text.as_slice(), b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json;

    #[test]
    fn an_event_is_one_line_of_data_and_an_id() {
        let bookmark = event(Revision::new(7), &json::bookmark(Revision::new(9)));
        assert_eq!(&bookmark[..], b"id: 7\ndata: {\"action\":\"BOOKMARK\",\"rev\":9}\n\n");
        assert_eq!(&change(Revision::new(7), b"{}")[..], b"id: 7\ndata: {}\n\n");
        assert_eq!(&change(Revision::ZERO, b"{}")[..], b"data: {}\n\n", "the client keeps its place");
        let last = String::from_utf8(end("no_service", "service does not exist", false)).expect("text");
        let words = r#"{"action":"END","reason":"no_service","detail":"service does not exist"}"#;
        assert_eq!(last, format!("event: end\ndata: {words}\n\n"));
        assert!(end("right_changed", "", true).starts_with(b"event: end\nid: 0\ndata: {"));
    }
}
