//! Reads the text that Prometheus scrapes: the reverse of [`Metrics::render`](super::Metrics::render).
//!
//! In: the body of `/metrics`. Out: sums, labels and quantiles of the series in it. `muster top`, `muster
//! doctor` and the system tests read the metrics of running processes with it. `prometheus-parse` was not
//! taken: for these sixty lines it would bring `chrono` and one more version of `itertools`.

use std::collections::BTreeMap;

/// The labels of a series, by name.
type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape(BTreeMap<String, BTreeMap<Labels, f64>>);

impl Scrape {
    /// Reads a scrape. Lines that are not a series are skipped.
    pub fn parse(text: &str) -> Self {
        Self::only(text, |_| true)
    }

    /// Reads the series with names that `wanted` takes.
    pub fn only(text: &str, wanted: impl Fn(&str) -> bool) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            if !wanted(name) {
                continue;
            }
            if let Some((name, labels, value)) = series(line) {
                scrape.0.entry(name.to_owned()).or_default().insert(labels, value);
            }
        }
        scrape
    }

    /// The sum over all series called `name` that have all of `selected`, which are labels as they are
    /// written between the braces, such as `status="SUCCESS"`. `None` when there is no such series.
    pub fn sum(&self, name: &str, selected: &str) -> Option<f64> {
        let (selected, _) = labels(selected)?;
        let mut sum = None;
        for (present, value) in self.series_of(name) {
            if selected.iter().all(|(label, wanted)| present.get(label) == Some(wanted)) {
                *sum.get_or_insert(0.0) += value;
            }
        }
        sum
    }

    /// The value of a label, from the first series called `name` that has it.
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.series_of(name).find_map(|(labels, _)| labels.get(label)).map(String::as_str)
    }

    /// The quantile of a histogram's observations since the scrape `before`: the upper bound of the
    /// bucket that holds it, infinite for the last one. `None` without observations.
    pub fn quantile_since(&self, before: &Self, name: &str, quantile: f64) -> Option<f64> {
        let name = format!("{name}_bucket");
        let earlier = before.0.get(&name);
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (labels, value) in self.series_of(&name) {
            // Rust reads `+Inf` as infinity too.
            let bound: f64 = labels.get("le")?.parse().ok()?;
            let increase = value - earlier.and_then(|series| series.get(labels)).unwrap_or(&0.0);
            // Series that differ in other labels share their bounds, and their counts add up.
            match buckets.iter_mut().find(|(other, _)| *other == bound) {
                Some((_, count)) => *count += increase,
                None => buckets.push((bound, increase)),
            }
        }
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        // Counts are cumulative, so the last bucket has them all.
        let (_, total) = *buckets.last()?;
        if total <= 0.0 {
            return None;
        }
        buckets.iter().find(|(_, count)| *count >= quantile * total).map(|(bound, _)| *bound)
    }

    fn series_of(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.0.get(name).into_iter().flatten().map(|(labels, value)| (labels, *value))
    }
}

/// Name, labels and value of a line such as `pushes{status="SUCCESS"} 7`. A time behind the value is ignored.
fn series(line: &str) -> Option<(&str, Labels, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// The labels up to the closing brace or the end, and the rest of the line behind them.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if text.is_empty() {
            return Some((labels, text));
        }
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = label_value(rest)?;
        labels.insert(name.to_owned(), value);
        text = rest;
    }
}

/// A label's value up to the closing quote, and the rest behind it. A value may hold blanks, braces and
/// commas, so the line cannot simply be split at those.
fn label_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE pushes counter\npushes{status=\"SUCCESS\",to=\"a b\"} 5\npushes_other 9\n\
        lag_bucket{le=\"0.1\"} 10\nlag_bucket{le=\"1\"} 10\nlag_bucket{le=\"+Inf\"} 10\n";
    const AFTER: &str = "pushes{status=\"SUCCESS\",to=\"a b\"} 7\npushes{status=\"FAILURE\",to=\"c\"} 1\n\
        lag_bucket{le=\"0.1\"} 60\nlag_bucket{le=\"1\"} 109\nlag_bucket{le=\"+Inf\"} 110\n";

    #[test]
    fn series_are_summed_by_name_and_label() {
        let scrape = Scrape::parse(AFTER);
        assert_eq!(scrape.sum("pushes", ""), Some(8.0));
        assert_eq!(scrape.sum("pushes", "status=\"SUCCESS\""), Some(7.0));
        assert_eq!(scrape.sum("pushes", "status=\"SUCC\""), None);
        assert_eq!(scrape.sum("nothing", ""), None);
        assert_eq!(Scrape::parse(BEFORE).sum("pushes", ""), Some(5.0));
    }

    #[test]
    fn a_label_is_read_from_its_own_series_only() {
        let scrape =
            Scrape::parse("build_info{job=\"a\",version=\"1.2.0\"} 1\nbuild_info_other{version=\"9\"} 1\n");
        assert_eq!(scrape.label("build_info", "version"), Some("1.2.0"));
        assert_eq!(scrape.label("build_info", "none"), None);
        assert_eq!(scrape.label("build", "version"), None);
    }

    #[test]
    fn labels_may_hold_anything_and_a_time_may_follow() {
        let scrape =
            Scrape::parse("a{x=\"} \\\"1, \\\\\",y=\"2\"} 3 1700000000000\na{broken=\"} 9\nb 1e3\n{} 4\n");
        assert_eq!(scrape.label("a", "x"), Some("} \"1, \\"));
        assert_eq!(scrape.sum("a", "y=\"2\""), Some(3.0));
        assert_eq!(scrape.sum("a", ""), Some(3.0), "a broken line is skipped");
        assert_eq!(scrape.sum("b", ""), Some(1000.0));
    }

    #[test]
    fn quantiles_count_new_observations_only() {
        let before = Scrape::parse(BEFORE);
        let after = Scrape::parse(AFTER);
        assert_eq!(after.quantile_since(&before, "lag", 0.5), Some(0.1));
        assert_eq!(after.quantile_since(&before, "lag", 0.99), Some(1.0));
        assert_eq!(after.quantile_since(&before, "lag", 1.0), Some(f64::INFINITY));
        assert_eq!(after.quantile_since(&after, "lag", 0.5), None);
    }
}
