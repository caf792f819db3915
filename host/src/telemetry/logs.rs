//! Log lines on standard error, as text or as JSON.

use std::io::IsTerminal as _;

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use super::TelemetryError;
use settings::{Choice, Config, Setting, Settings};

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people; coloured on a terminal.
    #[default]
    Text,
    /// A JSON object on one line.
    Json,
}

impl Choice for LogFormat {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// A filter of events, such as `info` or `info,host::http=debug`. The text has been parsed successfully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl Setting for LogFilter {
    const NAME: &'static str = "FILTER";

    fn expected() -> String {
        "a level such as info, or a filter such as info,host::http=debug".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        EnvFilter::builder().parse(text).ok().map(|_| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The settings of logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of log lines.
    pub format: LogFormat,
    /// The events that are logged.
    pub filter: LogFilter,
    /// Each request is logged.
    pub access: bool,
}

impl Config for LogConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            format: settings.get_or("log.format", LogFormat::default(), "How log lines look."),
            filter: settings.live(|live| {
                live.get("log.level", "info", "What is logged: a level, or levels by part of the program.")
            }),
            access: settings.get(
                "log.access",
                "false",
                "Log each request: method, path without query, status, duration, request id.",
            ),
        }
    }
}

impl LogConfig {
    /// Sets up logs for the process.
    ///
    /// # Errors
    /// When logs were set up before.
    pub(super) fn init(&self, exporter: Option<&SdkLoggerProvider>) -> Result<LogLevel, TelemetryError> {
        init(self.format, &self.filter.0, exporter)
    }
}

/// Sends the events that pass `filter` to standard error, and to an exporter if there is one.
///
/// # Errors
/// When the filter cannot be read, or when logs were set up before.
fn init(
    format: LogFormat,
    filter: &str,
    exporter: Option<&SdkLoggerProvider>,
) -> Result<LogLevel, TelemetryError> {
    let (filter, level) = reload::Layer::new(EnvFilter::builder().parse(filter)?);
    // Standard error, because standard output belongs to `--print-config` and the like.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(colours()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // The exporter and its transport log too. Without this filter each export would create the next
    // record to export.
    let exported = exporter.map(|exporter| {
        let quiet = EnvFilter::new("trace,opentelemetry=off,host::telemetry=off,tonic=off,h2=off,hyper=off");
        OpenTelemetryTracingBridge::new(exporter).with_filter(quiet)
    });
    let done = tracing_subscriber::registry().with(filter).with(lines).with(exported).try_init();
    done.map_err(|_| TelemetryError::LogsAlreadySetUp)?;
    Ok(LogLevel(level))
}

/// Changes the log filter while the process runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Applies the filter of `config` from now on. The form of the lines stays as it was at the start.
    pub fn set(&self, config: &LogConfig) {
        if let Ok(filter) = EnvFilter::builder().parse(&config.filter.0) {
            // Fails only when the subscriber is gone, and then there is nothing to filter.
            let _ = self.0.reload(filter);
        }
    }
}

fn colours() -> bool {
    // https://no-color.org: any value but the empty one.
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_filter_is_refused() {
        assert!(LogFilter::parse("info,host::http=debug").is_some());
        assert!(LogFilter::parse("shared=loud").is_none());
        assert!(matches!(init(LogFormat::Text, "shared=loud", None), Err(TelemetryError::Filter(_))));
    }
}
