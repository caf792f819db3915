//! Checks running processes by their admin ports: each is to be ready and fresh; together they are to have
//! one version, one time and one publisher.

use shared::clock::Clock;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use host::telemetry::scrape::Scrape;
use serde_json::Value;

mod access;

use self::access::Guards;
use super::{Finding, MAX_CLOCK_SKEW, Outcome, date, failed, ok, shown, unmet_conditions, warning};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::target::Target;

/// Share of the file descriptors in use from which on a process is about to refuse connections.
const MAX_FILES_SHARE: f64 = 0.8;
/// Share of etcd's quota from which on control planes slow those who write most.
const MAX_STORE_SHARE: f64 = 0.8;
/// Seconds without a message of the publisher from which on a gateway is stale, as for the alert
/// `MusterGatewayStale`.
const STALE_SECONDS: f64 = 10.0;

/// The reports of the processes, to be compared at the end.
#[derive(Default)]
struct Fleet {
    control_planes: usize,
    publishers: f64,
    /// Seconds by which the clock of each process is ahead of this machine's.
    clock_offsets: Vec<(String, f64)>,
    /// The processes of each version.
    versions: BTreeMap<String, Vec<String>>,
    access: Guards,
}

/// Checks every process by itself, then compares them.
///
/// `token` is for the routes of operators.
pub(super) async fn check(
    admins: &[url::Url],
    token: Option<&str>,
    target: &Target,
) -> Result<Vec<Finding>, CommandFailure> {
    let mut findings = Vec::new();
    let mut fleet = Fleet::default();
    for admin in admins {
        let target = Target::process(admin.clone(), target.timeout, target.trust.clone());
        let process = RegistryClient::new(&target)?;
        check_process(&process, &mut fleet, &mut findings).await;
        fleet.access.check(&process, token, target.is_this_machine(), &mut findings).await;
    }
    if !fleet.versions.is_empty() {
        findings.push(Finding::new("versions", versions(&fleet.versions)));
    }
    findings.extend(fleet.access.compared().map(|outcome| Finding::new("access", outcome)));
    // Gateways alone say nothing about the publisher.
    if fleet.control_planes > 0 {
        findings.push(Finding::new("publisher", publisher(fleet.publishers)));
    }
    if fleet.clock_offsets.len() > 1 {
        findings.push(Finding::new("clocks", clocks(&fleet.clock_offsets)));
    }
    Ok(findings)
}

async fn check_process(process: &RegistryClient, fleet: &mut Fleet, findings: &mut Vec<Finding>) {
    let name = process.server();
    let ready = match process.get_root("/ready").await {
        Ok(reply) => reply,
        Err(failure) => {
            let outcome = failed(format!("{failure}; is it running, and is this its admin port?"));
            findings.push(Finding::new(format!("{name} ready"), outcome));
            return;
        }
    };
    if let Some(theirs) = date(ready.headers()) {
        fleet.clock_offsets.push((name.clone(), seconds_ahead(theirs)));
    }
    let outcome = readiness(ready.status().as_u16(), ready.body());
    findings.push(Finding::new(format!("{name} ready"), outcome));

    // A process that ends between the two requests has been reported as it was.
    let Ok(reply) = process.get_root("/metrics").await else { return };
    let scrape = Scrape::parse(reply.body());
    if let Some(active) = scrape.sum("muster_publisher_active", "") {
        fleet.control_planes += 1;
        fleet.publishers += active;
    }
    if let Some(version) = scrape.label("muster_build_info", "version") {
        fleet.versions.entry(version.to_owned()).or_default().push(name.clone());
    }
    if let Some(silent) = scrape.sum("muster_edge_staleness_seconds", "") {
        findings.push(Finding::new(format!("{name} freshness"), freshness(silent)));
    }
    let used = scrape.sum("muster_store_bytes", "");
    let quota = scrape.sum("muster_store_quota_bytes", "");
    if let (Some(used), Some(quota)) = (used, quota) {
        let is_full = scrape.sum("muster_store_full", "").is_some_and(|full| full > 0.0);
        findings.push(Finding::new(format!("{name} store"), store_room(used, quota, is_full)));
    }
    let open = scrape.sum("process_open_fds", "");
    let limit = scrape.sum("process_max_fds", "");
    if let (Some(open), Some(limit)) = (open, limit)
        && open > MAX_FILES_SHARE * limit
    {
        let outcome = failed(format!(
            "{open:.0} of {limit:.0} are open: raise LimitNOFILE before connections are refused"
        ));
        findings.push(Finding::new(format!("{name} open files"), outcome));
    }
}

fn readiness(status: u16, body: &str) -> Outcome {
    if status == 200 {
        return ok("ready");
    }
    let report: Value = serde_json::from_str(body).unwrap_or_default();
    // A draining process is not ready on purpose.
    if report["draining"] == true {
        return warning("it is draining and will end by itself");
    }
    let mut unmet = Vec::new();
    for (name, reason) in unmet_conditions(body) {
        let advice = match name.as_str() {
            "view" | "store" => "look at etcd: muster doctor --program control-plane",
            "bus" => "look at NATS: muster doctor --program edge-gateway",
            "control_plane" => "look at control-plane.urls and the control planes' own /ready",
            _ => "look at its log",
        };
        unmet.push(format!("{name}: {reason}; {advice}"));
    }
    failed(format!("not ready; {}", unmet.join("; ")))
}

