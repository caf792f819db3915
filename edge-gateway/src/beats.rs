//! Heartbeats that this gateway answers by itself, where control planes have them reported
//! (`lease.mode = reported`).
//!
//! ```text
//! heartbeat ──▶ known, told of ends, trusted, granted? ──▶ answered, and reported to the publisher
//!                 ▲    no ──▶ a control plane ──▶ its answer says that the instance may be known from now on
//!                 └───────────────────────────────────┘
//! ```
//!
//! In: heartbeats, answers of control planes, and ticks of the publisher. Out: reports. [`liveness::Desk`]
//! decides. Nothing is known without a publisher that tells of ends, so nothing changes with control planes
//! of earlier versions, or with `lease.mode = direct`. A gateway that is not certain passes the heartbeat on.
//!
//! Access control is decided for each heartbeat anew, by the policy that the gateway holds. A caller whose
//! rights depend on the labels of the service goes on to a control plane, and so does everybody while the
//! policy is too old.

use std::sync::Arc;

use access::decision::authorization;
use access::{Access, Certified, Grant, access_of};
use answer::beats;
use bus::Bus;
use http::{HeaderMap, Method};
use liveness::{Desk, Key, Known, ReporterId, Timing};
use opentelemetry::metrics::Meter;
use shared::model::{Revision, ServiceRef, Tenant};
use tokio_util::sync::CancellationToken;

use crate::metrics::{AnsweredBy, BeatsMetrics};
use crate::policy::{PolicyHandle, Standing};

/// The most heartbeats that wait for an acknowledgement.
const WAITING: usize = 500_000;

/// The settings of heartbeats that are answered here.
#[derive(Clone, Debug)]
pub struct BeatsConfig {
    /// Heartbeats are answered here where control planes have them reported.
    pub enabled: bool,
    /// The memory for instances that are known to exist.
    pub memory: usize,
}

impl Default for BeatsConfig {
    fn default() -> Self {
        Self { enabled: true, memory: 64 << 20 }
    }
}

/// The heartbeats that are answered here. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Beats {
    /// `None` if all are passed on.
    desk: Option<Arc<Desk>>,
    policy: PolicyHandle,
    metrics: BeatsMetrics,
}

impl Beats {
    /// Answers nothing yet.
    pub(crate) fn new(config: &BeatsConfig, policy: PolicyHandle, meter: &Meter) -> Self {
        let desk = config.enabled.then(|| {
            // Another process must not have it, and nobody has to guess it.
            let id = ReporterId(fastrand::u128(..));
            let desk = Desk::new(id, Timing::default(), WAITING);
            Arc::new(desk.knowing((config.memory / Known::BYTES).max(1)))
        });
        let metrics = BeatsMetrics::new(meter);
        if let Some(desk) = &desk {
            let (of_known, of_trust) = (desk.clone(), desk.clone());
            BeatsMetrics::observe(meter, move || of_known.known(), move || of_trust.is_certain());
        }
        Self { desk, policy, metrics }
    }

    /// Passes all heartbeats on.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { desk: None, policy: PolicyHandle::off(), metrics: BeatsMetrics::none() }
    }

    /// Reports until `stop`, and then for the last time.
    pub(crate) async fn run(self, bus: Arc<dyn Bus>, stop: CancellationToken) {
        if let Some(desk) = self.desk {
            desk.run(bus, stop).await;
        }
    }

    /// True while heartbeats of instances that are known may be answered here, and others learned.
    pub(crate) fn is_certain(&self) -> bool {
        self.desk.as_ref().is_some_and(|desk| desk.is_certain())
    }

    /// Takes one request's heartbeats. True if they are to be answered here; false if they must be passed on.
    pub(crate) fn take(&self, keys: &[Key]) -> bool {
        let is_taken = self.desk.as_ref().is_some_and(|desk| desk.beat_known(keys));
        if is_taken {
            self.metrics.answered(AnsweredBy::Gateway);
        }
        is_taken
    }

    /// Counts one request's heartbeats that were passed on.
    pub(crate) fn passed_on(&self) {
        self.metrics.answered(AnsweredBy::ControlPlane);
    }

    /// A control plane has answered for these instances at a revision.
    pub(crate) fn learn(&self, keys: &[Key], rev: Revision) {
        if let Some(desk) = &self.desk {
            desk.learn(keys, rev);
        }
    }

    /// An instance was unregistered through this gateway.
    pub(crate) fn forget(&self, service: &ServiceRef, instance: &str) {
        if let Some(desk) = &self.desk {
            desk.forget(Key::of(service, instance));
        }
    }

    /// Nothing is known any more: a service was deleted through this gateway, or the store was restored.
    pub(crate) fn forget_all(&self) {
        if let Some(desk) = &self.desk {
            desk.forget_all();
        }
    }

    /// True if the policy that is held lets the caller of a heartbeat in this tenant send it, whatever the
    /// labels of the service are.
    pub(crate) fn may_beat(&self, caller: &Sender<'_>) -> bool {
        let policy = match self.policy.standing() {
            Standing::Open => return true,
            Standing::Guarded(policy) => policy,
            Standing::Closed(..) => return false,
        };
        let Access::Needs(need, _) = access_of(&Method::PUT, caller.path) else { return false };
        if !policy.protects(need.resource) {
            return true;
        }
        let decided = authorization(caller.headers)
            .and_then(|header| self.policy.identify(&policy, header, caller.certified.cloned()))
            .and_then(|account| account.enter(&policy, caller.tenant).map(|()| account))
            .and_then(|account| account.grant(&policy, need));
        decided.is_ok_and(|grant| grant == Grant::All)
    }

    /// True if the gate has let the caller of a heartbeat through whatever the labels of the service are, and
    /// by a policy that decides.
    pub(crate) fn is_covered(&self, grant: &Grant) -> bool {
        *grant == Grant::All && !matches!(self.policy.standing(), Standing::Closed(..))
    }
}

