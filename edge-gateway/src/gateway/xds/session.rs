//! An open stream: what its client has asked for, and what it is sent next.
//!
//! It is a body that is polled, and not an async function: thousands of them are idle, and each keeps the
//! room that its longest wait would take. A timer exists only while something has a time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use access::Grant;
use bytes::Bytes;
use host::audit::shortened;
use http::HeaderMap;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::info;

use super::super::grpc::{Code, status, status_of};
use super::bounds::{End, Judge, Pace};
use super::code_of;
use crate::close::Reason;
use crate::limits::Permit;
use crate::metrics::XdsMetrics;
use crate::xds::stream::Stream;
use crate::xds::wire::{Message, Messages, Type};
use crate::xds::{Method, News, Seen, Subscription};

/// The time for which a stream waits until this gateway has what its client has.
const BEHIND: Duration = Duration::from_secs(10);

/// An open stream.
pub(super) struct Session {
    method: Method,
    grant: Arc<Grant>,
    judge: Judge,
    drain_over: Duration,
    /// Shared with surveys, which ask for its acknowledgements.
    stream: Arc<Mutex<Stream>>,
    messages: Messages,
    pace: Pace,
    subscription: Subscription,
    /// The time at which the wait for what the client has began.
    behind: Option<Instant>,
    /// The rest of an answer.
    out: VecDeque<Bytes>,
    end: Option<Box<End>>,
    /// A drain has given the stream its end.
    is_draining: bool,
    is_over: bool,
    /// `None` while nothing has a time.
    timer: Option<Pin<Box<Sleep>>>,
    metrics: XdsMetrics,
    _permit: Permit,
}

/// Everything that a stream needs from its opening.
pub(super) struct Parts {
    pub(super) method: Method,
    pub(super) grant: Arc<Grant>,
    pub(super) judge: Judge,
    /// The process drains already.
    pub(super) is_draining: bool,
    pub(super) drain_over: Duration,
    pub(super) messages: Messages,
    pub(super) subscription: Subscription,
    pub(super) stream: Arc<Mutex<Stream>>,
    pub(super) metrics: XdsMetrics,
    pub(super) permit: Permit,
}

impl Session {
    /// A stream with its first request.
    pub(super) fn new(parts: Parts, first: Message) -> Self {
        let Parts {
            method,
            grant,
            judge,
            is_draining,
            drain_over,
            messages,
            subscription,
            stream,
            metrics,
            permit,
        } = parts;
        let mut session = Self {
            stream,
            method,
            grant,
            judge,
            drain_over,
            messages,
            pace: Pace::new(),
            subscription,
            behind: None,
            out: VecDeque::new(),
            end: None,
            is_draining: false,
            is_over: false,
            timer: None,
            metrics,
            _permit: permit,
        };
        if is_draining {
            session.drain();
        }
        if let Err(status) = session.take(first) {
            session.end_by(End::now(status));
        }
        session
    }

    /// The next frame of the response; `None` after the last.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some(piece) = self.out.pop_front() {
                if self.out.is_empty() {
                    // An idle stream keeps no room.
                    self.out = VecDeque::new();
                }
                return Poll::Ready(Some(Frame::data(piece)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            // Before each answer: a client that has lost its right gets nothing more.
            if let Some(end) = self.judge.judge() {
                self.end_by(end);
            }
            if self.end.as_ref().is_some_and(|end| end.at <= Instant::now()) {
                let status = self.end.take().map(|end| end.status).unwrap_or_default();
                self.is_over = true;
                return Poll::Ready(Some(Frame::trailers(status)));
            }
            if self.answer() {
                continue;
            }
            if self.messages.late_at().is_some_and(|late| late <= Instant::now()) {
                self.end_by(End::now(status(Code::DeadlineExceeded, "a message did not arrive in time")));
                continue;
            }
            ready!(self.poll_event(cx));
        }
    }