fn publisher(publishers: f64) -> Outcome {
    match publishers {
        1.0 => ok("one control plane publishes"),
        0.0 => failed(
            "no control plane publishes, so nothing is pushed: look at their links to etcd; if --admin does not \
             name all control planes, add the others",
        ),
        n => failed(format!(
            "{n:.0} control planes publish: they use different etcd clusters and share one NATS; give each etcd \
             cluster a NATS of its own"
        )),
    }
}

fn store_room(used: f64, quota: f64, is_full: bool) -> Outcome {
    let advice = "compact and defragment etcd, then disarm its alarm: docs/runbooks/store-full.md";
    if is_full {
        return failed(format!("etcd is full and refuses every write: {advice}"));
    }
    let share = format!("{:.0} % of etcd's quota are used", used / quota.max(1.0) * 100.0);
    if used > MAX_STORE_SHARE * quota { warning(format!("{share}: {advice}")) } else { ok(share) }
}

fn freshness(silent: f64) -> Outcome {
    // A figure that is not a duration (NaN) proves nothing and counts as zero.
    let silence = shown(Duration::try_from_secs_f64(silent).unwrap_or_default());
    if silent > STALE_SECONDS {
        failed(format!(
            "no word of the publisher for {silence}, so nothing is pushed here: look at the control planes, and at \
             this gateway's link to NATS"
        ))
    } else {
        ok(format!("heard from the publisher {silence} ago"))
    }
}

/// Neighbouring versions work together, so that one can be upgraded to the other. More versions than an
/// upgrade needs are a mistake.
fn versions(versions: &BTreeMap<String, Vec<String>>) -> Outcome {
    let all: Vec<String> =
        versions.iter().map(|(version, names)| format!("{version} at {}", names.join(", "))).collect();
    match versions.len() {
        1 => ok(versions.keys().map(|version| format!("all are {version}")).collect::<String>()),
        2 => warning(format!("{}: finish the upgrade, or take it back", all.join("; "))),
        _ => failed(format!(
            "{}: upgrade from one version to one other, see docs/operations.md",
            all.join("; ")
        )),
    }
}

fn seconds_ahead(theirs: SystemTime) -> f64 {
    match theirs.duration_since(Clock::system().now()) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

fn clocks(offsets: &[(String, f64)]) -> Outcome {
    let ahead = offsets.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let behind = offsets.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let (Some(ahead), Some(behind)) = (ahead, behind) else { return ok("") };
    let apart = Duration::from_secs_f64(ahead.1 - behind.1);
    if apart > MAX_CLOCK_SKEW {
        failed(format!("{} and {} are {} apart: synchronise them (chrony)", behind.0, ahead.0, shown(apart)))
    } else {
        ok("they agree")
    }
}

#[cfg(test)]
mod tests {
    use super::super::CheckState;
    use super::*;

    #[test]
    fn an_unmet_condition_comes_with_advice() {
        let body = r#"{"ready":false,"draining":false,"conditions":{"bus":{"met":true,"reason":""},"control_plane":{"met":false,"reason":"not reachable"}}}"#;
        let (state, detail) = readiness(503, body);
        assert_eq!(state, CheckState::Failed);
        assert!(detail.contains("not reachable; look at control-plane.urls"), "{detail}");
    }

    #[test]
    fn exactly_one_publisher_is_right() {
        assert_eq!(publisher(1.0).0, CheckState::Ok);
        assert!(publisher(0.0).1.contains("nothing is pushed"));
        assert!(publisher(2.0).1.contains("different etcd"));
    }

    #[test]
    fn a_gateway_without_messages_is_stale() {
        assert_eq!(freshness(0.4), ok("heard from the publisher 400.0 ms ago"));
        let (state, detail) = freshness(61.0);
        assert_eq!(state, CheckState::Failed);
        assert!(detail.starts_with("no word of the publisher for 61.0 s"), "{detail}");
        assert_eq!(freshness(f64::NAN).0, CheckState::Ok, "a figure that makes no sense proves nothing");
    }

    #[test]
    fn a_store_that_fills_up_is_named_before_it_is_full() {
        assert_eq!(store_room(10.0, 100.0, false), ok("10 % of etcd's quota are used"));
        assert_eq!(store_room(81.0, 100.0, false).0, CheckState::Warning);
        let (state, detail) = store_room(100.0, 100.0, true);
        assert!(state == CheckState::Failed && detail.contains("refuses every write"), "{detail}");
    }

    #[test]
    fn different_versions_are_named() {
        let mut found = BTreeMap::from([("1.2.0".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        assert_eq!(versions(&found), ok("all are 1.2.0"));
        found.insert("1.3.0".to_owned(), vec!["c".to_owned()]);
        let (state, detail) = versions(&found);
        assert_eq!(state, CheckState::Warning);
        assert!(detail.starts_with("1.2.0 at a, b; 1.3.0 at c: finish the upgrade"), "{detail}");
        found.insert("1.4.0".to_owned(), vec!["d".to_owned()]);
        assert_eq!(versions(&found).0, CheckState::Failed);
    }

    #[test]
    fn clocks_that_differ_are_named() {
        let (state, detail) = clocks(&[("a".into(), 0.2), ("b".into(), -9.0), ("c".into(), 0.0)]);
        assert!(state == CheckState::Failed && detail.starts_with("b and a are 9.2 s apart"), "{detail}");
        assert_eq!(clocks(&[("a".into(), 0.2), ("b".into(), 1.0)]).0, CheckState::Ok);
    }
}
