//! Heartbeats that a gateway may answer by itself, as a control plane tells it.
//!
//! A gateway passes a heartbeat on with the header [`KNOWN`]. A control plane answers with that header only if
//! the instance, or every instance of the batch, lives on a long lease, so that reports keep it alive. Its
//! value is a revision at which they did. A gateway never lets a client set the header or see it.

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::model::Revision;

/// Asks whether heartbeats of the instances may be answered at the gateway, and says that they may.
pub const KNOWN: HeaderName = HeaderName::from_static("x-muster-beats");

/// The question.
pub const ASK: HeaderValue = HeaderValue::from_static("1");

/// The answer: the instances lived at this revision.
pub fn told(rev: Revision) -> HeaderValue {
    HeaderValue::from(rev.get())
}

/// Takes the answer out of the headers of a reply. `None` when it says nothing.
pub fn take(headers: &mut HeaderMap) -> Option<Revision> {
    headers.remove(KNOWN)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_revision_that_was_told_is_taken() {
        let mut headers = HeaderMap::new();
        assert_eq!(take(&mut headers), None);
        headers.insert(KNOWN, told(Revision::new(7)));
        assert_eq!(take(&mut headers), Some(Revision::new(7)));
        assert!(headers.is_empty());
        headers.insert(KNOWN, HeaderValue::from_static("soon"));
        assert_eq!(take(&mut headers), None);
    }
}
