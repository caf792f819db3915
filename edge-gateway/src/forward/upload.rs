//! A client's body on its way to a control plane, which remembers at whose side it stands still or fails.
//!
//! The HTTP client reports one error whether the client's body broke off or the control plane's connection
//! did. Only this wrapper can tell them apart.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use host::http::is_late;
use http_body::{Frame, SizeHint};

use super::NotForwarded;

/// The control plane has to take what there is.
const MOVING: u8 = 0;
/// The client has to send more.
const AWAITED: u8 = 1;
/// The client's body failed.
const BROKEN: u8 = 2;
/// The client's time for the body was over.
const LATE: u8 = 3;

/// The state of an upload, as the attempt to forward it sees it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Upload(Arc<AtomicU8>);

impl Upload {
    /// Follows a body from here on; the result takes its place.
    pub(super) fn follow(&self, body: Body) -> Body {
        Body::new(Followed { body, upload: self.clone() })
    }

    /// The client's fault, if its body failed.
    pub(super) fn fault(&self) -> Option<NotForwarded> {
        match self.0.load(Ordering::Acquire) {
            BROKEN => Some(NotForwarded::BodyBroken),
            LATE => Some(NotForwarded::BodyLate),
            _ => None,
        }
    }

    /// True while everything that the client has sent was passed on, and more must come.
    pub(super) fn is_awaited(&self) -> bool {
        self.0.load(Ordering::Acquire) == AWAITED
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Release);
    }
}

struct Followed {
    body: Body,
    upload: Upload,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Set before the body is looked at: `ready!` returns while the client has to send more.
        self.upload.set(AWAITED);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.upload.set(match &frame {
            Some(Err(error)) if is_late(error) => LATE,
            Some(Err(_)) => BROKEN,
            Some(Ok(_)) | None => MOVING,
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // With an exact length the HTTP client can send `Content-Length`; without one it has to send chunks.
        self.body.size_hint()
    }
}
