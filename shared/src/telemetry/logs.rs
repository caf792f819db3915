//! Log lines on standard error, for people or for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::TelemetryError;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Sends the events that pass `filter` (such as `info` or `info,shared::http=debug`) to standard error.
///
/// # Errors
/// When the filter cannot be read, or when logs were set up before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let builder = SubscriberBuilder::default().with_writer(std::io::stderr).with_env_filter(filter);
    let done = match format {
        LogFormat::Text => builder.with_ansi(colours()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    done.map_err(|_| TelemetryError::LogsAlreadySetUp)
}

/// Checks a filter without setting anything up.
///
/// # Errors
/// When the filter cannot be read.
pub fn check_filter(filter: &str) -> Result<(), TelemetryError> {
    EnvFilter::builder().parse(filter)?;
    Ok(())
}

fn colours() -> bool {
    // https://no-color.org: any value but the empty one.
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert!(check_filter("info,shared::http=debug").is_ok());
        assert!(matches!(check_filter("shared=loud"), Err(TelemetryError::Filter(_))));
    }
}