/// The client in whose name a heartbeat is sent.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    /// The path of the heartbeat.
    pub(crate) path: &'a str,
    pub(crate) tenant: &'a Tenant,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) certified: Option<&'a Certified>,
}

/// Asks the control plane that a heartbeat is passed on to whether the instance may be known here.
pub(crate) fn ask(headers: &mut HeaderMap) {
    headers.insert(beats::KNOWN, beats::ASK);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use access::Policy;
    use access::policy::AccountState;
    use access::role::{Permission, Resource, Role};
    use shared::clock::Clock;

    use super::*;
    use crate::metrics::PolicyMetrics;
    use crate::policy::PolicyConfig;

    const PATH: &str = "/v4/default/registry/microservices/s/instances/i/heartbeat";

    /// Accounts named after their only role. All of them may enter the tenant `default/default` only.
    fn policy() -> Policy {
        let role = |name: &str, verb: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let services = Resource { kind: "service".into(), labels: labels.collect() };
            let perms = vec![Permission { resources: vec![services], verbs: vec![verb.into()] }];
            (name.to_owned(), Arc::new(Role { name: name.into(), perms, ..Role::default() }))
        };
        let roles = BTreeMap::from([
            role("all", "*", &[]),
            role("reader", "get", &[]),
            role("shop", "update", &[("appId", "shop")]),
        ]);
        let account = |name: &String| {
            let state = AccountState {
                roles: vec![name.clone()],
                tenants: vec!["default/default".into()],
                ..AccountState::default()
            };
            (name.clone(), state)
        };
        let accounts = roles.keys().map(account).collect();
        Policy { enabled: true, roles, accounts, ..Policy::default() }
    }

    fn may_beat(policy: Option<Policy>, enable: bool, account: &str, domain: &str, ends: u64) -> bool {
        let config = PolicyConfig { enable, ..PolicyConfig::default() };
        let handle = PolicyHandle::new(config, Clock::system(), PolicyMetrics::none());
        if let Some(policy) = policy {
            handle.give(policy);
        }
        let beats = Beats { policy: handle, ..Beats::none() };
        let certified = (!account.is_empty()).then(|| Certified { account: account.into(), ends });
        beats.may_beat(&Sender {
            path: PATH,
            tenant: &Tenant::new(domain, "default"),
            headers: &HeaderMap::new(),
            certified: certified.as_ref(),
        })
    }

    #[test]
    fn a_beat_is_answered_only_where_no_label_decides() {
        let far = u64::MAX;
        assert!(may_beat(Some(policy()), true, "all", "default", far));
        assert!(!may_beat(Some(policy()), true, "reader", "default", far));
        assert!(!may_beat(Some(policy()), true, "shop", "default", far), "a control plane knows the labels");
        assert!(!may_beat(Some(policy()), true, "nobody", "default", far));
        assert!(!may_beat(Some(policy()), true, "", "default", far));
        assert!(!may_beat(Some(policy()), true, "all", "other", far), "it may not enter");
        assert!(!may_beat(Some(policy()), true, "all", "default", 1), "its certificate is over");
        assert!(!may_beat(None, true, "all", "default", far), "there is no policy yet");
        assert!(may_beat(None, false, "", "default", far), "access control is off");
    }

    #[test]
    fn a_gateway_that_hears_nothing_takes_nothing() {
        let desk = Arc::new(Desk::new(ReporterId(1), Timing::default(), WAITING).knowing(10));
        let beats = Beats { desk: Some(desk), ..Beats::none() };
        let key = Key::of(&ServiceRef::new(Tenant::default(), "s"), "i");
        beats.learn(&[key], Revision::new(7));
        assert!(!beats.is_certain() && !beats.take(&[key]));
        assert!(!Beats::none().is_certain());
    }
}
