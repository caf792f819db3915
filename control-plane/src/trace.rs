//! A sampled change on its way through this plane: from its transaction to the bus.
//!
//! Whoever commits knows the request; whoever publishes may be another replica. So a sampled request writes its
//! context beside what it changes, in the same transaction: one key for all, `/cse-sr/muster/trace`, which
//! Service-Center does not read. Every replica's watch delivers both at one revision, so there is nothing to match
//! and nothing to race; requests that are not sampled write nothing.

use host::telemetry::trace::{self, SpanContext, SpanKind, Step};
use proto::event::v1 as pb;
use shared::event::InstanceEvent;

use crate::keys;
use crate::store::{KvEvent, Op};

/// Steps of a transaction to which the context may be added: etcd takes 128.
const MOST_STEPS: usize = 120;

/// The step that writes the context of `span` beside what a transaction writes; `None` when it writes nothing.
pub(crate) fn beside(then: &[Op], span: &SpanContext) -> Option<Op> {
    let writes = then.iter().any(|op| !matches!(op, Op::Get(_)));
    (writes && then.len() < MOST_STEPS).then(|| Op::Put {
        key: keys::TRACE.to_owned(),
        value: trace::traceparent(span).into(),
        lease: None,
    })
}

/// The step in which the view takes in the changes of one revision, when they are traced.
pub(crate) fn applying(batch: &[KvEvent], heard_at: u64) -> Option<Step> {
    if !trace::is_on() {
        return None;
    }
    let context = batch.iter().find_map(|event| match event {
        KvEvent::Put(kv) if kv.key == keys::TRACE => trace::parse(std::str::from_utf8(&kv.value).ok()?),
        KvEvent::Put(_) | KvEvent::Delete { .. } => None,
    })?;
    let step = Step::begin("view", SpanKind::Internal, &context, heard_at)?;
    Some(step.about("muster.revision", batch[0].rev() as i64))
}

/// The header that goes with a traced event to the bus at `now`; the step has begun when the view had it.
pub(crate) fn published(
    cause: &SpanContext,
    event: &InstanceEvent,
    told: &pb::InstanceEvent,
) -> Option<String> {
    let step = Step::begin("publish", SpanKind::Producer, cause, event.committed_at)?
        .about("messaging.system", "nats")
        .about("muster.revision", event.at.rev as i64)
        .about("muster.action", event.action.as_str());
    let header = trace::traceparent(&step.context());
    step.end(told.published_at);
    Some(header)
}
