//! The bound of an exporter's queue, and what became of what went through it.
//!
//! The libraries' queues lose silently. So the entrance (a processor) and the exit (an exporter) are wrapped: what
//! would be too much is not let in, and all is counted: `exported`, `failed` (the collector did not take it) and
//! `dropped` (it came too fast, or the collector was away too long).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::logs::Severity;
use opentelemetry::metrics::{Counter, Meter};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tracing::warn;

/// What is under way of one signal, and what became of the rest. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Counts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    under_way: AtomicUsize,
    most: usize,
    failing: AtomicBool,
    items: Counter<u64>,
    signal: &'static str,
}

impl Counts {
    /// For a signal of which `most` items may be under way.
    pub(super) fn new(meter: &Meter, signal: &'static str, most: usize) -> Self {
        let items = meter
            .u64_counter("muster_telemetry_items_total")
            .with_description("Spans and log records for the collector, by what became of them.")
            .build();
        let (under_way, failing) = (AtomicUsize::new(0), AtomicBool::new(false));
        let it = Self(Arc::new(Inner { under_way, most, failing, items, signal }));
        for fate in ["exported", "failed", "dropped"] {
            it.count(fate, 0);
        }
        it
    }

    fn count(&self, fate: &'static str, items: usize) {
        let labels = [KeyValue::new("signal", self.0.signal), KeyValue::new("fate", fate)];
        self.0.items.add(items as u64, &labels);
    }

    /// Lets one more in, or counts it as dropped.
    fn enter(&self) -> bool {
        let raised = self
            .0
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.0.most).then_some(n + 1));
        if raised.is_err() {
            self.count("dropped", 1);
        }
        raised.is_ok()
    }

    fn leave(&self, items: usize, outcome: &OTelSdkResult) {
        self.0.under_way.fetch_sub(items, Ordering::Relaxed);
        self.count(if outcome.is_ok() { "exported" } else { "failed" }, items);
        let was_failing = self.0.failing.swap(outcome.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (outcome, was_failing) {
            warn!(signal = self.0.signal, %error, "the collector does not take our telemetry");
        }
    }
}

/// A processor or an exporter whose items are counted.
#[derive(Debug)]
pub(super) struct Bounded<T> {
    inner: T,
    counts: Counts,
}

impl<T> Bounded<T> {
    /// Counts what goes through `inner`.
    pub(super) fn new(inner: T, counts: Counts) -> Self {
        Self { inner, counts }
    }
}

impl<T: SpanProcessor> SpanProcessor for Bounded<T> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.enter() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: SpanExporter> SpanExporter for Bounded<T> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len();
        let outcome = self.inner.export(batch).await;
        self.counts.leave(items, &outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: LogProcessor> LogProcessor for Bounded<T> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.counts.enter() {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: LogExporter> LogExporter for Bounded<T> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let outcome = self.inner.export(batch).await;
        self.counts.leave(items, &outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn what_is_too_much_is_counted_and_let_go() {
        let metrics = Metrics::new([]).expect("sets up");
        let counts = Counts::new(&metrics.meter("export"), "traces", 2);
        assert!(counts.enter() && counts.enter());
        assert!(!counts.enter(), "the third does not fit");
        counts.leave(1, &Ok(()));
        assert!(counts.enter(), "there is room again");
        counts.leave(2, &Err(OTelSdkError::InternalFailure("away".into())));
        let text = metrics.render();
        for (fate, count) in [("exported", 1), ("failed", 2), ("dropped", 1)] {
            let line = format!(r#"muster_telemetry_items_total{{fate="{fate}",signal="traces"}} {count}"#);
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
