//! What the process tells about itself: logs, metrics and traces.
//!
//! In: `tracing` events, OpenTelemetry instruments. Out: lines on standard error, the text that Prometheus
//! scrapes, and all of it for a collector if there is one. The only room that names a subscriber or an exporter; everyone else gets a
//! [`Meter`](opentelemetry::metrics::Meter) handed in.

mod derived;
mod export;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod scrape;
pub mod trace;

pub use logs::{LogConfig, LogFormat, LogLevel};
pub use metrics::Metrics;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

/// What the environment may say about export; each as OpenTelemetry's specification has it.
pub const VARIABLES: [&str; 22] = [
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BLRP_SCHEDULE_DELAY",
];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not one.
    #[error("not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Another part of the process has set up logs already.
    #[error("logs are already set up")]
    LogsAlreadySetUp,
    /// The exporter refused.
    #[error("cannot set up the exporter: {0}")]
    Exporter(String),
    /// A variable of the environment has a value that is not known.
    #[error("{0}={1} is not understood; expected {2}")]
    Variable(String, String, &'static str),
}

/// Logs, metrics and traces of a process, from its start to its end.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    level: LogLevel,
}

impl Telemetry {
    /// Sets everything up, for a process that calls itself `service` unless the environment names it otherwise.
    /// Needs a runtime.
    ///
    /// # Errors
    /// When logs were set up before, or the environment asks for what cannot be done. Lines are logged already
    /// when the error is about the rest.
    pub fn start(service: &'static str, log: &LogConfig) -> Result<Self, TelemetryError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let resource = export::resource(service, &lookup);
        let reader = export::metrics(&lookup);
        let (reader, mistake) = match reader {
            Ok(reader) => (reader, None),
            Err(mistake) => (None, Some(mistake)),
        };
        let metrics = Metrics::exported(resource.clone(), reader)?;
        let meter = metrics.meter("telemetry");
        let logs = export::logs(&lookup, &resource, &meter);
        let level = log.init(logs.as_ref().ok().and_then(Option::as_ref))?;
        if let Some(mistake) = mistake {
            return Err(mistake);
        }
        let logs = logs?;
        let traces = export::traces(&lookup, &resource, &meter)?;
        if let Some(traces) = &traces {
            trace::set(traces.tracer("muster"));
        }
        Ok(Self { metrics, traces, logs, level })
    }

    /// Where instruments are made.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What is logged, to be changed while the process runs.
    pub fn level(&self) -> &LogLevel {
        &self.level
    }

    /// Hands over what is left, within a few seconds whatever the collector does.
    pub async fn finish(self) {
        let flushing = tokio::task::spawn_blocking(move || {
            let within = export::drain();
            // A collector that is away has been told of already; at the end nobody would hear it.
            let _ = self.traces.map(|it| it.shutdown_with_timeout(within));
            let _ = self.metrics.shutdown(within);
            let _ = self.logs.map(|it| it.shutdown_with_timeout(within));
        });
        let _ = flushing.await;
    }
}
