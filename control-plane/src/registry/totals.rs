//! Gauges of the registry's contents, under their Service-Center names.
//!
//! The registry is counted when the gauges are scraped, at most once for each revision. Service-Center leaves
//! its own service and shared ones out of these figures, and so do we.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use parking_lot::Mutex;
use shared::model::Revision;

use super::quota::Quotas;
use super::{Registry, RegistryConfig};
use crate::store::Store;
use crate::view::{Snapshot, View};

/// The most combinations of framework and tenant with series of their own. Clients can make any number of
/// them, so the rest are summed up under `other`.
const MAX_KINDS: usize = 200;
/// Every label of the series that sums up the rest.
const OTHER: &str = "other";

/// The labels of one series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesLabels {
    framework: String,
    version: String,
    domain: String,
    project: String,
}

impl SeriesLabels {
    /// The series for everything beyond the most combinations.
    fn other() -> Self {
        Self { framework: OTHER.into(), version: OTHER.into(), domain: OTHER.into(), project: OTHER.into() }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct ResourceCount {
    services: u64,
    instances: u64,
    schemas: u64,
}

#[derive(Debug, Default)]
struct Totals {
    /// The revision that was counted.
    at: Revision,
    domains: u64,
    all: ResourceCount,
    /// For each column the tenant with the most, counted as quotas count.
    fullest: ResourceCount,
    kinds: BTreeMap<SeriesLabels, ResourceCount>,
}

/// The registry as the gauges read it.
#[derive(Clone)]
struct TotalsSource {
    view: View,
    config: Arc<RegistryConfig>,
    quotas: Quotas,
    /// Weak, because the embedded store closes with its last handle, and gauges are registered for good.
    store: Weak<dyn Store>,
    last: Arc<Mutex<Arc<Totals>>>,
    instance: String,
}

impl TotalsSource {
    fn now(&self) -> Option<Arc<Totals>> {
        let snapshot = self.view.now().ok()?;
        let mut last = self.last.lock();
        // Counting visits every service, so all gauges of a scrape share one count.
        if last.at != snapshot.revision {
            *last = Arc::new(count(&self.config, &snapshot));
        }
        Some(last.clone())
    }

    fn labels(&self, labels: &SeriesLabels) -> [KeyValue; 5] {
        [
            KeyValue::new("instance", self.instance.clone()),
            KeyValue::new("framework", labels.framework.clone()),
            KeyValue::new("frameworkVersion", labels.version.clone()),
            KeyValue::new("domain", labels.domain.clone()),
            KeyValue::new("project", labels.project.clone()),
        ]
    }
}

fn count(config: &RegistryConfig, snapshot: &Snapshot) -> Totals {
    let mut totals = Totals { at: snapshot.revision, ..Totals::default() };
    let mut domains: BTreeSet<&str> = snapshot.domains.keys().map(String::as_str).collect();
    for (tenant, part) in snapshot.tenants.iter() {
        domains.insert(&tenant.domain);
        totals.fullest.services = totals.fullest.services.max(part.service_count as u64);
        totals.fullest.instances = totals.fullest.instances.max(part.instance_count as u64);
        for view in part.services.values() {
            let Some(service) = &view.service else { continue };
            if config.is_shared(tenant, &service.app_id, &service.service_name) {
                continue;
            }
            let framework = service.framework.as_ref();
            let mut labels = SeriesLabels {
                framework: framework.map(|framework| framework.name.clone()).unwrap_or_default(),
                version: framework.map(|framework| framework.version.clone()).unwrap_or_default(),
                domain: tenant.domain.clone(),
                project: tenant.project.clone(),
            };
            if totals.kinds.len() >= MAX_KINDS && !totals.kinds.contains_key(&labels) {
                labels = SeriesLabels::other();
            }
            let of_labels = totals.kinds.entry(labels).or_default();
            for count in [of_labels, &mut totals.all] {
                count.services += 1;
                count.instances += view.instances.size() as u64;
                count.schemas += view.schemas.len() as u64;
            }
        }
    }
    totals.domains = domains.len() as u64;
    totals
}

/// Registers the gauges of the registry's contents; `instance` is the address that labels this node.
pub(crate) fn register(meter: &Meter, registry: &Registry, instance: &str) {
    let source = TotalsSource {
        view: registry.view().clone(),
        config: Arc::new(registry.config().clone()),
        quotas: registry.quotas(),
        store: Arc::downgrade(registry.store()),
        last: Arc::default(),
        instance: instance.to_owned(),
    };
    by_labels(meter, &source, "service_center_db_service_total", "Gauge of microservice created", |count| {
        count.services
    });
    by_labels(meter, &source, "service_center_db_instance_total", "Gauge of instances created", |count| {
        count.instances
    });
    by_labels(meter, &source, "service_center_db_framework_total", "Gauge of client framework info", |_| 1);
    schemas(meter, source.clone());
    plain(meter, &source, "service_center_db_domain_total", "Gauge of domains created", |source| {
        Some(source.now()?.domains as f64)
    });
    plain(
        meter,
        &source,
        "service_center_db_service_usage",
        "Share of its quota of services that the fullest tenant uses",
        |source| Some(source.now()?.fullest.services as f64 / source.quotas.now().services.max(1) as f64),
    );
    plain(
        meter,
        &source,
        "service_center_db_instance_usage",
        "Share of its quota of instances that the fullest tenant uses",
        |source| Some(source.now()?.fullest.instances as f64 / source.quotas.now().instances.max(1) as f64),
    );
    plain(meter, &source, "service_center_db_sc_total", "Gauge of service center instances", |_| Some(1.0));
    plain(
        meter,
        &source,
        "service_center_db_backend_total",
        "Gauge of the members of the store that this node knows",
        |source| Some(source.store.upgrade()?.endpoints().len().max(1) as f64),
    );
    plain(meter, &source, "muster_view_services", "Services in the view, without shared ones.", |source| {
        Some(source.now()?.all.services as f64)
    });
    plain(
        meter,
        &source,
        "muster_view_instances",
        "Instances in the view, without those of shared services.",
        |source| Some(source.now()?.all.instances as f64),
    );
}

/// A gauge with one series for each combination of framework and tenant.
fn by_labels(
    meter: &Meter,
    source: &TotalsSource,
    name: &'static str,
    help: &'static str,
    read: fn(&ResourceCount) -> u64,
) {
    let source = source.clone();
    meter
        .u64_observable_gauge(name)
        .with_description(help)
        .with_callback(move |observer| {
            let Some(totals) = source.now() else { return };
            for (labels, count) in &totals.kinds {
                observer.observe(read(count), &source.labels(labels));
            }
        })
        .build();
}

/// The gauge of schemas, with one series for each tenant.
fn schemas(meter: &Meter, source: TotalsSource) {
    meter
        .u64_observable_gauge("service_center_db_schema_total")
        .with_description("Gauge of schemas created")
        .with_callback(move |observer| observe_schemas(&source, observer))
        .build();
}

fn observe_schemas(source: &TotalsSource, observer: &dyn AsyncInstrument<u64>) {
    let Some(totals) = source.now() else { return };
    // This series has no framework labels, so the counts of a tenant are added up.
    let mut tenants: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (labels, count) in &totals.kinds {
        *tenants.entry((&labels.domain, &labels.project)).or_default() += count.schemas;
    }
    for ((domain, project), count) in tenants {
        let labels = [
            KeyValue::new("instance", source.instance.clone()),
            KeyValue::new("domain", domain.to_owned()),
            KeyValue::new("project", project.to_owned()),
        ];
        observer.observe(count, &labels);
    }
}

/// A gauge with one series for this node.
fn plain(
    meter: &Meter,
    source: &TotalsSource,
    name: &'static str,
    help: &'static str,
    read: fn(&TotalsSource) -> Option<f64>,
) {
    let source = source.clone();
    let label = [KeyValue::new("instance", source.instance.clone())];
    meter
        .f64_observable_gauge(name)
        .with_description(help)
        .with_callback(move |observer| {
            if let Some(value) = read(&source) {
                observer.observe(value, &label);
            }
        })
        .build();
}
