//! The figures of this process, as it tells them to others.
//!
//! In: its own metrics. Out: [`ProcessFigures`], for the console's page and for the other processes of the
//! fleet. The metrics are read when figures are asked for, and at most every ten seconds. A question in between
//! is answered with the figures of the last reading. A gateway asks for its own with each announcement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{DialectFigures, Figures, StageFigures, is_used};
use crate::machine::own_name;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::scrape::Scrape;

/// The time for which figures are told again.
const FRESH: Duration = Duration::from_secs(10);
/// The longest time between two scrapes that rates are made of: they are to tell of the present.
const LONGEST: Duration = Duration::from_secs(60);
/// The most characters of a text that another process tells.
const LONGEST_TEXT: usize = 256;
/// The most stages that another process tells.
const MOST_STAGES: usize = 16;
/// The most dialects that another process tells.
const MOST_DIALECTS: usize = 16;

/// The figures of one process, as others are told. Those that the process does not have are absent, also of an
/// older version. In JSON the keys are in camel case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessFigures {
    /// The process: its machine's name and its number there. Empty for a process of an older version.
    pub process: String,
    /// The address by which it is known, or its name in metrics.
    pub address: String,
    /// `edge`, `control`, `publisher` (a control plane that publishes), `both`, or `?`.
    pub role: String,
    /// The version of the program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub release: String,
    /// Seconds since it told this.
    pub age: f64,
    /// Seconds that rates and stages are about. Absent after a minute without a question, because rates need
    /// two readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Open connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<f64>,
    /// Open watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchers: Option<f64>,
    /// Events written to watchers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushes_per_second: Option<f64>,
    /// Requests answered, or forwarded by a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<f64>,
    /// Pushes that wait to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<f64>,
    /// The revision that the process has reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<f64>,
    /// Seconds since a gateway's last bookmark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<f64>,
    /// Times that its state differed from a control plane's, since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergences: Option<f64>,
    /// CPU time per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// Resident memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<f64>,
    /// The latency of each stage that has been observed.
    pub stages: Vec<StageFigures>,
    /// The dialects that have been used since the process began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dialects: Vec<DialectFigures>,
}

/// The answer to the question for the figures of all processes. In JSON the keys are in camel case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FleetFigures {
    /// The processes that are known.
    pub processes: Vec<ProcessFigures>,
    /// The number of control planes that have not answered.
    pub silent: usize,
}

impl ProcessFigures {
    fn of(figures: Figures, seconds: Option<f64>) -> Self {
        Self {
            process: own_name(),
            address: String::new(),
            role: figures.role.to_owned(),
            release: figures.release.unwrap_or_default(),
            age: 0.0,
            seconds,
            connections: figures.connections,
            watchers: figures.watchers,
            pushes_per_second: figures.pushes_per_second,
            requests_per_second: figures.requests_per_second,
            pending: figures.pending,
            revision: figures.revision,
            stale_seconds: figures.staleness_seconds,
            divergences: figures.divergences,
            cores: figures.cores,
            memory_mib: figures.memory_mib,
            stages: figures.stages,
            dialects: figures.dialects,
        }
    }

    /// The same with bounded texts and lists, for those that another process has told.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String| {
            if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
                text.truncate(end);
            }
        };
        for text in [&mut self.process, &mut self.address, &mut self.role, &mut self.release] {
            cut(text);
        }
        self.stages.truncate(MOST_STAGES);
        self.stages.iter_mut().for_each(|stage| cut(&mut stage.stage));
        self.dialects.truncate(MOST_DIALECTS);
        self.dialects.iter_mut().for_each(|dialect| cut(&mut dialect.dialect));
        self
    }
}

/// Reads the figures of this process. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Sampler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    last: Mutex<Option<Last>>,
}

/// The figures that were read last.
#[derive(Debug)]
struct Last {
    at: Instant,
    scrape: Scrape,
    told: ProcessFigures,
}

impl Sampler {
    /// Reads these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Shared { metrics, last: Mutex::default() }))
    }

    /// The figures, those of at most ten seconds ago. The first ones, and those after a minute without a
    /// question, are without rates and stages.
    pub fn figures(&self) -> ProcessFigures {
        self.figures_at(Instant::now())
    }

    fn figures_at(&self, now: Instant) -> ProcessFigures {
        let mut last = self.0.last.lock();
        if let Some(Last { at, told, .. }) = &*last {
            let age = now.saturating_duration_since(*at);
            if age < FRESH {
                return ProcessFigures { age: age.as_secs_f64(), ..told.clone() };
            }
        }
        let scrape = Scrape::only(&self.0.metrics.render(), is_used);
        let before = last.take().map(|last| (now.saturating_duration_since(last.at), last.scrape));
        let before = before.filter(|(since, _)| *since <= LONGEST);
        let before = before.as_ref().map(|(since, scrape)| (scrape, since.as_secs_f64()));
        let told = ProcessFigures::of(Figures::of(&scrape, before), before.map(|(_, seconds)| seconds));
        *last = Some(Last { at: now, scrape, told: told.clone() });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_stages_are_those_between_two_looks() {
        let metrics = Metrics::new([]).expect("sets up");
        let meter = metrics.meter("test");
        let pushes = meter.u64_counter("service_center_notify_publish_total").build();
        let lag = meter.f64_histogram("muster_edge_bus_lag_seconds").build();
        let status = [opentelemetry::KeyValue::new("status", "SUCCESS")];
        pushes.add(5, &status);
        let sampler = Sampler::new(metrics);
        let begin = Instant::now();
        let first = sampler.figures_at(begin);
        assert_eq!((first.seconds, first.pushes_per_second, first.stages.len()), (None, None, 0));
        pushes.add(40, &status);
        lag.record(0.5, &[]);
        let again = sampler.figures_at(begin + Duration::from_secs(9));
        assert_eq!((again.pushes_per_second, again.age), (None, 9.0), "those of before");
        let second = sampler.figures_at(begin + Duration::from_secs(20));
        assert_eq!((second.seconds, second.pushes_per_second), (Some(20.0), Some(2.0)));
        assert_eq!((second.stages.len(), second.stages[0].count), (1, 1));
        let late = sampler.figures_at(begin + Duration::from_secs(90));
        assert_eq!((late.seconds, late.pushes_per_second), (None, None), "too long ago");
    }

    #[test]
    fn what_another_process_tells_is_bounded() {
        let stage = StageFigures { stage: "x".repeat(1000), ..StageFigures::default() };
        let dialect = DialectFigures { dialect: "x".repeat(1000), ..DialectFigures::default() };
        let told = ProcessFigures {
            address: "ä".repeat(1000),
            stages: vec![stage; 1000],
            dialects: vec![dialect; 1000],
            ..ProcessFigures::default()
        };
        let kept = told.bounded();
        assert_eq!((kept.address.chars().count(), kept.stages.len()), (LONGEST_TEXT, MOST_STAGES));
        assert_eq!(kept.stages[0].stage.len(), LONGEST_TEXT);
        assert_eq!((kept.dialects.len(), kept.dialects[0].dialect.len()), (MOST_DIALECTS, LONGEST_TEXT));
    }

    #[test]
    fn an_answer_of_an_older_version_is_read() {
        let read: ProcessFigures = serde_json::from_str(r#"{"process":"a-1","later":7}"#).expect("reads");
        assert_eq!(read, ProcessFigures { process: "a-1".to_owned(), ..ProcessFigures::default() });
        let written = serde_json::to_string(&ProcessFigures::default()).expect("writes");
        assert_eq!(written, r#"{"process":"","address":"","role":"","age":0.0,"stages":[]}"#);
    }
}
