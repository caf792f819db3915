//! Metrics, traces and logs for an OpenTelemetry collector, as the standard variables `OTEL_*` say.
//!
//! Off unless an endpoint or an exporter is named. What is on never keeps anyone waiting: spans and log records go
//! into bounded queues, which lose what comes when they are full and count it; threads of the exporters empty them.
//! Two protocols: gRPC (with TLS for `https`), and HTTP with protobuf, without TLS.

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

/// Of a hundred requests that no client has decided about, one is traced, unless `OTEL_TRACES_SAMPLER` says otherwise.
const SAMPLED: f64 = 0.01;
/// Spans, or log records, that may wait for the exporter; more are lost and counted.
const QUEUE: usize = 4096;
/// How long handing over what is left may take at the end, for each signal.
const DRAIN: Duration = Duration::from_secs(3);

/// What the environment says.
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

/// How a signal is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Grpc,
    Http,
}

/// Whether a signal is exported, and how.
///
/// # Errors
/// When a variable has a value that we do not know.
pub(super) fn way(signal: Signal, lookup: Lookup<'_>) -> Result<Option<Way>, TelemetryError> {
    let set = |name: String| lookup(&name).map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
    let unknown = |name: &str, value: &str, expected: &'static str| {
        TelemetryError::Variable(name.to_owned(), value.to_owned(), expected)
    };
    if set("OTEL_SDK_DISABLED".to_owned()).is_some_and(|it| it.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let word = signal.word();
    let of_signal = |end: &str| set(format!("OTEL_EXPORTER_OTLP_{word}_{end}"));
    let of_all = |end: &str| set(format!("OTEL_EXPORTER_OTLP_{end}"));
    let exporter = format!("OTEL_{word}_EXPORTER");
    let wanted = match set(exporter.clone()).as_deref() {
        Some("otlp") => true,
        // Our figures are always there to be scraped.
        Some("none" | "prometheus") => false,
        Some(other) => return Err(unknown(&exporter, other, "otlp or none")),
        None => of_signal("ENDPOINT").or(of_all("ENDPOINT")).is_some(),
    };
    if !wanted {
        return Ok(None);
    }
    let protocol = format!("OTEL_EXPORTER_OTLP_{word}_PROTOCOL");
    match of_signal("PROTOCOL").or(of_all("PROTOCOL")).as_deref() {
        Some("grpc") => Ok(Some(Way::Grpc)),
        None | Some("http/protobuf") => {
            let endpoint = of_signal("ENDPOINT").or(of_all("ENDPOINT"));
            match endpoint.filter(|it| it.starts_with("https:")) {
                None => Ok(Some(Way::Http)),
                Some(endpoint) => Err(unknown(
                    "OTEL_EXPORTER_OTLP_ENDPOINT",
                    &endpoint,
                    "an http:// address; for https:// set OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
                )),
            }
        }
        Some(other) => Err(unknown(&protocol, other, "grpc or http/protobuf")),
    }
}

