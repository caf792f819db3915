//! Series for Service-Center's dashboards that no OpenTelemetry instrument can produce. They are computed
//! at each scrape.
//!
//! | in | out |
//! | --- | --- |
//! | a histogram `…_durations_microseconds` | a summary of that name, and counters `…_bucket` |
//! | `service_center_http_request_total` | also `service_center_http_query_per_seconds` |
//!
//! Quantiles are interpolated in the buckets of the last ten minutes, so they are as exact as the buckets are
//! narrow. The memory grows with the number of series; the rooms that count bound the values of their labels.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary};

/// The end of the names of histograms that become summaries.
const SUMMARISED: &str = "_durations_microseconds";
/// The quantiles of Service-Center's summaries.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
/// The time that a quantile covers, as in Service-Center, and the steps in which it moves on.
const WINDOW: Duration = Duration::from_mins(10);
const STEP: Duration = Duration::from_mins(2);
const REQUESTS: &str = "service_center_http_request_total";
const RATE: &str = "service_center_http_query_per_seconds";
/// The time over which a rate is computed: Service-Center's interval between reports.
const RATE_OVER: Duration = Duration::from_secs(30);

/// The figures of earlier scrapes that derived series need.
#[derive(Debug, Default)]
pub(super) struct Derived(Mutex<DerivedSeries>);

#[derive(Debug, Default)]
struct DerivedSeries {
    windows: HashMap<(String, Labels), Window>,
    rates: HashMap<Labels, Rate>,
}

type Labels = Vec<(String, String)>;

/// Cumulative bucket counts at the ends of past steps, the oldest first.
#[derive(Debug)]
struct Window(VecDeque<(Instant, Vec<u64>)>);

#[derive(Debug)]
struct Rate {
    since: Instant,
    total: f64,
    per_second: f64,
}

impl Derived {
    /// The families to write: the gathered ones, with histograms replaced and rates added.
    pub(super) fn expand(&self, families: Vec<MetricFamily>, now: Instant) -> Vec<MetricFamily> {
        let mut state = self.0.lock();
        let mut all = Vec::with_capacity(families.len() + 8);
        for family in families {
            let is_histogram = family.get_field_type() == MetricType::HISTOGRAM;
            if is_histogram && family.name().ends_with(SUMMARISED) {
                all.extend(state.summarised(&family, now));
                continue;
            }
            let rate = (family.name() == REQUESTS).then(|| state.rate(&family, now));
            all.push(family);
            all.extend(rate);
        }
        all
    }
}

impl DerivedSeries {
    fn summarised(&mut self, family: &MetricFamily, now: Instant) -> [MetricFamily; 2] {
        let mut summaries = Vec::new();
        let mut buckets = Vec::new();
        for metric in family.get_metric() {
            let histogram = metric.get_histogram();
            let counts: Vec<u64> =
                histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count()).collect();
            let bounds: Vec<f64> = histogram.get_bucket().iter().map(|bucket| bucket.upper_bound()).collect();
            let total = histogram.get_sample_count();
            for (bound, count) in bounds.iter().zip(&counts) {
                buckets.push(bucket_counter(metric, &bound.to_string(), *count));
            }
            buckets.push(bucket_counter(metric, "+Inf", total));
            // The total is the count of the last bucket, which has no upper bound and is not in the list.
            let with_total = counts.iter().copied().chain([total]).collect();
            let key = (family.name().to_owned(), labels_of(metric, ""));
            let recent =
                self.windows.entry(key).or_insert_with(|| Window::begin(now)).recent(with_total, now);
            let mut summary = Summary::default();
            summary.set_sample_count(total);
            summary.set_sample_sum(histogram.get_sample_sum());
            summary.set_quantile(QUANTILES.iter().map(|q| quantile(*q, &bounds, &recent)).collect());
            let mut made = Metric::from_label(metric.get_label().to_vec());
            made.set_summary(summary);
            summaries.push(made);
        }
        let name = family.name();
        let help = family.help();
        [
            metric_family(name.to_owned(), help.to_owned(), MetricType::SUMMARY, summaries),
            metric_family(
                format!("{name}_bucket"),
                format!("{help}, by upper bound"),
                MetricType::COUNTER,
                buckets,
            ),
        ]
    }

    fn rate(&mut self, family: &MetricFamily, now: Instant) -> MetricFamily {
        let mut totals: HashMap<Labels, f64> = HashMap::new();
        for metric in family.get_metric() {
            *totals.entry(labels_of(metric, "code")).or_default() += metric.get_counter().get_value();
        }
        let mut metrics = Vec::with_capacity(totals.len());
        for (labels, total) in totals {
            let start = Rate { since: now, total, per_second: 0.0 };
            let rate = self.rates.entry(labels.clone()).or_insert(start);
            // Two scrapers, or one with a short interval, must not shorten the time that a rate covers.
            let passed = now.saturating_duration_since(rate.since);
            if passed >= RATE_OVER {
                let per_second = (total - rate.total) / passed.as_secs_f64();
                *rate = Rate { since: now, total, per_second };
            }
            let mut gauge = Gauge::default();
            gauge.set_value(rate.per_second);
            let mut metric = Metric::from_label(labels.into_iter().map(pair).collect());
            metric.set_gauge(gauge);
            metrics.push(metric);
        }
        let help = "HTTP requests per seconds of ROA handler".to_owned();
        metric_family(RATE.to_owned(), help, MetricType::GAUGE, metrics)
    }
}

