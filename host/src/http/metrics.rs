//! The metrics of a listener.

use std::slice::from_ref;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, MeterProvider as _, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::activity::Activity;

/// The instruments of one listener. Clones share them.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    open: UpDownCounter<i64>,
    closed: Counter<u64>,
    full: Counter<u64>,
    failed: Counter<u64>,
    slow: Counter<u64>,
    held: UpDownCounter<i64>,
    listener: KeyValue,
}

/// The part of a request for which a client took too long, as a label of the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slow {
    /// The client did not send the whole body in time.
    Body,
    /// The client left an answer on HTTP/2 unread.
    Answer,
    /// The answer was on its way longest when all of them together held too many bytes.
    Memory,
}

impl Slow {
    const ALL: [Self; 3] = [Self::Body, Self::Answer, Self::Memory];

    fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Answer => "answer",
            Self::Memory => "memory",
        }
    }
}

/// The reasons for which a connection ends, as a label of the metric names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer closed it, or a handler upgraded it and took it over.
    Done,
    /// There was no request for the idle timeout.
    Idle,
    /// The head of a request, or the TLS handshake, was not complete in time.
    HeaderTimeout,
    /// The peer violated the protocol, or the connection broke.
    Failed,
    /// A new client took its place, because all connections were taken and this one had no request; or its answer was
    /// on its way longest when all of them together held too many bytes.
    Evicted,
    /// The process drained.
    Drained,
    /// The process aborted, or cut off the last clients of its drain.
    Aborted,
}

impl Ended {
    const ALL: [Self; 7] = [
        Self::Done,
        Self::Idle,
        Self::HeaderTimeout,
        Self::Failed,
        Self::Evicted,
        Self::Drained,
        Self::Aborted,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Idle => "idle",
            Self::HeaderTimeout => "header_timeout",
            Self::Failed => "failed",
            Self::Evicted => "evicted",
            Self::Drained => "drained",
            Self::Aborted => "aborted",
        }
    }
}

impl ServerMetrics {
    /// The instruments of the listener called `listener`, with every series at zero.
    pub fn new(meter: &Meter, listener: &'static str) -> Self {
        let metrics = Self {
            open: meter
                .i64_up_down_counter("muster_http_connections")
                .with_description("Connections open on a listener; upgraded ones are not counted.")
                .build(),
            closed: meter
                .u64_counter("muster_http_connections_closed_total")
                .with_description("Connections ended, by reason.")
                .build(),
            full: meter
                .u64_counter("muster_http_connections_full_total")
                .with_description("Times that a client came when all connections were taken.")
                .build(),
            failed: meter
                .u64_counter("muster_http_accept_errors_total")
                .with_description("Failures to accept a connection that concern the whole process.")
                .build(),
            slow: meter
                .u64_counter("muster_http_slow_requests_total")
                .with_description(
                    "Requests given up because their client did not send the body, or did not read the answer.",
                )
                .build(),
            held: meter
                .i64_up_down_counter("muster_http_answer_bytes")
                .with_description("Bytes that answers hold which wait for their clients.")
                .build(),
            listener: KeyValue::new("listener", listener),
        };
        // A series that appears with its first event has no increase that an alert could see.
        metrics.open.add(0, from_ref(&metrics.listener));
        metrics.held.add(0, from_ref(&metrics.listener));
        metrics.full.add(0, from_ref(&metrics.listener));
        metrics.failed.add(0, from_ref(&metrics.listener));
        for part in Slow::ALL {
            metrics.slow.add(0, &metrics.with_part(part));
        }
        for reason in Ended::ALL {
            metrics.closed.add(0, &metrics.with_reason(reason));
        }
        metrics
    }

    /// Instruments that are never read, for listeners without metrics.
    pub fn none() -> Self {
        Self::new(&SdkMeterProvider::default().meter("none"), "none")
    }

    pub(super) fn full(&self) {
        self.full.add(1, from_ref(&self.listener));
    }

    pub(super) fn accept_failed(&self) {
        self.failed.add(1, from_ref(&self.listener));
    }

    pub(super) fn slow(&self, part: Slow) {
        self.slow.add(1, &self.with_part(part));
    }

    /// Notes that answers which wait for their clients held so many bytes before, and hold so many now.
    pub(super) fn held(&self, before: usize, now: usize) {
        let [before, now] = [before, now].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        self.held.add(now - before, from_ref(&self.listener));
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn open(&self, activity: Arc<Activity>) -> OpenConnection {
        self.open.add(1, from_ref(&self.listener));
        OpenConnection { metrics: self.clone(), activity, reason: None }
    }

    fn with_part(&self, part: Slow) -> [KeyValue; 2] {
        [self.listener.clone(), KeyValue::new("part", part.as_str())]
    }

    fn with_reason(&self, reason: Ended) -> [KeyValue; 2] {
        [self.listener.clone(), KeyValue::new("reason", reason.as_str())]
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct OpenConnection {
    metrics: ServerMetrics,
    activity: Arc<Activity>,
    reason: Option<Ended>,
}

impl OpenConnection {
    /// Counts the connection as ended for `reason`.
    pub(super) fn end(mut self, reason: Ended) {
        self.reason = Some(reason);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.open.add(-1, from_ref(&self.metrics.listener));
        // A guard that is dropped without a reason belongs to an aborted task.
        let aborted = if self.activity.is_evicted() { Ended::Evicted } else { Ended::Aborted };
        self.metrics.closed.add(1, &self.metrics.with_reason(self.reason.unwrap_or(aborted)));
    }
}
