//! The figures of one scrape, read from the text format of Prometheus.

use std::collections::BTreeMap;

/// One scrape: each series by its name and labels as written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Reads a scrape; lines that are none are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            // Label values may hold blanks; the value is behind the last one, timestamps are not written.
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum over the series called `name` that have all of `labels`, such as `status="SUCCESS"`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let mut sum = None;
        for (_, value) in
            self.of(name).filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
        {
            *sum.get_or_insert(0.0) += value;
        }
        sum
    }

    /// The label of a series called `name`, as it is written.
    pub(crate) fn label(&self, name: &str, label: &str) -> Option<&str> {
        let start = format!("{label}=\"");
        self.0
            .range(name.to_owned()..)
            .map(|(series, _)| series.strip_prefix(name))
            .map_while(|rest| rest)
            .filter_map(|rest| rest.strip_prefix('{'))
            .find_map(|labels| labels.split(&start).nth(1)?.split('"').next())
    }

    /// The quantile of a histogram's observations since `before`: the upper bound of the bucket it falls in.
    pub(crate) fn quantile_since(&self, before: &Self, name: &str, quantile: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut buckets: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (series, value) in self.of(&bucket) {
            let bound = series.split("le=\"").nth(1)?.split('"').next()?;
            let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            let new = value - before.0.get(series).copied().unwrap_or(0.0);
            // Bounds are not negative, so their bits are in their order.
            buckets.entry(bound.to_bits()).or_insert((bound, 0.0)).1 += new;
        }
        let (_, total) = *buckets.values().last()?;
        if total <= 0.0 {
            return None;
        }
        buckets.values().find(|(_, count)| *count >= quantile * total).map(|(bound, _)| *bound)
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a String, f64)> {
        self.0
            .range(name.to_owned()..)
            .take_while(move |(series, _)| series.starts_with(name))
            .filter(move |(series, _)| matches!(series.as_bytes().get(name.len()), None | Some(b'{')))
            .map(|(series, value)| (series, *value))
    }
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
        let figures = Figures::parse(AFTER);
        assert_eq!(figures.sum("pushes", &[]), Some(8.0));
        assert_eq!(figures.sum("pushes", &["status=\"SUCCESS\""]), Some(7.0));
        assert_eq!(figures.sum("nothing", &[]), None);
        assert_eq!(Figures::parse(BEFORE).sum("pushes", &[]), Some(5.0));
    }

    #[test]
    fn a_label_is_read() {
        let figures =
            Figures::parse("build_info{job=\"a\",version=\"1.2.0\"} 1\nbuild_info_other{version=\"9\"} 1\n");
        assert_eq!(figures.label("build_info", "version"), Some("1.2.0"));
        assert_eq!(figures.label("build_info", "none"), None);
        assert_eq!(figures.label("build", "version"), None);
    }

    #[test]
    fn quantiles_are_of_what_is_new() {
        let (before, after) = (Figures::parse(BEFORE), Figures::parse(AFTER));
        assert_eq!(after.quantile_since(&before, "lag", 0.5), Some(0.1));
        assert_eq!(after.quantile_since(&before, "lag", 0.99), Some(1.0));
        assert_eq!(after.quantile_since(&after, "lag", 0.5), None);
    }
}
