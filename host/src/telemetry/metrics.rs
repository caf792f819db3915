//! Metrics: OpenTelemetry's instruments, rendered in the text format of Prometheus.
//!
//! A series has exactly the name of its instrument. The exporter appends no unit and no `_total`, because
//! Service-Center's names must stay as they are. So give instruments the names that Prometheus recommends:
//! `muster_gateway_resyncs_total`, `muster_gateway_event_lag_seconds`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prometheus::{Registry, TextEncoder};
use tracing::error;

use super::derived::Derived;
use super::{TelemetryError, process};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Bounds of histograms in seconds, for latencies from a tenth of a millisecond to ten seconds.
pub const LATENCY_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The same bounds in microseconds, for histograms with Service-Center's names.
pub const LATENCY_MICROSECONDS: [f64; 16] =
    [100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7];

/// The instruments of a process and their values. Clones share everything.
#[derive(Clone, Debug)]
pub struct Metrics {
    provider: SdkMeterProvider,
    registry: Registry,
    derived: Arc<Derived>,
}

impl Metrics {
    /// Metrics that share nothing with others in this process, so that each test can have its own. They
    /// contain the `process_*` figures. `resource` describes the process to exporters other than Prometheus.
    ///
    /// # Errors
    /// When the exporter for Prometheus cannot be built.
    pub fn new(resource: impl IntoIterator<Item = KeyValue>) -> Result<Self, TelemetryError> {
        let resource = Resource::builder_empty().with_attributes(resource).build();
        Self::exported(resource, None)
    }

    /// Like [`Metrics::new`], with a second reader that exports to a collector.
    pub(super) fn exported(
        resource: Resource,
        reader: Option<PeriodicReader<MetricExporter>>,
    ) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_counter_suffixes()
            .without_units()
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .map_err(|e| TelemetryError::Exporter(e.to_string()))?;
        let mut provider = SdkMeterProvider::builder().with_reader(exporter).with_resource(resource);
        if let Some(reader) = reader {
            provider = provider.with_reader(reader);
        }
        let provider = provider.build();
        process::observe(&provider.meter("process"));
        observe_build(&provider.meter("build"));
        Ok(Self { provider, registry, derived: Arc::default() })
    }

    /// A meter to make the instruments of the room `name` with.
    pub fn meter(&self, name: &'static str) -> Meter {
        self.provider.meter(name)
    }

    /// Exports a last time and ends. Blocks the thread for `within` at most.
    pub(super) fn shutdown(&self, within: Duration) -> OTelSdkResult {
        self.provider.shutdown_with_timeout(within)
    }

    /// All current values, and the series derived from them for old dashboards, in the text format of
    /// Prometheus. A metric that cannot be written is left out and logged.
    pub fn render(&self) -> String {
        let encoder = TextEncoder::new();
        let mut text = String::new();
        for family in self.derived.expand(self.registry.gather(), Instant::now()) {
            // One family at a time: a broken one must not hide the others.
            if let Err(e) = encoder.encode_utf8(std::slice::from_ref(&family), &mut text) {
                error!(metric = family.name(), error = %e, "a metric cannot be written and is left out of the scrape");
            }
        }
        text
    }
}

fn observe_build(meter: &Meter) {
    meter
        .u64_observable_gauge("muster_build_info")
        .with_description("Always 1; the version of the program is a label.")
        .with_callback(|observer| observer.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]))
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str, name: &str) -> Vec<String> {
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    #[test]
    fn names_go_out_exactly_as_given() {
        let metrics = Metrics::new([KeyValue::new("service.name", "test")]).expect("sets up");
        let meter = metrics.meter("test");
        let published = meter.u64_counter("service_center_notify_publish_total").with_unit("s").build();
        published.add(2, &[KeyValue::new("status", "SUCCESS")]);
        published.add(1, &[KeyValue::new("status", "FAILURE")]);
        meter.f64_gauge("service_center_db_service_total").build().record(7.0, &[]);
        meter
            .f64_histogram("muster_lag_seconds")
            .with_unit("s")
            .with_boundaries(LATENCY_SECONDS.into())
            .build()
            .record(0.003, &[]);

        let text = metrics.render();
        assert_eq!(
            lines_of(&text, "service_center"),
            [
                "service_center_db_service_total 7",
                r#"service_center_notify_publish_total{status="FAILURE"} 1"#,
                r#"service_center_notify_publish_total{status="SUCCESS"} 2"#,
            ]
        );
        assert_eq!(text.matches("# TYPE service_center_notify_publish_total counter").count(), 1);
        assert!(text.contains(r#"muster_lag_seconds_bucket{le="0.0025"} 0"#), "{text}");
        assert!(text.contains(r#"muster_lag_seconds_bucket{le="0.005"} 1"#), "{text}");
        assert!(!text.contains("otel_scope") && !text.contains("target_info"), "{text}");
    }

    #[test]
    fn service_centers_summaries_have_quantiles_and_buckets() {
        let metrics = Metrics::new([]).expect("sets up");
        let meter = metrics.meter("test");
        let micros = meter.f64_histogram("service_center_db_heartbeat_durations_microseconds");
        let micros = micros.with_boundaries(LATENCY_MICROSECONDS.into()).build();
        for took in [150.0, 200.0, 240.0] {
            micros.record(took, &[KeyValue::new("status", "SUCCESS")]);
        }
        let requests = meter.u64_counter("service_center_http_request_total").build();
        requests.add(3, &[KeyValue::new("api", "FindInstances"), KeyValue::new("code", "200")]);
        let text = metrics.render();
        for line in [
            "# TYPE service_center_db_heartbeat_durations_microseconds summary",
            r#"service_center_db_heartbeat_durations_microseconds{status="SUCCESS",quantile="0.5"} 175"#,
            r#"service_center_db_heartbeat_durations_microseconds_sum{status="SUCCESS"} 590"#,
            r#"service_center_db_heartbeat_durations_microseconds_count{status="SUCCESS"} 3"#,
            r#"service_center_db_heartbeat_durations_microseconds_bucket{status="SUCCESS",le="100"} 0"#,
            r#"service_center_db_heartbeat_durations_microseconds_bucket{status="SUCCESS",le="250"} 3"#,
            r#"service_center_db_heartbeat_durations_microseconds_bucket{status="SUCCESS",le="+Inf"} 3"#,
            r#"service_center_http_query_per_seconds{api="FindInstances"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn two_registries_share_nothing() {
        let one = Metrics::new([]).expect("sets up");
        let two = Metrics::new([]).expect("sets up");
        one.meter("test").u64_counter("muster_only_here_total").build().add(1, &[]);
        assert!(one.render().contains("muster_only_here_total"));
        assert!(!two.render().contains("muster_only_here_total"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_reports_its_usual_figures() {
        let text = Metrics::new([]).expect("sets up").render();
        for name in [
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
            "process_threads",
        ] {
            let value = lines_of(&text, name);
            let value: f64 = value.first().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect(name);
            assert!(value >= 0.0 && (value > 0.0 || name == "process_cpu_seconds_total"), "{name} {value}");
        }
    }
}
