//! What the process tells about itself: logs and metrics.
//!
//! In: `tracing` events, OpenTelemetry instruments. Out: lines on standard error, the text that Prometheus
//! scrapes. The only room that names a subscriber or an exporter; everyone else gets a
//! [`Meter`](opentelemetry::metrics::Meter) handed in.

pub mod logs;
pub mod metrics;
mod process;

pub use logs::{LogConfig, LogFormat, LogLevel};
pub use metrics::Metrics;

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
    #[error("cannot set up the metrics exporter: {0}")]
    Exporter(String),
}