/// Who the process is, to the collector: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else its own name.
pub(super) fn resource(service: &'static str, lookup: Lookup<'_>) -> Resource {
    let named = lookup("OTEL_SERVICE_NAME").is_some_and(|it| !it.is_empty())
        || lookup("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|it| it.contains("service.name="));
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", format!("{:016x}", fastrand::u64(..))));
    if named { resource.build() } else { resource.with_service_name(service).build() }
}

/// Why an exporter is not to be had.
fn refused(error: &dyn std::fmt::Display) -> TelemetryError {
    TelemetryError::Exporter(error.to_string())
}

/// TLS for gRPC: the system's authorities, or those of `OTEL_EXPORTER_OTLP_CERTIFICATE`. Only used for `https`.
fn tls(lookup: Lookup<'_>) -> Result<ClientTlsConfig, TelemetryError> {
    let Some(path) = lookup("OTEL_EXPORTER_OTLP_CERTIFICATE").filter(|it| !it.is_empty()) else {
        return Ok(ClientTlsConfig::new().with_enabled_roots());
    };
    let pem = std::fs::read(&path).map_err(|error| {
        TelemetryError::Exporter(format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {path} cannot be read: {error}"))
    })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// Metrics, sent as often as `OTEL_METRIC_EXPORT_INTERVAL` says. Needs a runtime.
pub(super) fn metrics(lookup: Lookup<'_>) -> Result<Option<PeriodicReader<MetricExporter>>, TelemetryError> {
    let exporter = match way(Signal::Metrics, lookup)? {
        None => return Ok(None),
        Some(Way::Grpc) => MetricExporter::builder().with_tonic().with_tls_config(tls(lookup)?).build(),
        Some(Way::Http) => MetricExporter::builder().with_http().with_http_client(Client::new()).build(),
    };
    Ok(Some(PeriodicReader::builder(exporter.map_err(|it| refused(&it))?).build()))
}

/// Traces. Needs a runtime.
pub(super) fn traces(
    lookup: Lookup<'_>,
    resource: &Resource,
    meter: &Meter,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let exporter = match way(Signal::Traces, lookup)? {
        None => return Ok(None),
        Some(Way::Grpc) => SpanExporter::builder().with_tonic().with_tls_config(tls(lookup)?).build(),
        Some(Way::Http) => SpanExporter::builder().with_http().with_http_client(Client::new()).build(),
    };
    let counts = Counts::new(meter, "traces", QUEUE);
    let exporter = Bounded::new(exporter.map_err(|it| refused(&it))?, counts.clone());
    // Ours is the bound that counts: the queue behind it is longer, so it never loses anything unseen.
    let config = SpanBatch::default().with_max_queue_size(2 * QUEUE).build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_span_processor(Bounded::new(processor, counts));
    Ok(Some(sampled(provider, lookup).build()))
}

fn sampled(provider: TracerProviderBuilder, lookup: Lookup<'_>) -> TracerProviderBuilder {
    match lookup("OTEL_TRACES_SAMPLER").filter(|it| !it.is_empty()) {
        // The library reads it, and its argument.
        Some(_) => provider,
        None => provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(SAMPLED)))),
    }
}

/// Log records. Needs a runtime.
pub(super) fn logs(
    lookup: Lookup<'_>,
    resource: &Resource,
    meter: &Meter,
) -> Result<Option<SdkLoggerProvider>, TelemetryError> {
    let exporter = match way(Signal::Logs, lookup)? {
        None => return Ok(None),
        Some(Way::Grpc) => LogExporter::builder().with_tonic().with_tls_config(tls(lookup)?).build(),
        Some(Way::Http) => LogExporter::builder().with_http().with_http_client(Client::new()).build(),
    };
    let counts = Counts::new(meter, "logs", QUEUE);
    let exporter = Bounded::new(exporter.map_err(|it| refused(&it))?, counts.clone());
    let config = LogBatch::default().with_max_queue_size(2 * QUEUE).build();
    let processor = BatchLogProcessor::builder(exporter).with_batch_config(config).build();
    let provider = SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_log_processor(Bounded::new(processor, counts));
    Ok(Some(provider.build()))
}

/// How long the end may take, for each signal.
pub(super) fn drain() -> Duration {
    DRAIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(variables: &[(&str, &str)]) -> Result<Vec<Option<Way>>, TelemetryError> {
        let lookup =
            |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
        [Signal::Traces, Signal::Metrics, Signal::Logs].into_iter().map(|it| way(it, &lookup)).collect()
    }

    #[test]
    fn nothing_is_exported_unless_someone_says_where_or_how() {
        assert_eq!(ways(&[]).expect("fine"), [None; 3]);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(ways(&[endpoint]).expect("fine"), [Some(Way::Http); 3]);
        assert_eq!(ways(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).expect("fine"), [None; 3]);
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert_eq!(ways(&[endpoint, grpc]).expect("fine"), [Some(Way::Grpc); 3]);
        let not_logs = ("OTEL_LOGS_EXPORTER", "none");
        let some = [Some(Way::Grpc), Some(Way::Grpc), None];
        assert_eq!(ways(&[endpoint, grpc, not_logs]).expect("fine"), some);
        let only = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces");
        assert_eq!(ways(&[only]).expect("fine"), [Some(Way::Http), None, None]);
        assert_eq!(ways(&[("OTEL_METRICS_EXPORTER", "otlp")]).expect("fine"), [None, Some(Way::Http), None]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_named() {
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
            let error = ways(&variables).expect_err("is refused").to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
