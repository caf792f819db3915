//! Export of metrics, traces and logs to an OpenTelemetry collector, configured by the standard
//! variables `OTEL_*`.
//!
//! In: the variables. Out: a reader, a tracer provider, a logger provider; none of them unless the variables
//! name an endpoint or an exporter.
//!
//! Export never delays the caller. Spans and log records go into bounded queues that the exporters' threads
//! empty; items that do not fit are dropped and counted. There are two protocols: gRPC, with TLS for `https`,
//! and HTTP with protobuf, without TLS.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder as LogBatch, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder as SpanBatch, BatchSpanProcessor, Sampler, SdkTracerProvider, TracerProviderBuilder,
};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::TelemetryError;

mod bounded;
mod http;

use bounded::{Bounded, Counts};
use http::Client;

/// The share of requests that are traced, if neither the client nor `OTEL_TRACES_SAMPLER` decides.
const SAMPLED_SHARE: f64 = 0.01;
/// The number of spans, or of log records, that may wait for their exporter. Further ones are
/// dropped and counted.
const QUEUE_LENGTH: usize = 4096;
/// The time that each signal may take at the end of the process to send the rest of its queue.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads an environment variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One of the three kinds of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }
}

/// The protocol of an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// The protocol by which a signal is exported; `None` when it is not exported.
///
/// # Errors
/// When a variable has a value that we do not support.
pub(super) fn protocol(signal: Signal, lookup: Lookup<'_>) -> Result<Option<Protocol>, TelemetryError> {
    if set(lookup, "OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let word = signal.word();
    let endpoint = endpoint(signal, lookup);
    let exporter = format!("OTEL_{word}_EXPORTER");
    let wanted = match set(lookup, &exporter).as_deref() {
        Some("otlp") => true,
        // Metrics can always be scraped, so `prometheus` asks for nothing more.
        Some("none" | "prometheus") => false,
        Some(other) => return Err(unsupported(&exporter, other, "otlp or none")),
        // The specification would export to localhost by default. We want no connection that
        // nobody asked for.
        None => endpoint.is_some(),
    };
    if !wanted {
        return Ok(None);
    }
    let of_signal = format!("OTEL_EXPORTER_OTLP_{word}_PROTOCOL");
    let named = set(lookup, &of_signal).or_else(|| set(lookup, "OTEL_EXPORTER_OTLP_PROTOCOL"));
    match named.as_deref() {
        Some("grpc") => Ok(Some(Protocol::Grpc)),
        None | Some("http/protobuf") => match endpoint.filter(|endpoint| endpoint.starts_with("https:")) {
            None => Ok(Some(Protocol::Http)),
            // Our HTTP client has no TLS. Refused here, because it would fail at each export instead.
            Some(endpoint) => Err(unsupported(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                &endpoint,
                "an http:// address; for https:// set OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
            )),
        },
        Some(other) => Err(unsupported(&of_signal, other, "grpc or http/protobuf")),
    }
}

/// The address to which a signal is exported.
fn endpoint(signal: Signal, lookup: Lookup<'_>) -> Option<String> {
    // The variable of a signal wins over the one for all signals; the specification wants it so.
    set(lookup, &format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.word()))
        .or_else(|| set(lookup, "OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// The value of a variable; `None` when it is unset or blank, which the specification treats alike.
fn set(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn unsupported(name: &str, value: &str, expected: &'static str) -> TelemetryError {
    TelemetryError::Variable(name.to_owned(), value.to_owned(), expected)
}

/// The description of this process for the collector. Its name comes from `OTEL_SERVICE_NAME` or
/// `OTEL_RESOURCE_ATTRIBUTES`, else it is `service`.
pub(super) fn resource(service: &'static str, lookup: Lookup<'_>) -> Resource {
    let named = lookup("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || lookup("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", format!("{:016x}", fastrand::u64(..))));
    // The builder has read the variables already; a name given here would win over theirs.
    if named { resource.build() } else { resource.with_service_name(service).build() }
}

fn not_built(error: impl std::fmt::Display) -> TelemetryError {
    TelemetryError::Exporter(error.to_string())
}

/// TLS for gRPC, with the system's authorities or those in the file `OTEL_EXPORTER_OTLP_CERTIFICATE`. The
/// exporter uses it for `https` only.
fn tls(signal: Signal, lookup: Lookup<'_>) -> Result<ClientTlsConfig, TelemetryError> {
    // A small container image has no authorities, and a program that was told to look for some would not
    // start.
    if !endpoint(signal, lookup).is_some_and(|endpoint| endpoint.starts_with("https:")) {
        return Ok(ClientTlsConfig::new());
    }
    let Some(path) = lookup("OTEL_EXPORTER_OTLP_CERTIFICATE").filter(|path| !path.is_empty()) else {
        return Ok(ClientTlsConfig::new().with_enabled_roots());
    };
    let pem = std::fs::read(&path).map_err(|error| {
        TelemetryError::Exporter(format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {path} cannot be read: {error}"))
    })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// The reader that exports metrics each `OTEL_METRIC_EXPORT_INTERVAL`. Must be called within a runtime.
pub(super) fn metrics(lookup: Lookup<'_>) -> Result<Option<PeriodicReader<MetricExporter>>, TelemetryError> {
    let exporter = match protocol(Signal::Metrics, lookup)? {
        None => return Ok(None),
        Some(Protocol::Grpc) => {
            MetricExporter::builder().with_tonic().with_tls_config(tls(Signal::Metrics, lookup)?).build()
        }
        Some(Protocol::Http) => MetricExporter::builder().with_http().with_http_client(Client::new()).build(),
    };
    Ok(Some(PeriodicReader::builder(exporter.map_err(not_built)?).build()))
}

/// The provider of tracers whose spans are exported. Must be called within a runtime.
pub(super) fn traces(
    lookup: Lookup<'_>,
    resource: &Resource,
    meter: &Meter,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let exporter = match protocol(Signal::Traces, lookup)? {
        None => return Ok(None),
        Some(Protocol::Grpc) => {
            SpanExporter::builder().with_tonic().with_tls_config(tls(Signal::Traces, lookup)?).build()
        }
        Some(Protocol::Http) => SpanExporter::builder().with_http().with_http_client(Client::new()).build(),
    };
    let counts = Counts::new(meter, "traces", QUEUE_LENGTH);
    let exporter = Bounded::new(exporter.map_err(not_built)?, counts.clone());
    // The library's queue drops items without counting them. Twice as long as ours, it is never full.
    let config = SpanBatch::default().with_max_queue_size(2 * QUEUE_LENGTH).build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_span_processor(Bounded::new(processor, counts));
    Ok(Some(sampled(provider, lookup).build()))
}

fn sampled(provider: TracerProviderBuilder, lookup: Lookup<'_>) -> TracerProviderBuilder {
    match lookup("OTEL_TRACES_SAMPLER").filter(|sampler| !sampler.is_empty()) {
        // The library reads the variable and its argument itself.
        Some(_) => provider,
        None => {
            provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(SAMPLED_SHARE))))
        }
    }
}

/// The provider of loggers whose records are exported. Must be called within a runtime.
pub(super) fn logs(
    lookup: Lookup<'_>,
    resource: &Resource,
    meter: &Meter,
) -> Result<Option<SdkLoggerProvider>, TelemetryError> {
    let exporter = match protocol(Signal::Logs, lookup)? {
        None => return Ok(None),
        Some(Protocol::Grpc) => {
            LogExporter::builder().with_tonic().with_tls_config(tls(Signal::Logs, lookup)?).build()
        }
        Some(Protocol::Http) => LogExporter::builder().with_http().with_http_client(Client::new()).build(),
    };
    let counts = Counts::new(meter, "logs", QUEUE_LENGTH);
    let exporter = Bounded::new(exporter.map_err(not_built)?, counts.clone());
    // Longer than our bound, as for traces.
    let config = LogBatch::default().with_max_queue_size(2 * QUEUE_LENGTH).build();
    let processor = BatchLogProcessor::builder(exporter).with_batch_config(config).build();
    let provider = SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_log_processor(Bounded::new(processor, counts));
    Ok(Some(provider.build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocols(variables: &[(&str, &str)]) -> Result<Vec<Option<Protocol>>, TelemetryError> {
        let lookup =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        let signals = [Signal::Traces, Signal::Metrics, Signal::Logs];
        signals.into_iter().map(|signal| protocol(signal, &lookup)).collect()
    }

    #[test]
    fn signals_are_exported_only_when_variables_ask_for_it() {
        assert_eq!(protocols(&[]).expect("fine"), [None; 3]);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(protocols(&[endpoint]).expect("fine"), [Some(Protocol::Http); 3]);
        assert_eq!(protocols(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).expect("fine"), [None; 3]);
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert_eq!(protocols(&[endpoint, grpc]).expect("fine"), [Some(Protocol::Grpc); 3]);
        let not_logs = ("OTEL_LOGS_EXPORTER", "none");
        let some = [Some(Protocol::Grpc), Some(Protocol::Grpc), None];
        assert_eq!(protocols(&[endpoint, grpc, not_logs]).expect("fine"), some);
        let only = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces");
        assert_eq!(protocols(&[only]).expect("fine"), [Some(Protocol::Http), None, None]);
        assert_eq!(
            protocols(&[("OTEL_METRICS_EXPORTER", "otlp")]).expect("fine"),
            [None, Some(Protocol::Http), None]
        );
    }

    #[test]
    fn unsupported_values_are_refused_by_name() {
        for (variables, named) in [
            (vec![("OTEL_TRACES_EXPORTER", "zipkin")], "OTEL_TRACES_EXPORTER"),
            (
                vec![
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
                ],
                "PROTOCOL",
            ),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:1")], "grpc"),
        ] {
            let error = protocols(&variables).expect_err("is refused").to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
