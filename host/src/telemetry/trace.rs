//! Distributed traces: they follow one change from the request to the frame.
//!
//! ```text
//! request ──▶ transaction ──┄ key beside the commit ┄──▶ view ──▶ publish
//!     publish ──┄ header of the bus ┄──▶ dispatch ──▶ write
//! ```
//!
//! Like `tracing`'s subscriber, the tracer is global to the process. It is set once, if traces are exported.
//! Without it, and for requests that are not sampled, each call here costs a branch.
//!
//! Sampling is decided at the request, or by its client with W3C's `traceparent`. Every later step is given
//! the context of its parent and follows its decision.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
pub use opentelemetry::trace::{FutureExt, SpanContext, SpanKind};
use opentelemetry::trace::{
    Span as _, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

/// The header of W3C's Trace Context, in requests and in messages on the bus.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Switches traces on for the rest of the process.
pub(super) fn set(tracer: SdkTracer) {
    // A second tracer is ignored; `Telemetry::start` fails before it could set one.
    let _ = TRACER.set(tracer);
}

/// True when traces are exported. Costs a branch.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// The span of a request that is being answered.
#[derive(Clone, Debug)]
pub struct Request(Context);

impl Request {
    /// Begins the span of a request, as part of its client's trace if it has one. `None` when no traces
    /// are exported.
    pub fn begin(headers: &HeaderMap, kind: SpanKind, name: &'static str) -> Option<Self> {
        let tracer = TRACER.get()?;
        let client = headers.get(&TRACEPARENT).and_then(|value| parse(value.to_str().ok()?));
        // Never the context of the current task: only its client can be the cause of a request.
        let parent = match client {
            Some(client) => Context::new().with_remote_span_context(client),
            None => Context::new(),
        };
        let span = tracer.build_with_context(tracer.span_builder(name).with_kind(kind), &parent);
        Some(Self(parent.with_span(span)))
    }

    /// True when the span is going to be exported.
    pub fn is_sampled(&self) -> bool {
        self.0.span().span_context().is_sampled()
    }

    /// The context to run the request's futures in, so that [`current`] finds the span.
    pub fn context(&self) -> Context {
        self.0.clone()
    }

    /// Writes the span into the headers of a request to another server, which then follows its
    /// decision to sample.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(traceparent(self.0.span().span_context())) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// Ends the span under its final name. `status` is the HTTP status of the answer.
    pub fn answered(&self, name: String, status: u16, mut about: Vec<KeyValue>) {
        let span = self.0.span();
        if !span.is_recording() {
            return;
        }
        about.push(KeyValue::new("http.response.status_code", i64::from(status)));
        span.update_name(name);
        span.set_attributes(about);
        // A 4xx is the client's mistake. The specification leaves the status of a server's span unset for it.
        if status >= 500 {
            span.set_status(Status::error("server error"));
        }
        span.end();
    }
}

/// The span of the request that the current task works for, if it is sampled.
pub fn current() -> Option<SpanContext> {
    TRACER.get()?;
    let span = Context::map_current(|context| {
        context.has_active_span().then(|| context.span().span_context().clone())
    });
    span.filter(SpanContext::is_sampled)
}

/// The span of one step of a sampled change. Ends when dropped.
#[derive(Debug)]
pub struct Step(SdkSpan);

impl Step {
    /// Begins a step with the given parent, at a time in microseconds since 1970. `None` when the parent is
    /// not sampled or no traces are exported.
    pub fn begin(name: &'static str, kind: SpanKind, parent: &SpanContext, at: u64) -> Option<Self> {
        let tracer = TRACER.get().filter(|_| parent.is_sampled())?;
        let parent = Context::new().with_remote_span_context(parent.clone());
        let builder = tracer.span_builder(name).with_kind(kind).with_start_time(time(at));
        Some(Self(tracer.build_with_context(builder, &parent)))
    }

    /// The context of this step, for the steps that follow it.
    pub fn context(&self) -> SpanContext {
        self.0.span_context().clone()
    }

    /// Adds an attribute.
    #[must_use]
    pub fn about(mut self, key: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        self.0.set_attribute(KeyValue::new(key, value.into()));
        self
    }

    /// Adds an event, at a time in microseconds since 1970.
    pub fn note(&mut self, name: &'static str, at: u64) {
        self.0.add_event_with_timestamp(name, time(at), Vec::new());
    }

    /// Marks the step as failed, for the given reason.
    pub fn fail(&mut self, why: String) {
        self.0.set_status(Status::error(why));
    }

    /// Ends the step at a time in microseconds since 1970.
    pub fn end(mut self, at: u64) {
        self.0.end_with_timestamp(time(at));
    }
}

fn time(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

/// The `traceparent` of a span, as W3C's Trace Context defines it.
pub fn traceparent(span: &SpanContext) -> String {
    // Of the flags, version 00 defines only the lowest bit; the others must be zero.
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8() & 1)
}

/// Parses a `traceparent`; `None` when the text is none. Versions after 00 may have further
/// fields at the end.
pub fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut fields = traceparent.trim().splitn(5, '-');
    let version = fields.next()?;
    let trace = fields.next()?;
    let span = fields.next()?;
    let flags = fields.next()?;
    let fits = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    // The specification forbids version ff, and more fields in version 00.
    if !fits || version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let sampled = TraceFlags::default().with_sampled(u8::from_str_radix(flags, 16).ok()? & 1 == 1);
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let context = SpanContext::new(trace, span, sampled, true, TraceState::default());
    // An id of zeros only is invalid.
    Some(context).filter(SpanContext::is_valid)
}

/// True for `digits` hexadecimal digits in lower case. Rust's own parsers would also take
/// capitals and a sign.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
    fn a_malformed_traceparent_is_ignored() {
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
    fn without_a_tracer_no_span_begins() {
        assert!(Request::begin(&HeaderMap::new(), SpanKind::Server, "request").is_none());
        assert!(current().is_none());
    }
}
