//! How processes that run are, by their admin ports: ready, fresh, of one version, of one mind about time, with one
//! publisher among them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Finding, SKEW, State, shown};
use crate::cli::Target;
use crate::command::top::figures::Figures;
use crate::failure::Failure;
use crate::registry::Registry;

/// Share of the descriptors in use from which on it is worth a warning.
const FILES: f64 = 0.8;

/// A gateway that has not heard from the publisher for so many seconds is stale, as for the alert `MusterGatewayStale`.
const STALE: f64 = 10.0;

/// Asks every process, then compares what they say.
pub(super) async fn check(admins: &[url::Url], target: &Target) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut note =
        |check: String, (state, detail): (State, String)| findings.push(Finding { check, state, detail });
    let (mut publishers, mut planes) = (0.0, 0);
    let mut offsets: Vec<(String, f64)> = Vec::new();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for admin in admins {
        let process = Registry::new(&Target::process(admin.clone(), target.timeout, target.trust.clone()))?;
        let name = process.server();
        let ready = match process.root("/ready").await {
            Ok(answer) => answer,
            Err(failure) => {
                note(
                    format!("{name} ready"),
                    (State::Failed, format!("{failure}; is it running, and is this its admin port?")),
                );
                continue;
            }
        };
        let date = ready.headers().get(http::header::DATE).and_then(|it| it.to_str().ok());
        if let Some(theirs) = date.and_then(|it| httpdate::parse_http_date(it).ok()) {
            offsets.push((name.clone(), seconds_from_now(theirs)));
        }
        note(format!("{name} ready"), readiness(ready.status().as_u16(), ready.body()));
        let Ok(answer) = process.root("/metrics").await else { continue };
        let figures = Figures::parse(answer.body());
        if let Some(active) = figures.sum("muster_publisher_active", &[]) {
            planes += 1;
            publishers += active;
        }
        if let Some(version) = figures.label("muster_build_info", "version") {
            versions.entry(version.to_owned()).or_default().push(name.clone());
        }
        if let Some(silent) = figures.sum("muster_edge_staleness_seconds", &[]) {
            note(format!("{name} freshness"), freshness(silent));
        }
        let open = figures.sum("process_open_fds", &[]).zip(figures.sum("process_max_fds", &[]));
        if let Some((open, most)) = open.filter(|(open, most)| *open > FILES * most) {
            let detail =
                format!("{open:.0} of {most:.0} are open: raise LimitNOFILE before connections are refused");
            note(format!("{name} open files"), (State::Failed, detail));
        }
    }
    if !versions.is_empty() {
        note("versions".to_owned(), of_one_version(&versions));
    }
    if planes > 0 {
        note("publisher".to_owned(), publisher(publishers));
    }
    if offsets.len() > 1 {
        note("clocks".to_owned(), clocks(&offsets));
    }
    Ok(findings)
}

fn readiness(status: u16, body: &str) -> (State, String) {
    let report: Value = serde_json::from_str(body).unwrap_or_default();
    if status == 200 {
        return (State::Ok, "ready".to_owned());
    }
    if report["draining"] == true {
        return (State::Warning, "it drains: it will end by itself".to_owned());
    }
    let conditions = report["conditions"].as_object().into_iter().flatten();
    let unmet = conditions.filter(|(_, it)| it["met"] != true).map(|(name, it)| {
        let advice = match name.as_str() {
            "view" => "look at etcd: muster doctor --program control-plane",
            "bus" => "look at NATS: muster doctor --program edge-gateway",
            "control_plane" => "look at control-plane.urls and the control planes' own /ready",
            _ => "look at its log",
        };
        format!("{name}: {}; {advice}", it["reason"].as_str().unwrap_or("?"))
    });
    (State::Failed, format!("not ready; {}", unmet.collect::<Vec<_>>().join("; ")))
}

fn publisher(publishers: f64) -> (State, String) {
    match publishers {
        1.0 => (State::Ok, "one control plane publishes".to_owned()),
        0.0 => (
            State::Failed,
            "no control plane publishes, so nothing is pushed: look at their link to etcd; if all were not asked, ask all".to_owned(),
        ),
        n => (
            State::Failed,
            format!("{n:.0} control planes publish: they use different etcd clusters and share one NATS; separate them"),
        ),
    }
}

