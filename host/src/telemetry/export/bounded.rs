//! A bound for the queue of an exporter, and counters of the fate of its items.
//!
//! The library's own queues drop items without counting them. So the entrance of a queue (a processor) and
//! its exit (an exporter) are wrapped. Items beyond the bound are turned away at the entrance, and every
//! item is counted once: as `exported`, as `failed` (the collector did not take it) or as `dropped` (the
//! queue was full).

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

/// The items of one signal: the number in its queue, and counters for the others. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Counts(Arc<SignalCounts>);

#[derive(Debug)]
struct SignalCounts {
    queued: AtomicUsize,
    capacity: usize,
    /// The last export failed. Keeps a long failure to one log line.
    failing: AtomicBool,
    items: Counter<u64>,
    signal: &'static str,
}

impl Counts {
    /// Counts for a signal of which `capacity` items may be queued or being sent.
    pub(super) fn new(meter: &Meter, signal: &'static str, capacity: usize) -> Self {
        let items = meter
            .u64_counter("muster_telemetry_items_total")
            .with_description("Spans and log records for the collector, by what became of them.")
            .build();
        let counts = Self(Arc::new(SignalCounts {
            queued: AtomicUsize::new(0),
            capacity,
            failing: AtomicBool::new(false),
            items,
            signal,
        }));
        // A series that appears with its first failure has no increase that an alert could see.
        for fate in ["exported", "failed", "dropped"] {
            counts.count(fate, 0);
        }
        counts
    }

    fn count(&self, fate: &'static str, items: usize) {
        let labels = [KeyValue::new("signal", self.0.signal), KeyValue::new("fate", fate)];
        self.0.items.add(items as u64, &labels);
    }

    /// Takes a place in the queue for one item. False when there is none; the item is then
    /// counted as dropped.
    fn enter(&self) -> bool {
        // Relaxed suffices: the number guards no other memory.
        let taken = self.0.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
            (queued < self.0.capacity).then_some(queued + 1)
        });
        if taken.is_err() {
            self.count("dropped", 1);
        }
        taken.is_ok()
    }

    fn leave(&self, items: usize, outcome: &OTelSdkResult) {
        self.0.queued.fetch_sub(items, Ordering::Relaxed);
        self.count(if outcome.is_ok() { "exported" } else { "failed" }, items);
        let was_failing = self.0.failing.swap(outcome.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (outcome, was_failing) {
            warn!(signal = self.0.signal, %error, "the collector does not take our telemetry; it is lost until this works again");
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
    /// Wraps `inner`.
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
    fn items_beyond_the_bound_are_dropped_and_counted() {
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
