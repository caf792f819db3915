//! An open stream: what its client has asked for, and what it is sent next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use access::Grant;
use bytes::Bytes;
use host::audit::shortened;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::grpc::{Code, status, status_of};
use super::bounds::{End, Judge, Pace};
use super::code_of;
use crate::close::Reason;
use crate::limits::Permit;
use crate::metrics::XdsMetrics;
use crate::xds::stream::Stream;
use crate::xds::wire::{Message, Messages, Unreadable, write};
use crate::xds::{Kind, Method, Seen, State, Subscription};

/// The time for which a stream waits until this gateway has what its client has.
const BEHIND: Duration = Duration::from_secs(10);

/// An open stream.
pub(super) struct Session {
    method: Method,
    grant: Arc<Grant>,
    judge: Judge,
    drain: CancellationToken,
    drain_over: Duration,
    stream: Stream,
    messages: Messages,
    pace: Pace,
    subscription: Subscription,
    state: Arc<State>,
    /// The time at which the wait for what the client has began.
    behind: Option<Instant>,
    /// The rest of an answer.
    out: VecDeque<Bytes>,
    end: Option<End>,
    is_over: bool,
    metrics: XdsMetrics,
    _permit: Permit,
}

/// Everything that a stream needs from its opening.
pub(super) struct Parts {
    pub(super) method: Method,
    pub(super) grant: Arc<Grant>,
    pub(super) judge: Judge,
    pub(super) drain: CancellationToken,
    pub(super) drain_over: Duration,
    pub(super) messages: Messages,
    pub(super) subscription: Subscription,
    pub(super) state: Arc<State>,
    pub(super) metrics: XdsMetrics,
    pub(super) permit: Permit,
}

/// The reason to look again.
enum Event {
    Time,
    Draining,
    State(bool),
    Message(Result<Option<Box<Message>>, Unreadable>),
}

impl Session {
    /// A stream with its first request.
    pub(super) fn new(parts: Parts, first: Message) -> Self {
        let Parts { method, grant, judge, drain, drain_over, messages, subscription, state, metrics, permit } =
            parts;
        let mut session = Self {
            stream: Stream::new(method.variant),
            method,
            grant,
            judge,
            drain,
            drain_over,
            messages,
            pace: Pace::new(),
            subscription,
            state,
            behind: None,
            out: VecDeque::new(),
            end: None,
            is_over: false,
            metrics,
            _permit: permit,
        };
        if let Err(status) = session.take(first) {
            session.end_by(End::now(status));
        }
        session
    }

