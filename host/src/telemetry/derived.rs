//! Series that Service-Center's dashboards read and that OpenTelemetry has no instrument for, made at each scrape.
//!
//! | in | out |
//! | --- | --- |
//! | a histogram `…_durations_microseconds` | a summary of that name, as it always was, and its buckets as the counters `…_bucket` |
//! | `service_center_http_request_total` | also `service_center_http_query_per_seconds` |
//!
//! Quantiles are read off the buckets of the last ten minutes, so they are as exact as the buckets are narrow. What
//! is kept grows with the series, whose number is bounded where they are counted.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary};

/// Histograms with this end of their names stand in for summaries.
const SUMMARISED: &str = "_durations_microseconds";
/// The quantiles that Service-Center's summaries have.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
/// How far back a quantile looks, as the summaries of Service-Center do, and in which steps that moves on.
const WINDOW: Duration = Duration::from_mins(10);
const STEP: Duration = Duration::from_mins(2);
const REQUESTS: &str = "service_center_http_request_total";
const RATE: &str = "service_center_http_query_per_seconds";
/// Over which time a rate is taken: Service-Center's interval of reports.
const RATE_OVER: Duration = Duration::from_secs(30);

/// What the last scrapes found.
#[derive(Debug, Default)]
pub(super) struct Derived(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    windows: HashMap<(String, Labels), Window>,
    rates: HashMap<Labels, Rate>,
}

type Labels = Vec<(String, String)>;

/// Cumulated bucket counts at the ends of past steps, the oldest first.
#[derive(Debug)]
struct Window(VecDeque<(Instant, Vec<u64>)>);

#[derive(Debug)]
struct Rate {
    since: Instant,
    total: f64,
    per_second: f64,
}

impl Derived {
    /// Every family that is to be written for those that were gathered.
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

impl State {
    fn summarised(&mut self, family: &MetricFamily, now: Instant) -> [MetricFamily; 2] {
        let (mut summaries, mut buckets) = (Vec::new(), Vec::new());
        for metric in family.get_metric() {
            let histogram = metric.get_histogram();
            let counts: Vec<u64> = histogram.get_bucket().iter().map(|it| it.cumulative_count()).collect();
            let bounds: Vec<f64> = histogram.get_bucket().iter().map(|it| it.upper_bound()).collect();
            let total = histogram.get_sample_count();
            for (bound, count) in bounds.iter().zip(&counts) {
                buckets.push(bucket(metric, &bound.to_string(), *count));
            }
            buckets.push(bucket(metric, "+Inf", total));
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
            of(name.to_owned(), help.to_owned(), MetricType::SUMMARY, summaries),
            of(format!("{name}_bucket"), format!("{help}, by upper bound"), MetricType::COUNTER, buckets),
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
        of(RATE.to_owned(), help, MetricType::GAUGE, metrics)
    }
}

impl Window {
    /// A series that is seen for the first time: everything in it is recent.
    fn begin(now: Instant) -> Self {
        Self(VecDeque::from([(now, Vec::new())]))
    }

    /// What of `counts` came within the window.
    fn recent(&mut self, counts: Vec<u64>, now: Instant) -> Vec<u64> {
        let age = |then: &Instant| now.saturating_duration_since(*then);
        while self.0.get(1).is_some_and(|(then, _)| age(then) >= WINDOW) {
            self.0.pop_front();
        }
        let before = self.0.front().map(|(_, counts)| counts.clone()).unwrap_or_default();
        let recent =
            counts.iter().enumerate().map(|(i, it)| it.saturating_sub(before.get(i).copied().unwrap_or(0)));
        let recent = recent.collect();
        if self.0.back().is_none_or(|(then, _)| age(then) >= STEP) {
            self.0.push_back((now, counts));
        }
        recent
    }
}

/// The value below which `q` of the observations lie, evenly spread within their bucket; not a number without any.
fn quantile(q: f64, bounds: &[f64], cumulated: &[u64]) -> Quantile {
    let total = cumulated.last().copied().unwrap_or(0);
    let rank = q * total as f64;
    let index = cumulated.partition_point(|count| (*count as f64) < rank);
    let value = match bounds.get(index) {
        _ if total == 0 => f64::NAN,
        None => bounds.last().copied().unwrap_or(f64::NAN),
        Some(upper) => {
            let (lower, below) =
                if index == 0 { (0.0, 0) } else { (bounds[index - 1], cumulated[index - 1]) };
            let within = (cumulated[index] - below).max(1) as f64;
            lower + (upper - lower) * (rank - below as f64) / within
        }
    };
    let mut made = Quantile::default();
    made.set_quantile(q);
    made.set_value(value);
    made
}

fn bucket(of: &Metric, bound: &str, count: u64) -> Metric {
    let mut labels = of.get_label().to_vec();
    labels.push(pair(("le".to_owned(), bound.to_owned())));
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn of(name: String, help: String, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
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

/// A metric's labels, without one of them, in order.
fn labels_of(metric: &Metric, without: &str) -> Labels {
    let pairs = metric.get_label().iter().filter(|it| it.name() != without);
    let mut labels: Labels = pairs.map(|it| (it.name().to_owned(), it.value().to_owned())).collect();
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
        let value = |q, cumulated: &[u64]| quantile(q, &bounds, cumulated).value();
        assert_eq!(value(0.5, &[10, 10, 10]), 50.0);
        assert_eq!(value(0.9, &[50, 100, 100]), 180.0);
        assert_eq!(value(0.99, &[0, 0, 7]), 200.0, "beyond the last bound nothing is known but that bound");
        assert!(value(0.5, &[0, 0, 0]).is_nan());
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let begin = Instant::now();
        let at = |minutes: u64| begin + Duration::from_mins(minutes);
        let mut window = Window::begin(begin);
        assert_eq!(counts(&mut window, [1, 5, 5], begin), [1, 5, 5]);
        for minute in 1..=10 {
            assert_eq!(counts(&mut window, [1, 5, 5], at(minute)), [1, 5, 5], "minute {minute}");
        }
        assert_eq!(counts(&mut window, [1, 6, 6], at(12)), [0, 1, 1]);
        assert!(window.0.len() <= 7, "steps that are over are forgotten");
    }
}
