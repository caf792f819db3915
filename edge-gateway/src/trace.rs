//! The spans of a sampled change in the gateway: taken from the bus, handed to the shards, written to
//! watchers.

use host::telemetry::trace::{self, SpanContext, SpanKind, Step};

/// Spans that one audience keeps open at once; further traced pushes are written without a span.
const MOST_WRITES: usize = 64;

/// The publisher's span, from the header of a bus message. `None` when traces are off or the span is not
/// sampled.
pub(crate) fn publisher(traceparent: Option<&str>) -> Option<Box<SpanContext>> {
    let traceparent = traceparent.filter(|_| trace::is_on())?;
    trace::parse(traceparent).filter(SpanContext::is_sampled).map(Box::new)
}

/// Records the step from the bus to the shards, which ends at `now`. Returns its context, the parent of the
/// writes.
pub(crate) fn dispatched(
    cause: &SpanContext,
    received_at: u64,
    rev: u64,
    now: u64,
) -> Option<Box<SpanContext>> {
    let step = Step::begin("dispatch", SpanKind::Consumer, cause, received_at)?
        .about("messaging.system", "nats")
        .about("muster.revision", rev as i64);
    let context = Box::new(step.context());
    step.end(now);
    Some(context)
}

/// The spans of traced pushes that are being written to the sessions of one audience.
#[derive(Debug, Default)]
pub(crate) struct Writes(Vec<Step>);

impl Writes {
    /// Begins the span of a push that waits for its round since `now`.
    pub(crate) fn begin(&mut self, cause: &SpanContext, encoding: &'static str, now: u64) {
        // Bounded: in a burst the tracing of writes must not cost more than the writes.
        if self.0.len() < MOST_WRITES {
            let step = Step::begin("write", SpanKind::Producer, cause, now);
            self.0.extend(step.map(|step| step.about("muster.encoding", encoding)));
        }
    }

    /// True when no traced push is being written.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that the first session's frame was written.
    pub(crate) fn first(&mut self, now: u64) {
        self.0.iter_mut().for_each(|step| step.note("first frame written", now));
    }

    /// Ends the spans after the last session of a round; slow sessions go on by themselves.
    pub(crate) fn last(&mut self, watchers: usize, now: u64) {
        for mut step in std::mem::take(&mut self.0) {
            step.note("last frame written", now);
            step.about("muster.watchers", watchers as i64).end(now);
        }
    }
}
