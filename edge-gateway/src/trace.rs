//! A sampled change on its way through the gateway: taken from the bus, handed to the shards, written to
//! watchers.

use host::telemetry::trace::{self, SpanContext, SpanKind, Step};

/// Traced events that one audience keeps an eye on at once; more are written without a span.
const MOST_WRITES: usize = 64;

/// The span that published what the bus delivered with this header; `None` when nobody wants traces.
pub(crate) fn publisher(traceparent: Option<&str>) -> Option<Box<SpanContext>> {
    let traceparent = traceparent.filter(|_| trace::is_on())?;
    trace::parse(traceparent).filter(SpanContext::is_sampled).map(Box::new)
}

/// The step from taking an event from the bus to handing it to the shards, which ends at `now`; the parent of
/// what they do.
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

/// The writing of traced events to the sessions of one audience.
#[derive(Debug, Default)]
pub(crate) struct Writes(Vec<Step>);

impl Writes {
    /// A traced event waits for its round since `now`.
    pub(crate) fn begin(&mut self, cause: &SpanContext, encoding: &'static str, now: u64) {
        if self.0.len() < MOST_WRITES {
            let step = Step::begin("write", SpanKind::Producer, cause, now);
            self.0.extend(step.map(|step| step.about("muster.encoding", encoding)));
        }
    }

    /// Nothing traced is being written.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first session has had its frame.
    pub(crate) fn first(&mut self, now: u64) {
        self.0.iter_mut().for_each(|step| step.note("first frame written", now));
    }

    /// The last of so many has; slow ones go on by themselves.
    pub(crate) fn last(&mut self, watchers: usize, now: u64) {
        for mut step in std::mem::take(&mut self.0) {
            step.note("last frame written", now);
            step.about("muster.watchers", watchers as i64).end(now);
        }
    }
}
