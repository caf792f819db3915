//! Logs, metrics and traces of the process.
//!
//! In: `tracing` events, OpenTelemetry instruments. Out: log lines on standard error, the text that
//! Prometheus scrapes, and everything for an OpenTelemetry collector if one is configured.
//!
//! This is the only room that names a subscriber or an exporter. Other rooms are given a
//! [`Meter`](opentelemetry::metrics::Meter).

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

/// The environment variables that configure the export. OpenTelemetry's specification defines each of them.
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

/// The reasons for which telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The text is no log filter.
    #[error("not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a subscriber for logs already.
    #[error("logs are already set up")]
    LogsAlreadySetUp,
    /// The exporter could not be built, for the reason given.
    #[error("cannot set up the exporter: {0}")]
    Exporter(String),
    /// An environment variable has a value that we do not support: its name, the value, and what is expected.
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
    /// Sets up logs, metrics and traces. The process is called `service` unless the environment gives it
    /// another name. Must be called within a runtime.
    ///
    /// # Errors
    /// When logs were set up before, or the environment asks for something that cannot be done. If the error
    /// concerns metrics or traces, logging already works, so that the caller can log it.
    pub fn start(service: &'static str, log: &LogConfig) -> Result<Self, TelemetryError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let resource = export::resource(service, &lookup);
        // Metrics come first, because the log exporter counts its records. Mistakes are returned only behind
        // `log.init`: before it nothing can be logged.
        let mut mistake = None;
        let reader = export::metrics(&lookup).unwrap_or_else(|error| {
            mistake = Some(error);
            None
        });
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

    /// The metrics, to make instruments with.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The log level, to be changed while the process runs.
    pub fn level(&self) -> &LogLevel {
        &self.level
    }

    /// Sends everything that is queued, and ends. Takes a few seconds at most, also when the collector
    /// does not answer.
    pub async fn finish(self) {
        // The SDK's shutdown blocks its thread until the exporter is done. The exporter needs our
        // runtime meanwhile.
        let flushing = tokio::task::spawn_blocking(move || {
            // Errors are dropped: a collector that is away was reported when it failed first.
            if let Some(traces) = self.traces {
                let _ = traces.shutdown_with_timeout(export::DRAIN_TIMEOUT);
            }
            let _ = self.metrics.shutdown(export::DRAIN_TIMEOUT);
            if let Some(logs) = self.logs {
                let _ = logs.shutdown_with_timeout(export::DRAIN_TIMEOUT);
            }
        });
        let _ = flushing.await;
    }
}