fn freshness(silent: f64) -> (State, String) {
    let silence = shown(Duration::try_from_secs_f64(silent).unwrap_or_default());
    if silent > STALE {
        let detail = format!(
            "no word of the publisher for {silence}, so nothing is pushed here: look at the control planes, and at this gateway's link to NATS"
        );
        (State::Failed, detail)
    } else {
        (State::Ok, format!("heard from the publisher {silence} ago"))
    }
}

/// Neighbouring versions work together, so that one can be upgraded to the other; more than an upgrade needs is a mistake.
fn of_one_version(versions: &BTreeMap<String, Vec<String>>) -> (State, String) {
    let names = |(version, names): (&String, &Vec<String>)| format!("{version} at {}", names.join(", "));
    let all: Vec<String> = versions.iter().map(names).collect();
    match versions.len() {
        1 => (State::Ok, versions.keys().map(|version| format!("all are {version}")).collect()),
        2 => (State::Warning, format!("{}: finish the upgrade, or take it back", all.join("; "))),
        _ => (
            State::Failed,
            format!("{}: upgrade from one version to one other, see docs/operations.md", all.join("; ")),
        ),
    }
}

fn seconds_from_now(theirs: SystemTime) -> f64 {
    let now = SystemTime::now();
    match theirs.duration_since(now) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

fn clocks(offsets: &[(String, f64)]) -> (State, String) {
    let last = offsets.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let first = offsets.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let (Some(first), Some(last)) = (first, last) else { return (State::Ok, String::new()) };
    let apart = Duration::from_secs_f64(last.1 - first.1);
    if apart > SKEW {
        let detail =
            format!("{} and {} are {} apart: synchronise them (chrony)", first.0, last.0, shown(apart));
        (State::Failed, detail)
    } else {
        (State::Ok, "they agree".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_met_comes_with_advice() {
        let body = r#"{"ready":false,"draining":false,"conditions":{"bus":{"met":true,"reason":""},"control_plane":{"met":false,"reason":"not reachable"}}}"#;
        let (state, detail) = readiness(503, body);
        assert_eq!(state, State::Failed);
        assert!(detail.contains("not reachable; look at control-plane.urls"), "{detail}");
    }

    #[test]
    fn one_publisher_is_right_and_none_or_two_are_not() {
        assert_eq!(publisher(1.0).0, State::Ok);
        assert!(publisher(0.0).1.contains("nothing is pushed"));
        assert!(publisher(2.0).1.contains("different etcd"));
    }

    #[test]
    fn a_gateway_that_hears_nothing_is_stale() {
        assert_eq!(freshness(0.4), (State::Ok, "heard from the publisher 400.0 ms ago".to_owned()));
        let (state, detail) = freshness(61.0);
        assert_eq!(state, State::Failed);
        assert!(detail.starts_with("no word of the publisher for 61.0 s"), "{detail}");
        assert_eq!(freshness(f64::NAN).0, State::Ok, "a figure that makes no sense proves nothing");
    }

    #[test]
    fn versions_that_differ_are_named() {
        let mut versions = BTreeMap::from([("1.2.0".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        assert_eq!(of_one_version(&versions), (State::Ok, "all are 1.2.0".to_owned()));
        versions.insert("1.3.0".to_owned(), vec!["c".to_owned()]);
        let (state, detail) = of_one_version(&versions);
        assert_eq!(state, State::Warning);
        assert!(detail.starts_with("1.2.0 at a, b; 1.3.0 at c: finish the upgrade"), "{detail}");
        versions.insert("1.4.0".to_owned(), vec!["d".to_owned()]);
        assert_eq!(of_one_version(&versions).0, State::Failed);
    }

    #[test]
    fn clocks_that_are_apart_are_named() {
        let (state, detail) = clocks(&[("a".into(), 0.2), ("b".into(), -9.0), ("c".into(), 0.0)]);
        assert!(state == State::Failed && detail.starts_with("b and a are 9.2 s apart"), "{detail}");
        assert_eq!(clocks(&[("a".into(), 0.2), ("b".into(), 1.0)]).0, State::Ok);
    }
}
