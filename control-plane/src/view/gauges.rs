//! Gauges that read the view when they are scraped.

use opentelemetry::metrics::Meter;

use super::{ServiceView, View};

/// Registers the gauges of the view with `meter`.
pub fn register(meter: &Meter, view: &View) {
    gauge(meter, view, "muster_view_revision", "Revision of the view; 0 until the first list.", |view| {
        view.now().map_or(0, |snapshot| snapshot.revision.get())
    });
    gauge(meter, view, "muster_view_history_changes", "Changes kept in the history for replays.", |view| {
        view.history().len() as u64
    });
    gauge(meter, view, "muster_view_history_bytes", "Approximate size of the history.", |view| {
        view.history().bytes() as u64
    });
    gauge(meter, view, "muster_protection_held_instances", "Expired instances that are held.", |view| {
        sum_over_services(view, |service| service.held.size() as u64)
    });
    gauge(meter, view, "muster_protection_services", "Services that hold expired instances.", |view| {
        sum_over_services(view, |service| u64::from(service.held.size() > 0))
    });
    let view = view.clone();
    meter
        .u64_observable_counter("muster_view_skipped_values_total")
        .with_description("Stored values that could not be decoded and were skipped.")
        .with_callback(move |observer| observer.observe(view.skipped(), &[]))
        .build();
}

fn gauge(meter: &Meter, view: &View, name: &'static str, help: &'static str, read: fn(&View) -> u64) {
    let view = view.clone();
    meter
        .u64_observable_gauge(name)
        .with_description(help)
        .with_callback(move |observer| observer.observe(read(&view), &[]))
        .build();
}

fn sum_over_services(view: &View, read: fn(&ServiceView) -> u64) -> u64 {
    let Ok(snapshot) = view.now() else { return 0 };
    let services = snapshot.tenants.values().flat_map(|tenant| tenant.services.values());
    services.map(|service| read(service)).sum()
}
