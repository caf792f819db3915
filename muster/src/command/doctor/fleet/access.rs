//! Checks access control of running processes: each is to decide by a fresh policy, and all by the same one.

use std::collections::BTreeMap;
use std::time::Duration;

use host::admin::access::{self, AccessReport, AccessState};
use host::inventory::Plane;
use http::Method;

use super::super::{Finding, Outcome, failed, ok, shown, warning};
use crate::client::RegistryClient;

/// The access control of all processes, to be compared at the end.
#[derive(Default)]
pub(super) struct Guards {
    /// The planes where access control is off.
    open: Vec<String>,
    /// The planes that decide, by the digest of their policies.
    guarded: BTreeMap<String, Vec<String>>,
}

impl Guards {
    /// Asks a process for its state.
    pub(super) async fn check(
        &mut self,
        process: &RegistryClient,
        token: Option<&str>,
        is_this_machine: bool,
        findings: &mut Vec<Finding>,
    ) {
        let name = process.server();
        // A process that cannot be reached has a finding already.
        let Ok(reply) = process.request_root(Method::GET, access::PATH, token).await else { return };
        let outcome = match reply.status().as_u16() {
            200 => match serde_json::from_str::<Vec<AccessReport>>(reply.body()) {
                Ok(reports) => {
                    for report in &reports {
                        let plane = format!("{name} access at the {}", word(report.plane));
                        self.note(&format!("{name} ({})", word(report.plane)), report);
                        findings.push(Finding::new(plane, judged(report, is_this_machine)));
                    }
                    return;
                }
                Err(error) => failed(format!("the report cannot be read: {error}")),
            },
            404 => warning("it says nothing about access control: is it of an older version?"),
            403 => warning(
                "shown to operators only: give --admin-token, or with access control muster login --server with an \
                 account that has the right ops; a standalone registry with neither needs admin-listen for it",
            ),
            status => failed(format!("the report was answered with the status {status}")),
        };
        findings.push(Finding::new(format!("{name} access"), outcome));
    }

    fn note(&mut self, name: &str, report: &AccessReport) {
        match report.state {
            AccessState::Open => self.open.push(name.to_owned()),
            AccessState::Guarded => {
                self.guarded.entry(report.digest.clone()).or_default().push(name.to_owned());
            }
            // It has a finding of its own.
            AccessState::Closed => {}
        }
    }

    /// The comparison of all planes; `None` when there is nothing to compare.
    pub(super) fn compared(&self) -> Option<Outcome> {
        if self.open.len() + self.guarded.values().map(Vec::len).sum::<usize>() < 2 {
            return None;
        }
        let groups: Vec<String> = self.guarded.values().map(|names| names.join(", ")).collect();
        Some(match (self.open.is_empty(), groups.len()) {
            (false, 0) => ok("off everywhere"),
            (true, 1) => ok("all decide by the same policy"),
            (false, _) => failed(format!(
                "off at {}, and on at {}: set rbac.enable everywhere, or strangers get in",
                self.open.join(", "),
                groups.join(", ")
            )),
            (true, _) => warning(format!(
                "different policies decide at {}: some are behind, or their settings or key files differ; look again \
                 in a few seconds",
                groups.join(" and at ")
            )),
        })
    }
}

fn word(plane: Plane) -> &'static str {
    match plane {
        Plane::ControlPlane => "control plane",
        Plane::EdgeGateway => "gateway",
    }
}

fn judged(report: &AccessReport, is_this_machine: bool) -> Outcome {
    match report.state {
        AccessState::Open if is_this_machine => ok("off"),
        AccessState::Open => warning(
            "off: whoever reaches the registry may change all of it; docs/security.md says how to switch it on",
        ),
        AccessState::Closed => failed(format!(
            "on, and everything new is refused: {}; docs/runbooks/policy-stale.md",
            report.reason
        )),
        AccessState::Guarded => guarded(report),
    }
}

fn guarded(report: &AccessReport) -> Outcome {
    // Ids are long, and their beginnings tell keys apart.
    let keys: Vec<String> = report.keys.iter().map(|key| key.chars().take(8).collect()).collect();
    let mut detail = format!("on: revision {}, {} accounts", report.revision, report.accounts);
    match keys.as_slice() {
        [] => {}
        [only] => detail.push_str(&format!(", key {only}")),
        [signing, others @ ..] => {
            detail.push_str(&format!(", key {signing} signs, {} count", others.join(", ")))
        }
    }
    if !report.issuers.is_empty() {
        detail.push_str(&format!(", tokens of {}", report.issuers.join(", ")));
    }
    if let Some(age) = report.age_ms {
        detail.push_str(&format!(", confirmed {} ago", shown(Duration::from_millis(age))));
    }
    if !report.demanded {
        return warning(format!(
            "{detail}; set rbac.enable here, too: after a restart everybody is let in until the policy arrives"
        ));
    }
    match (report.age_ms, report.stale_after_ms) {
        (Some(age), Some(limit)) if age > limit / 2 => warning(format!(
            "{detail}; after {} without a word of the publisher everything new is refused",
            shown(Duration::from_millis(limit))
        )),
        _ => ok(detail),
    }
}

#[cfg(test)]
mod tests {
    use shared::model::Revision;

    use super::super::super::CheckState;
    use super::*;

    fn report(state: AccessState) -> AccessReport {
        AccessReport {
            plane: Plane::EdgeGateway,
            demanded: true,
            state,
            reason: "too old".into(),
            revision: Revision::new(7),
            digest: "d".into(),
            keys: vec!["abcdefghijk".into(), "lmnopqrstuv".into()],
            issuers: Vec::new(),
            accounts: 3,
            age_ms: Some(1_000),
            stale_after_ms: Some(60_000),
        }
    }

    #[test]
    fn a_gateway_is_judged_by_its_state_and_its_age() {
        let (state, detail) = judged(&report(AccessState::Guarded), false);
        assert_eq!(state, CheckState::Ok, "{detail}");
        assert!(detail.contains("revision 7, 3 accounts, key abcdefgh signs, lmnopqrs count"), "{detail}");
        let old = AccessReport { age_ms: Some(40_000), ..report(AccessState::Guarded) };
        assert_eq!(judged(&old, false).0, CheckState::Warning);
        let undemanded = AccessReport { demanded: false, ..report(AccessState::Guarded) };
        assert_eq!(judged(&undemanded, false).0, CheckState::Warning);
        assert_eq!(judged(&report(AccessState::Closed), true).0, CheckState::Failed);
        assert_eq!(judged(&report(AccessState::Open), false).0, CheckState::Warning);
        assert_eq!(judged(&report(AccessState::Open), true).0, CheckState::Ok);
    }

    #[test]
    fn processes_that_decide_differently_are_named() {
        let mut guards = Guards::default();
        guards.note("a", &report(AccessState::Guarded));
        assert!(guards.compared().is_none(), "one alone");
        guards.note("b", &report(AccessState::Guarded));
        assert_eq!(guards.compared().expect("two").0, CheckState::Ok);
        guards.note("c", &AccessReport { digest: "other".into(), ..report(AccessState::Guarded) });
        let (state, detail) = guards.compared().expect("three");
        assert!(state == CheckState::Warning && detail.contains("a, b and at c"), "{detail}");
        guards.note("d", &report(AccessState::Open));
        assert_eq!(guards.compared().expect("four").0, CheckState::Failed);
    }
}
