//! Server-sent events, as the HTML standard defines the type `text/event-stream`.
//!
//! An event has the same text as a frame of a resumable watch over WebSocket. Its id is the revision from which
//! a client resumes that has read it: a client sends the id of its last event back by itself.

use bytes::Bytes;
use serde::Serialize;
use shared::model::Revision;

use crate::close::Reason;

/// A sign of life. Clients skip comments, and proxies see that the stream is in use.
pub(crate) const COMMENT: &[u8] = b":\n\n";

/// The shortest and the longest time after which a client opens the stream again, in milliseconds. Each client
/// is told a time in between, so that those of a gateway that ends do not all come at once.
const RETRY_MS: std::ops::RangeInclusive<u32> = 500..=3000;

#[derive(Serialize)]
struct End<'a> {
    action: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

/// The first bytes of a stream: the time after which the client comes back when the stream ends.
pub(crate) fn opening() -> Vec<u8> {
    format!("retry: {}\n\n", fastrand::u32(RETRY_MS)).into_bytes()
}

/// An event with this text, which has no line break because it is compact JSON. A client that has read it
/// resumes from `resume`.
pub(crate) fn event(resume: Revision, text: &[u8]) -> Bytes {
    debug_assert!(!text.contains(&b'\n'), "compact JSON");
    let id = format!("id: {resume}\ndata: ");
    [id.as_bytes(), text, b"\n\n"].concat().into()
}

/// The last event of a stream that the gateway ends: its name is `end`. It leaves the place from which a client
/// resumes as it is, unless what the client knows does not count any more.
pub(crate) fn end(reason: Reason) -> Vec<u8> {
    let detail = reason.text().unwrap_or(reason.words());
    let text = serde_json::to_vec(&End { action: "END", reason: reason.label(), detail })
        .expect("a struct of texts always serialises");
    // The services that a new right shows have no events that a client could be sent later.
    let id: &[u8] = if reason == Reason::RightChanged { b"id: 0\n" } else { b"" };
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
        let text_of = |reason| String::from_utf8(end(reason)).expect("text");
        let words = r#"{"action":"END","reason":"no_service","detail":"service does not exist"}"#;
        assert_eq!(text_of(Reason::NoService), format!("event: end\ndata: {words}\n\n"));
        assert!(text_of(Reason::RightChanged).starts_with("event: end\nid: 0\ndata: {"));
    }
}
