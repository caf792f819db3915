//! Gauges that read the view when they are scraped.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::shifts::ShiftState;
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
    gauge(meter, view, "muster_overrides", "Overrides of operators that are in force.", |view| {
        sum_over_services(view, |service| in_force(service, false))
    });
    gauge(meter, view, "muster_drains", "Instances that drains keep out of the traffic.", |view| {
        sum_over_services(view, |service| in_force(service, true))
    });
    let of_states = view.clone();
    meter
        .u64_observable_gauge("muster_shifts")
        .with_description("Shifts by state; interrupted ones have paused by themselves.")
        .with_callback(move |observer| {
            for (state, count) in shifts(&of_states) {
                observer.observe(count, &[KeyValue::new("state", state)]);
            }
        })
        .build();
    let view = view.clone();
    meter
        .u64_observable_counter("muster_view_skipped_values_total")
        .with_description("Stored values that could not be decoded and were skipped.")
        .with_callback(move |observer| observer.observe(view.skipped(), &[]))
        .build();
}

fn shifts(view: &View) -> [(&'static str, u64); 4] {
    let mut counts = ["running", "paused", "interrupted", "done"].map(|state| (state, 0));
    let Ok(snapshot) = view.now() else { return counts };
    for entry in snapshot.tenants.values().flat_map(|tenant| tenant.shifts.values()) {
        let index = match entry.record.state {
            ShiftState::Running => 0,
            ShiftState::Paused if entry.record.obstacle.is_empty() => 1,
            ShiftState::Paused => 2,
            ShiftState::Done => 3,
            ShiftState::Undone => continue,
        };
        counts[index].1 += 1;
    }
    counts
}

/// The overrides of a service that are in force: drains, or all others.
fn in_force(service: &ServiceView, drains: bool) -> u64 {
    let records = service.overrides.values().map(|entry| &entry.record);
    records.filter(|record| record.is_in_force() && record.target.drain == drains).count() as u64
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