impl Window {
    /// The window of a series at its first scrape. Everything counted so far is recent.
    fn begin(now: Instant) -> Self {
        Self(VecDeque::from([(now, Vec::new())]))
    }

    /// The part of `counts` that was counted within the window.
    fn recent(&mut self, counts: Vec<u64>, now: Instant) -> Vec<u64> {
        // The youngest step that is older than the window must stay: recent counts are the difference to it.
        while self.0.get(1).is_some_and(|(then, _)| now.saturating_duration_since(*then) >= WINDOW) {
            self.0.pop_front();
        }
        let before = self.0.front().map(|(_, counts)| counts.clone()).unwrap_or_default();
        let mut recent = Vec::with_capacity(counts.len());
        for (index, count) in counts.iter().enumerate() {
            // At the first scrape `before` is empty.
            recent.push(count.saturating_sub(before.get(index).copied().unwrap_or(0)));
        }
        // A step is kept for two minutes' worth of scrapes, so the window's memory does not depend on
        // their interval.
        if self.0.back().is_none_or(|(then, _)| now.saturating_duration_since(*then) >= STEP) {
            self.0.push_back((now, counts));
        }
        recent
    }
}

/// The value below which the share `q` of the observations lies, if they are spread evenly within their
/// buckets. `NaN` without observations, as Prometheus' own summaries have it.
fn quantile(q: f64, bounds: &[f64], cumulative: &[u64]) -> Quantile {
    let total = cumulative.last().copied().unwrap_or(0);
    let rank = q * total as f64;
    let index = cumulative.partition_point(|count| (*count as f64) < rank);
    let value = match bounds.get(index) {
        _ if total == 0 => f64::NAN,
        // The last bucket has no upper bound, so its lower one is the best that can be said.
        None => bounds.last().copied().unwrap_or(f64::NAN),
        Some(upper) => {
            let (lower, below) = match index.checked_sub(1) {
                None => (0.0, 0),
                Some(previous) => (bounds[previous], cumulative[previous]),
            };
            // The bucket is the first to reach the rank, so it is not empty; `max` only keeps a
            // division by zero out.
            let within = (cumulative[index] - below).max(1) as f64;
            lower + (upper - lower) * (rank - below as f64) / within
        }
    };
    let mut made = Quantile::default();
    made.set_quantile(q);
    made.set_value(value);
    made
}

fn bucket_counter(histogram: &Metric, bound: &str, count: u64) -> Metric {
    let mut labels = histogram.get_label().to_vec();
    labels.push(pair(("le".to_owned(), bound.to_owned())));
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn metric_family(name: String, help: String, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name);
    family.set_help(help);
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn pair((name, value): (String, String)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name);
    pair.set_value(value);
    pair
}

/// The labels of a metric in order, without the one called `without`.
fn labels_of(metric: &Metric, without: &str) -> Labels {
    let kept = metric.get_label().iter().filter(|label| label.name() != without);
    let mut labels: Labels = kept.map(|label| (label.name().to_owned(), label.value().to_owned())).collect();
    // Sorted, because they are the key of a map: the order of a metric's labels means nothing.
    labels.sort();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(window: &mut Window, seen: [u64; 3], now: Instant) -> Vec<u64> {
        window.recent(seen.to_vec(), now)
    }

    #[test]
    fn a_quantile_lies_where_its_share_of_the_observations_ends() {
        let bounds = [100.0, 200.0];
        let value = |q, cumulative: &[u64]| quantile(q, &bounds, cumulative).value();
        assert_eq!(value(0.5, &[10, 10, 10]), 50.0);
        assert_eq!(value(0.9, &[50, 100, 100]), 180.0);
        assert_eq!(value(0.99, &[0, 0, 7]), 200.0, "the last bucket has no upper bound");
        assert!(value(0.5, &[0, 0, 0]).is_nan());
    }

    #[test]
    fn observations_older_than_the_window_do_not_count() {
        let begin = Instant::now();
        let at = |minutes: u64| begin + Duration::from_mins(minutes);
        let mut window = Window::begin(begin);
        assert_eq!(counts(&mut window, [1, 5, 5], begin), [1, 5, 5]);
        for minute in 1..=10 {
            assert_eq!(counts(&mut window, [1, 5, 5], at(minute)), [1, 5, 5], "minute {minute}");
        }
        assert_eq!(counts(&mut window, [1, 6, 6], at(12)), [0, 1, 1]);
        assert!(window.0.len() <= 7, "steps outside of the window are dropped");
    }
}
