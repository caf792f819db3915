//! The body of a request, with the time that its client has for it.
//!
//! A deadline for the whole body and not for each pause: a client that sends one byte after another could
//! stay for as long as it likes otherwise.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::activity::{Activity, Awaited, Waiting};
use super::connection::Listener;
use super::metrics::Slow;

/// The body of a request. It fails with [`BodyError::Late`] when the client takes too long to send it.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` only while it is dropped.
    body: Option<Incoming>,
    listener: Arc<Listener>,
    unread: Option<Unread>,
    /// The time until which the body must be complete; `None` before the first wait for the client.
    deadline: Option<Pin<Box<Sleep>>>,
    waits: Waits,
    /// The client may send for as long as it likes.
    is_endless: bool,
}

/// The waits for the client of a body. A connection all of whose requests wait so may have to leave its place.
#[derive(Debug)]
struct Waits {
    activity: Arc<Activity>,
    /// The time of the first wait. A client that sends a byte now and then waits since then all the same.
    since: Option<Instant>,
    now: Option<Waiting>,
}

impl Waits {
    fn begin(&mut self) {
        if self.now.is_none() {
            let since = *self.since.get_or_insert_with(Instant::now);
            self.now = Some(self.activity.wait(since, Awaited::Body));
        }
    }
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

/// The part of a body on HTTP/1 that nobody has read when the request is answered.
///
/// Most clients read no answer before they have sent everything, and the bytes of a body must not be taken
/// for the next head. So the rest is read and dropped, up to a bound, before the answer leaves.
#[derive(Clone, Debug)]
pub(super) struct Unread(Arc<Mutex<Rest>>);

#[derive(Debug)]
enum Rest {
    /// The body is still with its reader.
    Taken,
    /// The reader has dropped it before its end.
    Left(Incoming),
    /// There is nothing left.
    Nothing,
}

/// Bytes of a body that are read and dropped before the answer leaves.
const DROPPED: u64 = 4 << 20;

impl Unread {
    /// Reads the rest. False if the connection cannot be used again.
    pub(super) async fn finish(
        &self,
        listener: &Arc<Listener>,
        activity: &Arc<Activity>,
        waits_for_consent: bool,
    ) -> bool {
        let rest = std::mem::replace(&mut *self.0.lock(), Rest::Taken);
        let body = match rest {
            Rest::Nothing => return true,
            Rest::Taken => return false,
            // A client that asks first (`Expect`) sends no body after another answer.
            Rest::Left(_) if waits_for_consent => return false,
            Rest::Left(body) if body.size_hint().lower() > DROPPED => return false,
            Rest::Left(body) => body,
        };
        let waits = Waits { activity: activity.clone(), since: None, now: None };
        // The rest has the deadline of a whole body at most.
        let mut body = RequestBody {
            body: Some(body),
            listener: listener.clone(),
            unread: None,
            deadline: None,
            waits,
            is_endless: false,
        };
        let mut dropped = 0;
        loop {
            match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => dropped += frame.data_ref().map_or(0, |data| data.len() as u64),
            }
            if dropped > DROPPED {
                return false;
            }
        }
    }
}

impl RequestBody {
    /// The body of a request, and on HTTP/1 what to do with it when the request is answered.
    pub(super) fn new(
        body: Incoming,
        version: Version,
        listener: Arc<Listener>,
        activity: Arc<Activity>,
    ) -> (Self, Option<Unread>) {
        let has_rest = version != Version::HTTP_2 && !body.is_end_stream();
        let unread = has_rest.then(|| Unread(Arc::new(Mutex::new(Rest::Taken))));
        let body = Self {
            body: Some(body),
            listener,
            unread: unread.clone(),
            deadline: None,
            waits: Waits { activity, since: None, now: None },
            is_endless: false,
        };
        (body, unread)
    }
}

impl RequestBody {
    /// The body of a stream of requests, which has no end: its reader sees to clients that are too slow.
    #[must_use]
    pub fn without_deadline(mut self) -> Self {
        self.is_endless = true;
        self.deadline = None;
        self.waits.now = None;
        self
    }

    /// Notes that the whole body was read. A body of unknown length does not know it by itself.
    fn end(&mut self) {
        if let Some(unread) = self.unread.take() {
            *unread.0.lock() = Rest::Nothing;
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(unread), Some(body)) = (&self.unread, self.body.take()) {
            *unread.0.lock() = if body.is_end_stream() { Rest::Nothing } else { Rest::Left(body) };
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if polled.is_ready() {
            self.waits.now = None;
        }
        match polled {
            Poll::Pending => {}
            Poll::Ready(None) => {
                self.end();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                // Nothing more can be read from a body that broke off.
                self.unread = None;
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
        }
        if self.is_endless {
            return Poll::Pending;
        }
        self.waits.begin();
        let timeout = self.listener.limits.body_timeout;
        // Most bodies arrive with their heads, and these need no timer.
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        self.listener.metrics.slow(Slow::Body);
        // Its time is over, so the rest is not waited for either.
        self.unread = None;
        Poll::Ready(Some(Err(BodyError::Late)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}
