//! Carries the trace of a sampled request from its transaction to the watch.
//!
//! One replica commits and knows the request; another replica may publish. Therefore a sampled request writes
//! its context in the same transaction as its change: one key for all, `/cse-sr/muster/trace`, which
//! Service-Center does not read. Every replica's watch delivers both at one revision, so nothing has to be
//! matched and nothing can race. Requests that are not sampled write nothing.

use host::telemetry::trace::{self, SpanContext, SpanKind, Step};

use super::{KvEvent, Op};
use crate::keys;

/// The longest transaction to which the context is added. etcd takes 128 operations, and a trace must never
/// be the reason why it refuses one.
const MAX_OPS: usize = 120;

/// The operation that writes the context of `span` along with `then`, or `None` when `then` writes nothing: a
/// read must not become a write by being traced.
pub(super) fn context_write(then: &[Op], span: &SpanContext) -> Option<Op> {
    let writes = then.iter().any(|op| !matches!(op, Op::Get(_)));
    (writes && then.len() < MAX_OPS).then(|| Op::Put {
        key: keys::TRACE.to_owned(),
        value: trace::traceparent(span).into(),
        lease: None,
    })
}

/// The span in which the view applies the changes of one revision, if they are traced. `received_at` is in
/// unix microseconds.
pub(crate) fn view_span(changes: &[KvEvent], received_at: u64) -> Option<Step> {
    if !trace::is_on() {
        return None;
    }
    let context = changes.iter().find_map(|event| match event {
        KvEvent::Put(kv) if kv.key == keys::TRACE => trace::parse(std::str::from_utf8(&kv.value).ok()?),
        KvEvent::Put(_) | KvEvent::Delete { .. } => None,
    })?;
    let step = Step::begin("view", SpanKind::Internal, &context, received_at)?;
    Some(step.about("muster.revision", changes[0].rev().get() as i64))
}
