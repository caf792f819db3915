//! Keeps the zone of DNS as the registry is.
//!
//! In: the services of one tenant, and the policy of access control. Out: on the [`Board`], the zone that the
//! server of DNS answers from. The board shows nothing before the whole tenant is known. After that it shows
//! the last that is known, also when the bus and the control planes are lost.
//!
//! A question of DNS has no token. With access control the rights of the account in `dns.account` decide, by
//! the last policy that is known: like a session that is open, the zone goes on by a policy that is too old
//! to let anybody new in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::{Certified, Grant, Identity};
use dns::{Board, DnsConfig, Origin, Stamp, State, Zone};
use follow::read::ReadTopic;
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::catalogue::{Catalogue, Services};
use crate::policy::{PolicyHandle, Standing, WATCH, labels_of};

/// The pause before the tenant is asked for again, and the longest one between two looks at the policy.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after a zone was made, as a multiple of the time that it took: a large tenant that changes all
/// the time takes a fifth of a core.
const REST: u32 = 4;

/// The keeper of the zone.
pub(crate) struct ZoneKeeper {
    pub(crate) config: DnsConfig,
    pub(crate) origin: Arc<Origin>,
    pub(crate) board: Board,
    pub(crate) catalogue: Catalogue,
    pub(crate) policy: PolicyHandle,
}

/// The part of the tenant that may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Some(Grant),
    Nothing(String),
    /// No policy has arrived that could decide.
    Undecided,
}

impl ZoneKeeper {
    /// Keeps the zone until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        _ = stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut followed = loop {
            match self.catalogue.open(&self.config.tenant).await {
                Ok(followed) => break followed,
                Err(reason) => warn!(tenant = %self.config.tenant, "DNS answers with failures: {reason}"),
            }
            sleep(LOOK).await;
        };
        info!(tenant = %self.config.tenant, "DNS answers");
        let mut last = Told::Undecided;
        let mut before = None;
        loop {
            let began = Instant::now();
            let services = followed.now();
            let told = self.told();
            if let (Told::Nothing(reason), true) = (&told, told != last) {
                warn!("DNS refuses everything: {reason}");
            }
            before = self.show(&services, &told, before);
            last = told;
            sleep(began.elapsed() * REST).await;
            // At the latest after a while, because the policy may be another one without a change of
            // services.
            _ = timeout(LOOK, followed.changed()).await;
        }
    }

    fn told(&self) -> Told {
        if self.config.anonymous {
            return Told::Some(Grant::All);
        }
        let policy = match self.policy.standing() {
            Standing::Open => return Told::Some(Grant::All),
            Standing::Guarded(policy) | Standing::Closed(_, Some(policy)) => policy,
            Standing::Closed(_, None) => return Told::Undecided,
        };
        if !policy.protects(WATCH.resource) {
            return Told::Some(Grant::All);
        }
        let Some(account) = &self.config.account else {
            return Told::Nothing(
                "access control is on, and neither dns.account nor dns.anonymous is set".into(),
            );
        };
        // The operator has named it, so nothing else needs to show it, and it has no end.
        let identity = Identity::Certificate(Certified { account: account.as_str().into(), ends: u64::MAX });
        let granted = policy
            .still_counts(&identity, self.policy.now())
            .and_then(|()| policy.enter(&identity, &self.config.tenant))
            .and_then(|()| policy.grant(&identity, WATCH));
        match granted {
            Ok(grant) => Told::Some(grant),
            Err(denial) => Told::Nothing(format!("the account {account} may read nothing: {denial}")),
        }
    }

    fn show(&self, services: &Services, told: &Told, before: Option<Arc<Zone>>) -> Option<Arc<Zone>> {
        self.board.set_age(services.age(Instant::now()).unwrap_or_default());
        let grant = match told {
            Told::Some(grant) => grant,
            Told::Nothing(_) => {
                self.board.show(State::Closed);
                return None;
            }
            Told::Undecided => {
                self.board.show(State::Unknown);
                return None;
            }
        };
        let known: Vec<Known<'_>> = services
            .iter()
            // A service whose name is not known yet is told to nobody. It stays among these, so that the
            // zone does not deny a name that may be its.
            .filter(|(_, topic)| topic.key.as_ref().is_none_or(|key| grant.admits(labels_of(key))))
            .map(|(service, topic)| Known { service, topic })
            .collect();
        let revision = services.contained().get();
        let zone = Zone::new(self.origin.clone(), revision, &known, before.as_deref());
        let is_whole = services.prove_absence(Revision::ZERO);
        let zone = Arc::new(if is_whole { zone } else { zone.incomplete() });
        self.board.show(State::Known(zone.clone()));
        Some(zone)
    }
}

/// A service of the catalogue.
struct Known<'a> {
    service: &'a ServiceRef,
    topic: &'a ReadTopic,
}

impl dns::Service for Known<'_> {
    fn key(&self) -> Option<&ServiceKey> {
        self.topic.key.as_deref()
    }

    fn stamp(&self) -> Stamp {
        Stamp { id: self.service.id.as_str().into(), at: self.topic.at, digest: self.topic.digest }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.topic.instances.values().map(|(instance, _)| instance)
    }
}
