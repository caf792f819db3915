//! An OpenTelemetry collector of a moment: takes what programs export, over gRPC and HTTP, and keeps it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// A span, in short.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The service that made it.
    pub service: String,
    /// The process that made it.
    pub process: String,
    /// Its name.
    pub name: String,
    /// Its trace, in hexadecimal.
    pub trace: String,
    /// Itself, in hexadecimal.
    pub id: String,
    /// Its parent, in hexadecimal; empty for a root.
    pub parent: String,
    /// When it began and ended, unix nanoseconds.
    pub time: (u64, u64),
    /// The names of its events.
    pub events: Vec<String>,
}

/// The exports so far.
#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Seen>,
    /// Names of metrics, by service.
    metrics: HashMap<String, Vec<String>>,
    /// Texts of log records, by service.
    logs: HashMap<String, Vec<String>>,
}

/// A collector on a port of its own; it ends when it is dropped.
pub struct Collector {
    /// The address on which it listens.
    pub address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    server: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("is bound");
        let kept = Arc::<Mutex<Kept>>::default();
        let keeper = Keeper(kept.clone());
        let grpc = tonic::service::Routes::new(TraceServiceServer::new(keeper.clone()))
            .add_service(MetricsServiceServer::new(keeper.clone()))
            .add_service(LogsServiceServer::new(keeper.clone()))
            .into_axum_router();
        let http = Router::new()
            .route("/v1/traces", post(take::<ExportTraceServiceRequest>))
            .route("/v1/metrics", post(take::<ExportMetricsServiceRequest>))
            .route("/v1/logs", post(take::<ExportLogsServiceRequest>))
            .with_state(keeper);
        let server = tokio::spawn(async move {
            axum::serve(listener, grpc.merge(http)).await.expect("a collector serves");
        });
        Self { address, kept, server }
    }

    /// The spans of a trace that have come so far.
    pub fn spans(&self, trace: &str) -> Vec<Seen> {
        self.kept.lock().spans.iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// All spans that have come so far.
    pub fn all_spans(&self) -> Vec<Seen> {
        self.kept.lock().spans.clone()
    }

    /// The names of the metrics that a service has sent so far.
    pub fn metrics(&self, service: &str) -> Vec<String> {
        self.kept.lock().metrics.get(service).cloned().unwrap_or_default()
    }

    /// The texts that a service has logged so far.
    pub fn logs(&self, service: &str) -> Vec<String> {
        self.kept.lock().logs.get(service).cloned().unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Keeper(Arc<Mutex<Kept>>);

/// An attribute of a resource.
fn attribute(resource: Option<&Resource>, key: &str) -> String {
    let attributes = resource.map(|resource| resource.attributes.clone()).unwrap_or_default();
    let name = attributes.into_iter().find(|attribute| attribute.key == key);
    name.and_then(|value| text(value.value?)).unwrap_or_default()
}

fn text(value: opentelemetry_proto::tonic::common::v1::AnyValue) -> Option<String> {
    match value.value? {
        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of an export that can be kept.
trait Keep: Message + Default + 'static {
    fn keep(self, kept: &mut Kept);
}

impl Keep for ExportTraceServiceRequest {
    fn keep(self, kept: &mut Kept) {
        for part in self.resource_spans {
            let service = attribute(part.resource.as_ref(), "service.name");
            let process = attribute(part.resource.as_ref(), "service.instance.id");
            let spans = part.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Seen {
                service: service.clone(),
                process: process.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                time: (span.start_time_unix_nano, span.end_time_unix_nano),
                events: span.events.into_iter().map(|event| event.name).collect(),
            });
            kept.spans.extend(spans);
        }
    }
}

impl Keep for ExportMetricsServiceRequest {
    fn keep(self, kept: &mut Kept) {
        for part in self.resource_metrics {
            let names =
                part.scope_metrics.into_iter().flat_map(|scope| scope.metrics).map(|metric| metric.name);
            let service = attribute(part.resource.as_ref(), "service.name");
            kept.metrics.entry(service).or_default().extend(names);
        }
    }
}

impl Keep for ExportLogsServiceRequest {
    fn keep(self, kept: &mut Kept) {
        for part in self.resource_logs {
            let records = part.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            let texts = records.filter_map(|record| text(record.body?));
            let service = attribute(part.resource.as_ref(), "service.name");
            kept.logs.entry(service).or_default().extend(texts);
        }
    }
}

async fn take<R: Keep>(State(keeper): State<Keeper>, body: Bytes) -> StatusCode {
    match R::decode(body) {
        Ok(request) => {
            request.keep(&mut keeper.0.lock());
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        request.into_inner().keep(&mut self.0.lock());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Keeper {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        request.into_inner().keep(&mut self.0.lock());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Keeper {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        request.into_inner().keep(&mut self.0.lock());
        Ok(Response::new(Default::default()))
    }
}
