//! The activity of one process, from two scrapes of its metrics. Pure, but for [`sampler`].
//!
//! In: the metrics of a process, its own or those that another one has answered with. Out: its [`Figures`],
//! which `muster top` shows, and the form in which processes tell each other and people of them
//! ([`sampler::ProcessFigures`]). All of them are therefore the same figures.

use serde::{Deserialize, Serialize};

use crate::telemetry::scrape::Scrape;

mod dialects;
pub mod sampler;

pub use dialects::DialectFigures;

/// The stages of a change on its way to a watcher, and that of a request through a gateway: a name, and the
/// histogram of seconds that the process has if the stage is its own.
pub const STAGES: [(&str, &str); 6] = [
    ("commit", "muster_commit_to_view_seconds"),
    ("publish", "muster_publisher_lag_seconds"),
    ("bus", "muster_edge_bus_lag_seconds"),
    ("write", "muster_edge_write_lag_seconds"),
    ("total", TOTAL),
    ("forward", "muster_edge_forward_seconds"),
];
/// An earlier scrape, and the seconds since then.
type Window<'a> = (&'a Scrape, f64);

const TOTAL: &str = "muster_edge_event_lag_seconds";
const START: &str = "process_start_time_seconds";

/// The latency of one stage, between two scrapes. In JSON the keys are in camel case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageFigures {
    /// One of [`STAGES`]; a later version may have others.
    pub stage: String,
    /// The observations. A stage without any has no figures.
    pub count: u64,
    /// The median, in milliseconds: the upper bound of the bucket that holds it. Absent beyond the largest
    /// bucket, which ends at ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// The 99th percentile, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// The figures of one process. Those that the process does not have are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The plane, and the publisher's seat.
    pub role: &'static str,
    /// Open watches.
    pub watchers: Option<f64>,
    /// Events written to watchers.
    pub pushes_per_second: Option<f64>,
    /// From the commit of a change to its write, 99th percentile.
    pub push_p99_ms: Option<f64>,
    /// Pushes that wait to be written.
    pub pending: Option<f64>,
    /// Providers whose state was requested again.
    pub resyncs_per_second: Option<f64>,
    /// Requests answered, or forwarded by a gateway.
    pub requests_per_second: Option<f64>,
    /// The revision that the process has reached.
    pub revision: Option<f64>,
    /// CPU time per second.
    pub cores: Option<f64>,
    /// Resident memory.
    pub memory_mib: Option<f64>,
    /// Times that a watcher did not take everything that was pending.
    pub slow_per_minute: Option<f64>,
    /// Times that a watcher fell so far behind that its events are merged.
    pub merging_per_minute: Option<f64>,
    /// Events merged into later ones.
    pub merged_per_minute: Option<f64>,
    /// Time since the last bookmark.
    pub staleness_seconds: Option<f64>,
    /// Messages that wait for the fullest shard.
    pub shard_queue: Option<f64>,
    /// Times that a gateway's state differed from a control plane's, since the process began. Each was
    /// repaired, and there should be none.
    pub divergences: Option<f64>,
    /// Open connections of the listeners, without those that have become WebSockets.
    pub connections: Option<f64>,
    /// The latency of each stage that the process has observed since the scrape before.
    pub stages: Vec<StageFigures>,
    /// The dialects that have been used since the process began.
    pub dialects: Vec<DialectFigures>,
    /// The version of the program.
    pub release: Option<String>,
}

impl Figures {
    /// The figures at a scrape. Rates are those since the scrape `before`, which is so many seconds older;
    /// without one there are none.
    pub fn of(scrape: &Scrape, before: Option<Window<'_>>) -> Self {
        let nothing = Scrape::default();
        let before = before.map(|(before, seconds)| {
            // The counters of another process say nothing about this one.
            let is_same = before.sum(START, "") == scrape.sum(START, "");
            (if is_same { before } else { &nothing }, seconds)
        });
        let rate = |name: &str, labels: &str| per_second(scrape, before, name, labels);
        let per_minute = |name: &str| rate(name, "").map(|rate| rate * 60.0);
        let stages = before.map_or_else(Vec::new, |(before, _)| stages(scrape, before));
        let total = stages.iter().find(|stage| stage.stage == "total");
        let memory = scrape.sum("process_resident_memory_bytes", "");
        Self {
            role: role(scrape),
            watchers: scrape.sum("muster_edge_sessions", ""),
            pushes_per_second: rate("service_center_notify_publish_total", "status=\"SUCCESS\""),
            push_p99_ms: total.and_then(|total| total.p99_ms),
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
            divergences: scrape
                .sum("muster_edge_resyncs_total", "cause=\"digest\"")
                // The series begins with the first one.
                .or_else(|| scrape.sum("muster_edge_sessions", "").map(|_| 0.0)),
            connections: scrape.sum("muster_http_connections", ""),
            stages,
            dialects: dialects::of(scrape, before),
            release: scrape.label("muster_build_info", "version").map(str::to_owned),
        }
    }

    /// The 99th percentile of a stage, in milliseconds.
    pub fn p99_of(&self, stage: &str) -> Option<f64> {
        self.stages.iter().find(|known| known.stage == stage)?.p99_ms
    }

    /// The rate that a process of this role is there for.
    pub fn main_rate(&self) -> Option<f64> {
        self.pushes_per_second.or(self.requests_per_second)
    }
}