    /// Puts the next answer out. False if there is none.
    fn answer(&mut self) -> bool {
        let shared = self.stream.clone();
        let mut stream = shared.lock();
        if !stream.has_work() {
            self.stop_waiting();
            return false;
        }
        if stream.is_ahead() {
            // Before the look, so that no later height is missed.
            self.subscription.wait(true);
        }
        let Some((state, height)) = self.subscription.look() else { return false };
        let point = height.point.max(state.point);
        if stream.is_ahead_of(point) {
            let since = *self.behind.get_or_insert_with(Instant::now);
            if since.elapsed() < BEHIND {
                return false;
            }
            if !height.is_fresh && stream.is_ahead_of(height.reached) {
                // Another gateway may have it, and until then the client keeps what it has.
                let words = "this gateway has not seen yet what the client has; try again";
                self.end_by(End::now(status(Code::Unavailable, words)));
                return true;
            }
            // Control planes say that there is nothing later: the store was restored, and nobody was left to
            // raise its incarnation. Or nobody can say anything, and the last change that the client has
            // seen has been seen here, too.
            stream.forget_floor();
        }
        self.stop_waiting();
        let seen = Seen { state: &state, grant: &self.grant, point };
        let Some(answer) = stream.next(&seen) else { return false };
        drop(stream);
        let (kind, resources) = (answer.kind, answer.resources.len());
        self.out = self.subscription.envelopes().write(self.method.variant, answer);
        let bytes = self.out.iter().map(Bytes::len).sum();
        self.metrics.sent(kind.label(), resources, bytes);
        true
    }

    fn stop_waiting(&mut self) {
        self.behind = None;
        self.subscription.wait(false);
    }

    /// Takes the next thing that may change what comes next.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_time(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.poll_news(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.pace.until().is_some_and(|until| Instant::now() < until) {
            // The time is that of the next request.
            return Poll::Pending;
        }
        let end = match ready!(self.messages.poll_next(cx)) {
            Ok(Some(message)) => self.take(message).err(),
            // A client that sends no more has closed the stream.
            Ok(None) => Some(status_of(Reason::ClientClosed)),
            Err(problem) => Some(status(code_of(problem), &problem.to_string())),
        };
        if let Some(status) = end {
            self.end_by(End::now(status));
        }
        Poll::Ready(())
    }

    /// Resolves when something that has a time is due.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.end.as_ref().map(|end| end.at);
        let behind = self.behind.map(|since| since + BEHIND);
        let pace = self.pace.until().filter(|until| *until > Instant::now());
        let times = [end, behind, self.messages.late_at(), self.judge.at, pace];
        let Some(until) = times.into_iter().flatten().min() else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        Poll::Ready(())
    }

    /// Takes the news. Under the lock of the stream: whoever asks for its acknowledgements finds what has
    /// changed in the news or in the stream.
    fn poll_news(&mut self, cx: &Context<'_>) -> Poll<()> {
        let shared = self.stream.clone();
        let mut stream = shared.lock();
        let told = self.subscription.told();
        let news = ready!(self.subscription.poll(cx));
        if news.all {
            stream.changed(None);
        } else if !news.changes.is_empty() {
            stream.changed(Some(&news.changes));
        }
        stream.heard(told);
        drop(stream);
        self.hear(&news);
        Poll::Ready(())
    }

    /// Takes what has happened beside changes of the state.
    fn hear(&mut self, news: &News) {
        if news.draining {
            self.drain();
        }
        if news.ended {
            self.end_by(End::now(status_of(Reason::Drained)));
        }
    }

    /// Gives the stream an end within the time of a drain, so that clients do not all come back at once.
    fn drain(&mut self) {
        if !std::mem::replace(&mut self.is_draining, true) {
            let at = Instant::now() + self.drain_over.mul_f64(fastrand::f64());
            self.end_by(End { at, status: status_of(Reason::Drained) });
        }
    }

    /// Takes a request of the client.
    ///
    /// # Errors
    /// The status to end with.
    fn take(&mut self, message: Message) -> Result<(), HeaderMap> {
        self.pace.count();
        let kind = match (message.of, self.method.kind) {
            (Type::Of(kind), Some(only)) if kind != only => {
                return Err(status(Code::InvalidArgument, "this service has no resources of that type"));
            }
            (Type::Of(kind), _) => kind,
            (Type::Unnamed, Some(only)) => only,
            // A reader asks over one stream for all that it can read, and there is nothing of the other
            // types.
            (Type::Unnamed | Type::Unknown, _) => return Ok(()),
        };
        self.metrics.asked(kind.label());
        if let Some(refusal) = &message.refusal {
            self.metrics.refused(kind.label());
            let reason = shortened(refusal);
            info!(kind = kind.label(), reason, "a client of xDS has refused an answer");
        }
        let mut stream = self.stream.lock();
        stream
            .ask(kind, message.ask)
            .map_err(|too_many| status(Code::ResourceExhausted, &too_many.to_string()))?;
        if let Some(interest) = stream.take_interest() {
            self.subscription.interest(&interest);
        }
        Ok(())
    }

    fn end_by(&mut self, end: End) {
        // The earliest end counts.
        if self.end.as_ref().is_none_or(|known| end.at < known.at) {
            self.end = Some(Box::new(end));
        }
    }
}

impl Body for Session {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_next(cx).map(|frame| frame.map(Ok))
    }
}
