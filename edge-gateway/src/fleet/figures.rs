//! Figures of gateways, between the form of the bus and that of people.

use std::time::Duration;

use host::figures::sampler::ProcessFigures;
use host::figures::{DialectFigures, StageFigures};
use proto::event::v1 as pb;

/// A gateway's own figures, for the others.
pub(super) fn told(figures: ProcessFigures) -> pb::ProcessFigures {
    let stage = |stage: StageFigures| pb::process_figures::Stage {
        stage: stage.stage,
        count: stage.count,
        p50_ms: stage.p50_ms,
        p99_ms: stage.p99_ms,
    };
    let dialect = |dialect: DialectFigures| pb::process_figures::Dialect {
        dialect: dialect.dialect,
        clients: dialect.clients,
        answers_per_second: dialect.answers_per_second,
    };
    pb::ProcessFigures {
        process: figures.process,
        role: figures.role,
        release: figures.release,
        age: figures.age,
        seconds: figures.seconds,
        connections: figures.connections,
        watchers: figures.watchers,
        pushes_per_second: figures.pushes_per_second,
        requests_per_second: figures.requests_per_second,
        pending: figures.pending,
        revision: figures.revision,
        stale_seconds: figures.stale_seconds,
        divergences: figures.divergences,
        cores: figures.cores,
        memory_mib: figures.memory_mib,
        stages: figures.stages.into_iter().map(stage).collect(),
        dialects: figures.dialects.into_iter().map(dialect).collect(),
    }
}

/// The figures that another gateway has told, bounded. One of an older version has none.
pub(super) fn heard(figures: pb::ProcessFigures) -> ProcessFigures {
    let stage = |stage: pb::process_figures::Stage| StageFigures {
        stage: stage.stage,
        count: stage.count,
        p50_ms: number(stage.p50_ms),
        p99_ms: number(stage.p99_ms),
    };
    let dialect = |dialect: pb::process_figures::Dialect| DialectFigures {
        dialect: dialect.dialect,
        clients: number(dialect.clients),
        answers_per_second: number(dialect.answers_per_second),
    };
    let figures = ProcessFigures {
        process: figures.process,
        address: String::new(),
        role: figures.role,
        release: figures.release,
        age: number(Some(figures.age)).unwrap_or_default(),
        seconds: number(figures.seconds),
        connections: number(figures.connections),
        watchers: number(figures.watchers),
        pushes_per_second: number(figures.pushes_per_second),
        requests_per_second: number(figures.requests_per_second),
        pending: number(figures.pending),
        revision: number(figures.revision),
        stale_seconds: number(figures.stale_seconds),
        divergences: number(figures.divergences),
        cores: number(figures.cores),
        memory_mib: number(figures.memory_mib),
        stages: figures.stages.into_iter().map(stage).collect(),
        dialects: figures.dialects.into_iter().map(dialect).collect(),
    };
    figures.bounded()
}

/// A figure that JSON can hold.
fn number(figure: Option<f64>) -> Option<f64> {
    figure.filter(|figure| figure.is_finite())
}

/// The figures of a gateway as of now: by the name of its announcement, and so long after it.
pub(super) fn as_of_now(known: Option<&ProcessFigures>, name: &str, silent_for: Duration) -> ProcessFigures {
    // One of an older version tells no more than its name.
    let figures = known
        .cloned()
        .unwrap_or_else(|| ProcessFigures { role: "edge".to_owned(), ..ProcessFigures::default() });
    ProcessFigures { address: name.to_owned(), age: figures.age + silent_for.as_secs_f64(), ..figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_arrive_as_they_were_told() {
        let own = ProcessFigures {
            process: "node-7".to_owned(),
            role: "edge".to_owned(),
            release: "0.1.0".to_owned(),
            age: 2.0,
            seconds: Some(10.0),
            watchers: Some(7.0),
            divergences: Some(0.0),
            stages: vec![StageFigures { stage: "bus".to_owned(), count: 3, p50_ms: Some(0.5), p99_ms: None }],
            dialects: vec![
                DialectFigures {
                    dialect: "xds".to_owned(),
                    clients: Some(2.0),
                    answers_per_second: Some(0.5),
                },
                DialectFigures { dialect: "dns".to_owned(), clients: None, answers_per_second: None },
            ],
            ..ProcessFigures::default()
        };
        assert_eq!(heard(told(own.clone())), own);
        let later = as_of_now(Some(&own), "10.0.0.1:30100", Duration::from_secs(3));
        assert_eq!((later.address.as_str(), later.age), ("10.0.0.1:30100", 5.0));
    }

    #[test]
    fn a_gateway_of_an_older_version_has_its_name_alone() {
        let older = as_of_now(None, "old:30100", Duration::from_secs(1));
        assert_eq!((older.role.as_str(), older.watchers, older.stages.len()), ("edge", None, 0));
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let dialect = pb::process_figures::Dialect { clients: Some(f64::NAN), ..Default::default() };
        let told = pb::ProcessFigures {
            watchers: Some(f64::NAN),
            age: f64::INFINITY,
            dialects: vec![dialect],
            ..Default::default()
        };
        let heard = heard(told);
        assert_eq!(heard.dialects[0].clients, None);
        assert_eq!((heard.watchers, heard.age), (None, 0.0));
        assert!(serde_json::to_string(&heard).is_ok());
    }
}
