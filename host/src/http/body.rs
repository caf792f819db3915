//! The body of a request, with the time that its client has for it.
//!
//! A deadline for the whole body and not for each pause: a client that sends one byte after another could stay
//! for as long as it likes otherwise.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::connection::Listener;
use super::metrics::Slow;

/// The body of a request. It fails with [`BodyError::Late`] when the client takes too long to send it.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    listener: Arc<Listener>,
    /// The time until which the body must be complete; `None` before the first wait for the client.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// The reason for which the body of a request cannot be read. The fault is the client's.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client did not send the whole body in time.
    #[error("the body of the request did not arrive in time")]
    Late,
    /// The body broke off, or is not in a form that HTTP knows.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// True if an error, or one of its sources, is a body that did not arrive in time.
pub fn is_late(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(BodyError::Late)) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl RequestBody {
    pub(super) fn new(body: Incoming, listener: Arc<Listener>) -> Self {
        Self { body, listener, deadline: None }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        let timeout = self.listener.limits.body_timeout;
        // Most bodies arrive with their heads, and these need no timer.
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        self.listener.metrics.slow(Slow::Body);
        Poll::Ready(Some(Err(BodyError::Late)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
