//! How much there is, under the old names: counted when it is asked for, once for each revision.
//!
//! Service-Center leaves its own service and shared ones out of these figures; so do we.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use parking_lot::Mutex;
use shared::model::Revision;

use crate::registry::quota::Quotas;
use crate::registry::{Registry, RegistryConfig};
use crate::store::Store;
use crate::view::{Snapshot, View};

/// Combinations of framework and tenant with series of their own; the rest, which clients can make as many of as
/// they like, is told in one sum.
const KINDS_TOLD: usize = 200;

/// A combination of labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    framework: String,
    version: String,
    domain: String,
    project: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    services: u64,
    instances: u64,
    schemas: u64,
}

#[derive(Debug, Default)]
struct Totals {
    at: Revision,
    domains: u64,
    all: Count,
    /// The most that a tenant has of each, as quotas count.
    fullest: Count,
    kinds: BTreeMap<Kind, Count>,
}

/// Where figures of the registry come from.
#[derive(Clone)]
struct Source {
    view: View,
    config: Arc<RegistryConfig>,
    quotas: Quotas,
    /// Not held: a store ends with its last handle, and figures are asked for until the end.
    store: Weak<dyn Store>,
    last: Arc<Mutex<Arc<Totals>>>,
    instance: String,
}

impl Source {
    fn now(&self) -> Option<Arc<Totals>> {
        let snapshot = self.view.now().ok()?;
        let mut last = self.last.lock();
        if last.at != snapshot.revision {
            *last = Arc::new(count(&self.config, &snapshot));
        }
        Some(last.clone())
    }

    fn labels(&self, kind: &Kind) -> [KeyValue; 5] {
        [
            KeyValue::new("instance", self.instance.clone()),
            KeyValue::new("framework", kind.framework.clone()),
            KeyValue::new("frameworkVersion", kind.version.clone()),
            KeyValue::new("domain", kind.domain.clone()),
            KeyValue::new("project", kind.project.clone()),
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
            let kind = Kind {
                framework: framework.map(|it| it.name.clone()).unwrap_or_default(),
                version: framework.map(|it| it.version.clone()).unwrap_or_default(),
                domain: tenant.domain.clone(),
                project: tenant.project.clone(),
            };
            let known = totals.kinds.contains_key(&kind) || totals.kinds.len() < KINDS_TOLD;
            let other = || "other".to_owned();
            let kind = if known {
                kind
            } else {
                Kind { framework: other(), version: other(), domain: other(), project: other() }
            };
            let of_kind = totals.kinds.entry(kind).or_default();
            for count in [of_kind, &mut totals.all] {
                count.services += 1;
                count.instances += view.instances.size() as u64;
                count.schemas += view.schemas.len() as u64;
            }
        }
    }
    totals.domains = domains.len() as u64;
    totals
}

/// Makes the gauges; `instance` is the address that labels this node.
pub fn observe_totals(meter: &Meter, registry: &Registry, instance: &str) {
    let source = Source {
        view: registry.view().clone(),
        config: Arc::new(registry.config().clone()),
        quotas: registry.quotas(),
        store: Arc::downgrade(registry.store()),
        last: Arc::default(),
        instance: instance.to_owned(),
    };
    let by_kind = |name: &'static str, help: &'static str, read: fn(&Count) -> u64| {
        let source = source.clone();
        let observe = move |observer: &dyn AsyncInstrument<u64>| {
            let Some(totals) = source.now() else { return };
            for (kind, count) in &totals.kinds {
                observer.observe(read(count), &source.labels(kind));
            }
        };
        meter.u64_observable_gauge(name).with_description(help).with_callback(observe).build();
    };
    by_kind("service_center_db_service_total", "Gauge of microservice created", |it| it.services);
    by_kind("service_center_db_instance_total", "Gauge of instances created", |it| it.instances);
    by_kind("service_center_db_framework_total", "Gauge of client framework info", |_| 1);

    let schemas = source.clone();
    meter
        .u64_observable_gauge("service_center_db_schema_total")
        .with_description("Gauge of schemas created")
        .with_callback(move |observer| {
            let Some(totals) = schemas.now() else { return };
            let mut tenants: BTreeMap<(&str, &str), u64> = BTreeMap::new();
            for (kind, count) in &totals.kinds {
                *tenants.entry((&kind.domain, &kind.project)).or_default() += count.schemas;
            }
            for ((domain, project), count) in tenants {
                let labels = [
                    KeyValue::new("instance", schemas.instance.clone()),
                    KeyValue::new("domain", domain.to_owned()),
                    KeyValue::new("project", project.to_owned()),
                ];
                observer.observe(count, &labels);
            }
        })
        .build();

    let plain = |name: &'static str, help: &'static str, read: fn(&Source) -> Option<f64>| {
        let source = source.clone();
        let label = [KeyValue::new("instance", source.instance.clone())];
        let observe = move |observer: &dyn AsyncInstrument<f64>| {
            if let Some(value) = read(&source) {
                observer.observe(value, &label);
            }
        };
        meter.f64_observable_gauge(name).with_description(help).with_callback(observe).build();
    };
    plain("service_center_db_domain_total", "Gauge of domains created", |it| Some(it.now()?.domains as f64));
    plain(
        "service_center_db_service_usage",
        "Share of its quota of services that the fullest tenant uses",
        |it| Some(it.now()?.fullest.services as f64 / it.quotas.now().services.max(1) as f64),
    );
    plain(
        "service_center_db_instance_usage",
        "Share of its quota of instances that the fullest tenant uses",
        |it| Some(it.now()?.fullest.instances as f64 / it.quotas.now().instances.max(1) as f64),
    );
    plain("service_center_db_sc_total", "Gauge of service center instances", |_| Some(1.0));
    plain(
        "service_center_db_backend_total",
        "Gauge of the members of the store that this node knows",
        |it| Some(it.store.upgrade()?.endpoints().len().max(1) as f64),
    );
    plain("muster_view_services", "Services in the view, shared ones excepted.", |it| {
        Some(it.now()?.all.services as f64)
    });
    plain("muster_view_instances", "Instances in the view, those of shared services excepted.", |it| {
        Some(it.now()?.all.instances as f64)
    });
}