    /// The next frame of the response; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Frame<Bytes>> {
        loop {
            if let Some(piece) = self.out.pop_front() {
                return Some(Frame::data(piece));
            }
            if self.is_over {
                return None;
            }
            // Before each answer: a client that has lost its right gets nothing more.
            if let Some(end) = self.judge.judge() {
                self.end_by(end);
            }
            if self.end.as_ref().is_some_and(|end| end.at <= Instant::now()) {
                let status = self.end.take().map(|end| end.status).unwrap_or_default();
                self.is_over = true;
                return Some(Frame::trailers(status));
            }
            if self.answer() {
                continue;
            }
            if self.messages.late_at().is_some_and(|late| late <= Instant::now()) {
                self.end_by(End::now(status(Code::DeadlineExceeded, "a message did not arrive in time")));
                continue;
            }
            match self.wait().await {
                Event::Time => {}
                Event::Draining => self.end_within(self.drain_over, status_of(Reason::Drained)),
                Event::State(true) => self.look(),
                Event::State(false) => self.end_by(End::now(status_of(Reason::Drained))),
                Event::Message(Ok(Some(message))) => {
                    if let Err(status) = self.take(*message) {
                        self.end_by(End::now(status));
                    }
                }
                // A client that sends no more has closed the stream.
                Event::Message(Ok(None)) => self.end_by(End::now(status_of(Reason::ClientClosed))),
                Event::Message(Err(problem)) => {
                    self.end_by(End::now(status(code_of(problem), &problem.to_string())));
                }
            }
        }
    }

    /// Puts the next answer out. False if there is none.
    fn answer(&mut self) -> bool {
        let height = *self.subscription.heights.borrow();
        let revision = height.revision.max(self.state.revision);
        if self.stream.is_ahead_of(revision) {
            let since = *self.behind.get_or_insert_with(Instant::now);
            if since.elapsed() < BEHIND {
                return false;
            }
            if !height.is_fresh && self.stream.is_ahead_of(height.reached) {
                // Another gateway may have it, and until then the client keeps what it has.
                let words = "this gateway has not seen yet what the client has; try again";
                self.end_by(End::now(status(Code::Unavailable, words)));
                return true;
            }
            // Control planes say that there is nothing later: the store was restored from a backup. Or nobody
            // can say anything, and the last change that the client has seen has been seen here, too.
            self.stream.forget_floor();
        }
        self.behind = None;
        let seen = Seen { state: &self.state, grant: &self.grant, revision };
        let Some(answer) = self.stream.next(&seen) else { return false };
        self.out = write(self.method.variant, &answer);
        let bytes = self.out.iter().map(Bytes::len).sum();
        self.metrics.sent(answer.kind.label(), answer.resources.len(), bytes);
        true
    }

    /// Waits for anything that may change what comes next. Cancel-safe.
    async fn wait(&mut self) -> Event {
        let far = Instant::now() + Duration::from_secs(3600);
        let until_end = self.end.as_ref().map_or(far, |end| end.at);
        let until_late = self.behind.map_or(far, |since| since + BEHIND);
        let until_whole = self.messages.late_at().unwrap_or(far);
        let until = until_end.min(until_late).min(until_whole).min(self.judge.at.unwrap_or(far));
        let is_behind = self.behind.is_some();
        let is_ending = self.end.is_some();
        let pace = self.pace.until();
        tokio::select! {
            biased;
            () = sleep_until(until) => Event::Time,
            () = self.drain.cancelled(), if !is_ending => Event::Draining,
            Ok(()) = self.subscription.generations.changed() => Event::Time,
            is_there = self.subscription.states.changed() => Event::State(is_there.is_ok()),
            Ok(()) = self.subscription.heights.changed(), if is_behind => Event::Time,
            message = async {
                if let Some(pause) = pace {
                    sleep_until(pause).await;
                }
                Ok(self.messages.next().await?.map(Box::new))
            } => Event::Message(message),
        }
    }

    /// Takes the tenant's state, and notes what is different in it.
    fn look(&mut self) {
        let Some(state) = self.subscription.state() else { return };
        let follows = state.serial == self.state.serial + 1;
        self.stream.changed(follows.then_some(&*state.changes));
        self.state = state;
    }

    /// Takes a request of the client.
    ///
    /// # Errors
    /// The status to end with.
    fn take(&mut self, message: Message) -> Result<(), HeaderMap> {
        self.pace.count();
        let kind = match (Kind::of_type_url(&message.type_url), self.method.kind) {
            (Some(kind), Some(only)) if kind != only => {
                return Err(status(Code::InvalidArgument, "this service has no resources of that type"));
            }
            (Some(kind), _) => kind,
            (None, Some(only)) if message.type_url.is_empty() => only,
            // A reader asks over one stream for all that it can read, and there is nothing of the other
            // types.
            (None, _) => return Ok(()),
        };
        self.metrics.asked(kind.label(), 1);
        if let Some(refusal) = &message.refusal {
            self.metrics.refused(kind.label(), 1);
            let reason = shortened(refusal);
            info!(kind = kind.label(), reason, "a client of xDS has refused an answer");
        }
        self.stream
            .ask(kind, message.ask)
            .map_err(|too_many| status(Code::ResourceExhausted, &too_many.to_string()))
    }

    fn end_by(&mut self, end: End) {
        // The earliest end counts.
        if self.end.as_ref().is_none_or(|known| end.at < known.at) {
            self.end = Some(end);
        }
    }

    /// Ends the stream at a moment within this time, so that clients do not all come back at once.
    fn end_within(&mut self, over: Duration, status: HeaderMap) {
        self.end_by(End { at: Instant::now() + over.mul_f64(fastrand::f64()), status });
    }
}
