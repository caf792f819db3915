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

/// The client has sent more than control planes take.
const TOO_LARGE: u8 = 4;

/// Bytes beyond the limit that are read and dropped: most clients read no answer before they have sent
/// everything.
const DROPPED: usize = 4 << 20;

/// The state of an upload, as the attempt to forward it sees it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Upload(Arc<AtomicU8>);

impl Upload {
    /// Follows a body from here on; the result takes its place, and fails beyond `room` bytes.
    pub(super) fn follow(&self, body: Body, room: usize) -> Body {
        Body::new(Followed { body, room, is_over: false, upload: self.clone() })
    }

    /// The client's fault, if its body failed.
    pub(super) fn fault(&self) -> Option<NotForwarded> {
        match self.0.load(Ordering::Acquire) {
            BROKEN => Some(NotForwarded::BodyBroken),
            LATE => Some(NotForwarded::BodyLate),
            TOO_LARGE => Some(NotForwarded::BodyTooLarge),
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

fn too_large() -> axum::Error {
    axum::Error::new(NotForwarded::BodyTooLarge)
}

struct Followed {
    body: Body,
    /// Bytes that may still come, to be passed on or, when there are too many, to be dropped.
    room: usize,
    /// More has come than is passed on.
    is_over: bool,
    upload: Upload,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            // Set before the body is looked at: `ready!` returns while the client has to send more.
            if !self.is_over {
                self.upload.set(AWAITED);
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let length = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                _ if self.is_over => return Poll::Ready(Some(Err(too_large()))),
                Some(Err(error)) => {
                    self.upload.set(if is_late(error) { LATE } else { BROKEN });
                    return Poll::Ready(frame);
                }
                None => {
                    self.upload.set(MOVING);
                    return Poll::Ready(None);
                }
            };
            match self.room.checked_sub(length) {
                Some(room) => self.room = room,
                None if self.is_over => return Poll::Ready(Some(Err(too_large()))),
                None => {
                    self.upload.set(TOO_LARGE);
                    self.is_over = true;
                    self.room = DROPPED;
                }
            }
            if !self.is_over {
                self.upload.set(MOVING);
                return Poll::Ready(frame);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // With an exact length the HTTP client can send `Content-Length`; without one it has to send chunks.
        self.body.size_hint()
    }
}