fn stages(scrape: &Scrape, before: &Scrape) -> Vec<StageFigures> {
    let of_stage = |(stage, metric): (&str, &str)| {
        let quantile = |share| {
            // Beyond the largest bucket there is no figure to show.
            scrape.quantile_since(before, metric, share).filter(|bound| bound.is_finite()).map(|s| s * 1e3)
        };
        let observed = |scrape: &Scrape| scrape.sum(&format!("{metric}_count"), "");
        let count = increase(observed(before), observed(scrape)?) as u64;
        let figures =
            || StageFigures { stage: stage.to_owned(), count, p50_ms: quantile(0.5), p99_ms: quantile(0.99) };
        (count > 0).then(figures)
    };
    STAGES.into_iter().filter_map(of_stage).collect()
}

/// The series that figures are made of, besides the histograms of [`STAGES`] and those of dialects.
const SERIES: [&str; 19] = [
    START,
    "muster_build_info",
    "muster_edge_events_merged_total",
    "muster_edge_forwarded_total",
    "muster_edge_merging_watchers_total",
    "muster_edge_resyncs_total",
    "muster_edge_revision",
    "muster_edge_sessions",
    "muster_edge_shard_queue_depth",
    "muster_edge_slow_watchers_total",
    "muster_edge_staleness_seconds",
    "muster_http_connections",
    "muster_publisher_active",
    "muster_view_revision",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "service_center_http_request_total",
    "service_center_notify_pending_total",
    "service_center_notify_publish_total",
];

/// True for a series that figures are made of. A scrape of these alone is a small part of the whole.
fn is_used(name: &str) -> bool {
    let is_of =
        |metric: &str| name.strip_prefix(metric).is_some_and(|rest| matches!(rest, "_bucket" | "_count"));
    SERIES.contains(&name) || dialects::is_used(name) || STAGES.iter().any(|(_, metric)| is_of(metric))
}

/// The growth of a counter a second, since an earlier scrape.
fn per_second(scrape: &Scrape, before: Option<Window<'_>>, name: &str, labels: &str) -> Option<f64> {
    let now = scrape.sum(name, labels)?;
    let (before, seconds) = before?;
    Some(increase(before.sum(name, labels), now) / seconds.max(1e-3))
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
             muster_edge_event_lag_seconds_bucket{{le=\"+Inf\"}} {pushes}\n\
             muster_edge_event_lag_seconds_count {pushes}\n"
        ))
    }

    #[test]
    fn a_stage_has_the_observations_between_two_scrapes() {
        let of = |fast: u32, all: u32| {
            Scrape::parse(&format!(
                "muster_edge_sessions 1\nmuster_edge_bus_lag_seconds_bucket{{le=\"0.001\"}} {fast}\n\
                 muster_edge_bus_lag_seconds_bucket{{le=\"10\"}} {fast}\n\
                 muster_edge_bus_lag_seconds_bucket{{le=\"+Inf\"}} {all}\nmuster_edge_bus_lag_seconds_count {all}\n"
            ))
        };
        let stages = Figures::of(&of(60, 70), Some((&of(10, 10), 10.0))).stages;
        let expected = StageFigures { stage: "bus".to_owned(), count: 60, p50_ms: Some(1.0), p99_ms: None };
        assert_eq!(stages, [expected], "ten took longer than the largest bucket");
        assert_eq!(Figures::of(&of(60, 70), Some((&of(60, 70), 10.0))).stages, [], "nothing was observed");
        assert_eq!(Figures::of(&of(60, 70), None).stages, []);
    }

    #[test]
    fn a_difference_of_states_is_counted() {
        let text = "muster_edge_sessions 1\n";
        let figures = |more: &str| Figures::of(&Scrape::parse(&format!("{text}{more}")), None).divergences;
        assert_eq!(figures(""), Some(0.0));
        let resyncs =
            "muster_edge_resyncs_total{cause=\"gap\"} 5\nmuster_edge_resyncs_total{cause=\"digest\"} 2\n";
        assert_eq!(figures(resyncs), Some(2.0));
        assert_eq!(Figures::of(&Scrape::parse("muster_view_revision 1\n"), None).divergences, None);
    }

    #[test]
    fn the_series_of_figures_are_enough_for_them() {
        let text = "process_start_time_seconds 1\nmuster_edge_sessions 7\nmuster_edge_forwarded_total 3\n\
             muster_http_connections{listener=\"api\"} 3\nmuster_edge_write_lag_seconds_bucket{le=\"1\"} 9\n\
             muster_edge_write_lag_seconds_count 9\nmuster_build_info{version=\"0.1.0\"} 1\nother 1\n\
             process_resident_memory_bytes 1\nmuster_publisher_active 0\n\
             service_center_notify_subscriber_total{scheme=\"xDS\"} 4\nmuster_xds_resources_sent_total 2\n\
             muster_edge_dns_answers_total 9\nmuster_edge_dialect_answers_total{dialect=\"eureka\"} 1\n";
        let nothing = Scrape::default();
        let whole = Figures::of(&Scrape::parse(text), Some((&nothing, 1.0)));
        assert_eq!(Figures::of(&Scrape::only(text, is_used), Some((&nothing, 1.0))), whole);
        assert_eq!((whole.dialects.len(), whole.dialects[0].clients), (3, Some(4.0)));
        assert_eq!((whole.connections, whole.p99_of("write")), (Some(3.0), Some(1000.0)));
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
