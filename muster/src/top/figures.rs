//! The activity of one process, from two scrapes of its metrics. Pure.

use host::telemetry::scrape::Scrape;
use serde::Serialize;

/// The figures of one process. Those that the process does not have are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// The plane, and the publisher's seat.
    pub(crate) role: &'static str,
    /// Open watches.
    pub(crate) watchers: Option<f64>,
    /// Events written to watchers.
    pub(crate) pushes_per_second: Option<f64>,
    /// From the commit of a change to its write, 99th percentile.
    pub(crate) push_p99_ms: Option<f64>,
    /// Pushes that wait to be written.
    pub(crate) pending: Option<f64>,
    /// Providers whose state was requested again.
    pub(crate) resyncs_per_second: Option<f64>,
    /// Requests answered, or forwarded by a gateway.
    pub(crate) requests_per_second: Option<f64>,
    /// The revision that the process has reached.
    pub(crate) revision: Option<f64>,
    /// CPU time per second.
    pub(crate) cores: Option<f64>,
    /// Resident memory.
    pub(crate) memory_mib: Option<f64>,
    /// Times that a watcher did not take everything that was pending.
    pub(crate) slow_per_minute: Option<f64>,
    /// Times that a watcher fell so far behind that its events are merged.
    pub(crate) merging_per_minute: Option<f64>,
    /// Events merged into later ones.
    pub(crate) merged_per_minute: Option<f64>,
    /// Time since the last bookmark.
    pub(crate) staleness_seconds: Option<f64>,
    /// Messages that wait for the fullest shard.
    pub(crate) shard_queue: Option<f64>,
    /// The version of the program.
    pub(crate) release: Option<String>,
}

impl Figures {
    /// The figures at a scrape. Rates are those since the scrape `before`, which is so many seconds older;
    /// without one there are none.
    pub(crate) fn of(scrape: &Scrape, before: Option<(&Scrape, f64)>) -> Self {
        const START: &str = "process_start_time_seconds";
        let nothing = Scrape::default();
        let before = before.map(|(before, seconds)| {
            // The counters of another process say nothing about this one.
            let is_same = before.sum(START, "") == scrape.sum(START, "");
            (if is_same { before } else { &nothing }, seconds)
        });
        let rate = |name: &str, labels: &str| {
            let now = scrape.sum(name, labels)?;
            let (before, seconds) = before?;
            Some(increase(before.sum(name, labels), now) / seconds.max(1e-3))
        };
        let per_minute = |name: &str| rate(name, "").map(|rate| rate * 60.0);
        let lag = before
            .and_then(|(before, _)| scrape.quantile_since(before, "muster_edge_event_lag_seconds", 0.99));
        let memory = scrape.sum("process_resident_memory_bytes", "");
        Self {
            role: role(scrape),
            watchers: scrape.sum("muster_edge_sessions", ""),
            pushes_per_second: rate("service_center_notify_publish_total", "status=\"SUCCESS\""),
            // Beyond the largest bucket there is no figure to show.
            push_p99_ms: lag.filter(|lag| lag.is_finite()).map(|lag| lag * 1e3),
            pending: scrape.sum("service_center_notify_pending_total", ""),
            resyncs_per_second: rate("muster_edge_resyncs_total", ""),
            // A gateway counts the requests that it forwards; it does not answer any itself.
            requests_per_second: rate("service_center_http_request_total", "")
                .or_else(|| rate("muster_edge_forwarded_total", "")),
            revision: scrape
                .sum("muster_view_revision", "")
                .or_else(|| scrape.sum("muster_edge_revision", "")),
            cores: rate("process_cpu_seconds_total", ""),
            memory_mib: memory.map(|bytes| bytes / f64::from(1 << 20)),
            slow_per_minute: per_minute("muster_edge_slow_watchers_total"),
            merging_per_minute: per_minute("muster_edge_merging_watchers_total"),
            merged_per_minute: per_minute("muster_edge_events_merged_total"),
            staleness_seconds: scrape.sum("muster_edge_staleness_seconds", ""),
            shard_queue: scrape.sum("muster_edge_shard_queue_depth", ""),
            release: scrape.label("muster_build_info", "version").map(str::to_owned),
        }
    }

    /// The rate that a process of this role is there for.
    pub(crate) fn main_rate(&self) -> Option<f64> {
        self.pushes_per_second.or(self.requests_per_second)
    }
}

/// The growth of a counter. One that has become smaller began at zero again.
fn increase(before: Option<f64>, now: f64) -> f64 {
    match before {
        Some(before) if before <= now => now - before,
        _ => now.max(0.0),
    }
}

/// The role of a process, by the metrics that only one of the planes has.
fn role(scrape: &Scrape) -> &'static str {
    let publishes = scrape.sum("muster_publisher_active", "");
    let watchers = scrape.sum("muster_edge_sessions", "");
    match (publishes, watchers) {
        (Some(_), Some(_)) => "both",
        (Some(active), None) if active > 0.0 => "publisher",
        (Some(_), None) => "control",
        (None, Some(_)) => "edge",
        (None, None) => "?",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scrape(start: u32, pushes: u32, requests: u32) -> Scrape {
        Scrape::parse(&format!(
            "process_start_time_seconds {start}\nmuster_edge_sessions 7\nmuster_edge_forwarded_total {requests}\n\
             service_center_notify_publish_total{{status=\"SUCCESS\"}} {pushes}\n\
             muster_edge_event_lag_seconds_bucket{{le=\"0.01\"}} {pushes}\n\
             muster_edge_event_lag_seconds_bucket{{le=\"+Inf\"}} {pushes}\n"
        ))
    }

    #[test]
    fn the_first_scrape_has_no_rates() {
        let figures = Figures::of(&scrape(1, 1_000_000, 5), None);
        assert_eq!((figures.role, figures.watchers), ("edge", Some(7.0)));
        assert_eq!((figures.pushes_per_second, figures.push_p99_ms, figures.cores), (None, None, None));
    }

    #[test]
    fn a_restart_between_two_scrapes_counts_from_zero() {
        let before = scrape(1, 1000, 1000);
        let figures = Figures::of(&scrape(2, 1010, 6), Some((&before, 2.0)));
        assert_eq!(figures.pushes_per_second, Some(505.0), "all pushes are those of the new process");
        assert_eq!(figures.requests_per_second, Some(3.0));
        assert_eq!(figures.push_p99_ms, Some(10.0), "its histogram is a new one too");
    }

    proptest! {
        #[test]
        fn rates_are_never_negative_nor_more_than_counted(
            before in 0u32..1000, now in 0u32..1000, start in 0u32..2, seconds in 1u32..100,
        ) {
            let earlier = scrape(0, before, before);
            let figures = Figures::of(&scrape(start, now, now), Some((&earlier, f64::from(seconds))));
            let rate = figures.pushes_per_second.expect("is counted");
            prop_assert!(rate >= 0.0 && rate * f64::from(seconds) <= f64::from(now) + 1e-6);
            if start == 0 && now >= before {
                prop_assert!((rate * f64::from(seconds) - f64::from(now - before)).abs() < 1e-6);
            }
        }
    }
}
