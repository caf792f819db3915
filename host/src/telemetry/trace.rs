//! One change, followed from the request to the frame: spans and their contexts.
//!
//! ```text
//! request ──▶ transaction ──┄ key beside the commit ┄──▶ view ──▶ publish ──┄ header of the bus ┄──▶ dispatch ──▶ write
//! ```
//!
//! Like `tracing`'s subscriber, the tracer is the process's: set once, by the exporter, when traces are wanted. While
//! it is not, or when the request was not sampled, each place costs a branch. A request decides (or its client, by
//! W3C's `traceparent`); everything that follows has its parent's context in hand.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
pub use opentelemetry::trace::{FutureExt, SpanContext, SpanKind};
use opentelemetry::trace::{
    Span as _, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

/// W3C's header of requests and of bus messages.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Traces are wanted: from now on, for the whole process. The first one counts.
pub(super) fn set(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// Someone wants traces. A branch, nothing more.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// A request that is being answered.
#[derive(Clone, Debug)]
pub struct Request(Context);

impl Request {
    /// Begins the span of a request, in its client's trace if it has one. `None` when nobody wants traces.
    pub fn begin(headers: &HeaderMap, kind: SpanKind, name: &'static str) -> Option<Self> {
        let tracer = TRACER.get()?;
        let parent = headers.get(&TRACEPARENT).and_then(|value| parse(value.to_str().ok()?));
        let parent = parent.map_or_else(Context::new, |it| Context::new().with_remote_span_context(it));
        let span = tracer.build_with_context(tracer.span_builder(name).with_kind(kind), &parent);
        Some(Self(parent.with_span(span)))
    }

    /// It is to be told to the collector.
    pub fn is_sampled(&self) -> bool {
        self.0.span().span_context().is_sampled()
    }

    /// What is done for it: futures with this context know whom they work for.
    pub fn context(&self) -> Context {
        self.0.clone()
    }

    /// Lets whoever is asked next know; also that this request is not sampled.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(traceparent(self.0.span().span_context())) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// Ends its span. `status` is the HTTP status of the answer.
    pub fn answered(&self, name: String, status: u16, mut about: Vec<KeyValue>) {
        let span = self.0.span();
        if !span.is_recording() {
            return;
        }
        about.push(KeyValue::new("http.response.status_code", i64::from(status)));
        span.update_name(name);
        span.set_attributes(about);
        if status >= 500 {
            span.set_status(Status::error("server error"));
        }
        span.end();
    }
}

/// The span that the current request's work belongs to, if that is sampled.
pub fn current() -> Option<SpanContext> {
    TRACER.get()?;
    let context = Context::map_current(|it| it.has_active_span().then(|| it.span().span_context().clone()));
    context.filter(SpanContext::is_sampled)
}

/// A step of a sampled change. Ends when it is dropped.
#[derive(Debug)]
pub struct Step(SdkSpan);

impl Step {
    /// Begins a step caused by `parent`, at a time in unix microseconds. `None` when `parent` is not sampled, or
    /// nobody wants traces.
    pub fn begin(name: &'static str, kind: SpanKind, parent: &SpanContext, at: u64) -> Option<Self> {
        let tracer = TRACER.get().filter(|_| parent.is_sampled())?;
        let parent = Context::new().with_remote_span_context(parent.clone());
        let builder = tracer.span_builder(name).with_kind(kind).with_start_time(time(at));
        Some(Self(tracer.build_with_context(builder, &parent)))
    }

    /// Its context: the parent of what follows.
    pub fn context(&self) -> SpanContext {
        self.0.span_context().clone()
    }

    /// Says something about it.
    #[must_use]
    pub fn about(mut self, key: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        self.0.set_attribute(KeyValue::new(key, value.into()));
        self
    }

    /// Something happened in it, at a time in unix microseconds.
    pub fn note(&mut self, name: &'static str, at: u64) {
        self.0.add_event_with_timestamp(name, time(at), Vec::new());
    }

    /// It failed.
    pub fn fail(&mut self, why: String) {
        self.0.set_status(Status::error(why));
    }

    /// Ends it at a time in unix microseconds.
    pub fn end(mut self, at: u64) {
        self.0.end_with_timestamp(time(at));
    }
}

fn time(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

/// The text by which W3C's Trace Context names a span.
pub fn traceparent(it: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", it.trace_id(), it.span_id(), it.trace_flags().to_u8() & 1)
}

/// The span that a `traceparent` names; `None` for what is not one. Later versions may say more at the end.
pub fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut fields = traceparent.trim().splitn(5, '-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    };
    let fits = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    if !fits || version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let sampled = TraceFlags::default().with_sampled(u8::from_str_radix(flags, 16).ok()? & 1 == 1);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, sampled, true, TraceState::default())).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_comes_back_as_it_was() {
        for text in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        ] {
            let context = parse(text).expect("is one");
            assert_eq!(traceparent(&context), text);
            assert_eq!(context.is_sampled(), text.ends_with('1'));
        }
        let later = parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more");
        assert!(later.expect("a later version may have more").is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_names_no_span() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-001",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn without_a_tracer_nothing_is_begun() {
        assert!(Request::begin(&HeaderMap::new(), SpanKind::Server, "request").is_none());
        assert!(current().is_none());
    }
}
