//! A control plane over an embedded store. Requests reach it without a socket.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "the targets of the fuzzer use a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bus::Bus;
use bus::local::LocalBus;
use control_plane::app::{App, Parts};
use control_plane::settings::Config;
use control_plane::store::Store;
use control_plane::store::embedded::{EmbeddedConfig, EmbeddedStore};
use control_plane::view::{View, interest};
use host::admin::Readiness;
use host::admin::access::AccessControl;
use host::audit::{Audit, AuditConfig};
use host::figures::sampler::Sampler;
use host::http::HeldBytes;
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use shared::model::{Revision, ServiceRef, Tenant};

pub struct Probe {
    app: App,
    tasks: Tasks,
    metrics: Metrics,
    bus: Arc<dyn Bus>,
    _directory: Option<tempfile::TempDir>,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The memory that the answer says to hold.
    pub held: Option<HeldBytes>,
}

impl Probe {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut probe = Self::start_in(directory.path()).await;
        probe._directory = Some(directory);
        probe
    }

    /// With settings given as environment variables.
    pub async fn start_with(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut probe = Self::start_configured(directory.path(), variables).await;
        probe._directory = Some(directory);
        probe
    }

    pub async fn start_in(directory: &Path) -> Self {
        Self::start_configured(directory, &[]).await
    }

    /// With a store that `wrap` puts around the embedded one.
    pub async fn start_over(wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut probe = Self::start_wrapped(directory.path(), &[], wrap).await;
        probe._directory = Some(directory);
        probe
    }

    pub async fn start_configured(directory: &Path, variables: &[(&str, &str)]) -> Self {
        Self::start_wrapped(directory, variables, |store| store).await
    }

    pub async fn start_wrapped(
        directory: &Path,
        variables: &[(&str, &str)],
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        let mut sources = settings::Sources::default();
        for (name, value) in variables {
            sources = sources.with_variable(name, *value);
        }
        let tasks = Tasks::new();
        let store = EmbeddedStore::open(directory.join("registry.redb"), EmbeddedConfig::default(), &tasks);
        let metrics = Metrics::new([]).expect("metrics");
        let readiness = Readiness::new(&tasks);
        let mut config = settings::parse::<Config>(&sources).expect("settings are right");
        config.rbac.open_keys(directory).expect("keys");
        let audit = AuditConfig {
            file: config.rbac.enabled.then(|| directory.join(host::audit::FILE_NAME)),
            max_size: 64 << 20,
            keep: 1,
            reads: false,
        };
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
        let parts = Parts {
            store: wrap(store.expect("the store opens")),
            bus: bus.clone(),
            config,
            listening: "127.0.0.1:30100".parse().expect("an address"),
            secure: false,
            meter: metrics.meter("control-plane"),
            readiness: readiness.clone(),
            audit: Audit::open(&audit, &metrics.meter("audit"), &tasks).expect("the file opens"),
            sampler: Sampler::new(metrics.clone()),
        };
        let app = App::build(parts, &tasks);
        let probe = Self { app, tasks, metrics, bus, _directory: None };
        // A node has started once it is registered in the registry itself.
        let mut revisions = probe.app.view.revisions();
        while !probe.send("GET", "/health", &[], String::new()).await.text().contains("instances") {
            revisions.changed().await.expect("the view lives");
        }
        probe
    }

    pub async fn stop(self) {
        self.tasks.drain().cancel();
        let App { service, registry, view, role, drain } = self.app;
        drain.finish().await;
        // The store closes with its last handle.
        drop((service, registry, view, role));
        assert!(self.tasks.finish(Duration::from_secs(10)).await, "everything ends");
    }

    /// The metrics in Prometheus' text format.
    pub fn figures(&self) -> String {
        self.metrics.render()
    }

    /// The bus on which it answers gateways.
    pub fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// Follows the view.
    pub fn revisions(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.app.view.revisions()
    }

    /// The store behind the registry.
    pub fn store(&self) -> &dyn Store {
        &**self.app.registry.store()
    }

    /// The ids of the providers whose changes a consumer's watch delivers.
    pub fn providers_in(&self, domain: &str, consumer: &str) -> Vec<String> {
        let consumer = ServiceRef::new(Tenant::new(domain, "default"), consumer);
        let snapshot = self.app.view.now().expect("listed");
        let providers = interest::providers(&snapshot, &consumer).expect("the consumer exists");
        providers.into_iter().map(|provider| provider.id).collect()
    }

    /// Access control, as the admin port asks it.
    pub fn access_control(&self) -> Arc<dyn AccessControl> {
        self.app.service.access_control()
    }

    /// The view that the registry reads.
    pub fn view(&self) -> &View {
        &self.app.view
    }

    /// Number of held instances that are not recorded in the store yet.
    pub fn unrecorded(&self) -> usize {
        self.app.view.now().map_or(0, |snapshot| snapshot.unrecorded.size())
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let response = self.app.service.clone().answer(request).await;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let held = response.extensions().get::<HeldBytes>().cloned();
        let body = response.into_body().collect().await.expect("a body").to_bytes().to_vec();
        Answer { status, headers, body, held }
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/v4/default/registry{path}"), &[], body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &Value::Null).await
    }

    pub async fn get_as(&self, consumer: &str, path: &str) -> Answer {
        let path = format!("/v4/default/registry{path}");
        self.send("GET", &path, &[("X-ConsumerId", consumer)], String::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, &Value::Null).await
    }

    /// Registers a service and returns its id.
    pub async fn service(&self, service: Value) -> String {
        let answer = self.post("/microservices", &json!({ "service": service })).await.ok();
        answer["serviceId"].as_str().expect("an id").to_owned()
    }

    /// Registers an instance and returns its id.
    pub async fn instance(&self, service: &str, instance: Value) -> String {
        let path = format!("/microservices/{service}/instances");
        let answer = self.post(&path, &json!({ "instance": instance })).await.ok();
        answer["instanceId"].as_str().expect("an id").to_owned()
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json; charset=UTF-8"));
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// A success without a result.
    #[track_caller]
    pub fn empty(self) {
        assert_eq!((self.status, self.text().as_str()), (200, ""));
    }

    /// The JSON of a refusal that has this code.
    #[track_caller]
    pub fn refused(self, code: &str) -> Value {
        let body: Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()));
        assert_eq!(body["errorCode"], code, "{body}");
        assert_eq!(self.status.to_string(), code[..3], "{body}");
        body
    }

    /// The body of a 503: nothing was changed, and the client is told to come back after a time of chance.
    pub fn not_now(self) -> Value {
        assert_eq!(self.status, 503, "{}", self.text());
        let wait: u32 = self.header("retry-after").and_then(|value| value.parse().ok()).expect("a number");
        assert!((1..=3).contains(&wait), "{wait}");
        let body: Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()));
        assert_eq!(body["errorCode"], "500011", "{body}");
        body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The revision of the result.
    #[track_caller]
    pub fn revision(&self) -> String {
        let revision = self.header("x-resource-revision").unwrap_or_default();
        assert!(!revision.is_empty(), "{} {}", self.status, self.text());
        revision.to_owned()
    }
}
