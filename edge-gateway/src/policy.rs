//! The access policy at this gateway: the one that the control planes keep, whether it is fresh, and what
//! that means for requests.
//!
//! ```text
//! bookmarks ──heard──▶ PolicyHandle ◀──take── Follower ◀──parts── a control plane
//!                          │ standing
//!                          ▼
//!                     gateway, shards
//! ```
//!
//! In: the versions that bookmarks name, and bundles. Out: a [`Standing`] for each decision. Versions never
//! go back while the publisher's view is behind a replica's; one that is not, and has another policy, counts,
//! because replicas with different settings have different ones. A policy that nothing has confirmed for a
//! while decides nothing new: accounts may have lost their rights meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use access::token::{POLICY_WAIT, Verifier};
use access::{Admitted, Certified, Denial, Identity, Policy};
use arc_swap::ArcSwapOption;
use shared::clock::Clock;
use shared::model::{PolicyVersion, Revision};
use tokio::sync::watch;

use crate::metrics::PolicyMetrics;

mod follower;
mod operators;
mod right;

pub(crate) use follower::Follower;
pub(crate) use right::{Client, Right, Verdict, WATCH, labels_of};

/// The settings of access control at a gateway.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// Access control is demanded here: without a policy that says so, nothing is let in.
    pub enable: bool,
    /// The time after which a policy that no bookmark has confirmed lets nothing new in.
    pub stale_for: Duration,
    /// The time over which watches end that were opened without a token before access control was switched
    /// on.
    pub end_over: Duration,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        // Longer than a fail-over of the publisher or a restart of NATS, short against the life of a token.
        Self { enable: false, stale_for: Duration::from_secs(60), end_over: Duration::from_secs(15) }
    }
}

/// The words for clients when no policy decides.
pub(crate) const NO_POLICY: &str = "no access policy has arrived from a control plane yet; try again";
const STALE: &str = "the access policy is too old to decide by; try again";
const DISABLED: &str = "access control is on at this gateway and off at its control planes";

/// The way in which a request is decided now.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Access control is off.
    Open,
    /// This policy decides.
    Guarded(Arc<Policy>),
    /// Nothing can be decided, for this reason. The last policy is known when it is merely too old.
    Closed(&'static str, Option<Arc<Policy>>),
}

/// The policy of this gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PolicyHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: PolicyConfig,
    held: ArcSwapOption<Held>,
    /// Grows with each policy that is taken, so that others notice a change for the price of a load.
    generation: AtomicU64,
    /// The policy that is held is the publisher's up to this revision.
    known: watch::Sender<Revision>,
    /// The version that the last bookmark named, unless it is the one held.
    wanted: watch::Sender<Option<PolicyVersion>>,
    /// The next policy may be of an earlier revision, if it is the publisher's: the store was restored from a
    /// backup, or the publisher's settings differ from those of the replica that sent the one held.
    any_revision: AtomicBool,
    verifier: Verifier,
    clock: Clock,
    metrics: PolicyMetrics,
}

#[derive(Debug)]
struct Held {
    version: PolicyVersion,
    policy: Arc<Policy>,
}

impl PolicyHandle {
    /// A gateway that holds no policy yet.
    pub(crate) fn new(config: PolicyConfig, clock: Clock, metrics: PolicyMetrics) -> Self {
        Self(Arc::new(Shared {
            config,
            held: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            known: watch::Sender::new(Revision::ZERO),
            wanted: watch::Sender::new(None),
            any_revision: AtomicBool::new(false),
            verifier: Verifier::default(),
            clock,
            metrics,
        }))
    }

    /// A gateway without access control, for tests and benches.
    #[cfg(any(test, feature = "micro"))]
    pub(crate) fn off() -> Self {
        Self::new(PolicyConfig::default(), Clock::system(), PolicyMetrics::none())
    }

    /// The way in which a request is decided now.
    pub(crate) fn standing(&self) -> Standing {
        let required = self.0.config.enable;
        let held = self.0.held.load();
        match held.as_deref() {
            None if required => Standing::Closed(NO_POLICY, None),
            None => Standing::Open,
            Some(held) if held.policy.enabled && self.is_stale() => {
                Standing::Closed(STALE, Some(held.policy.clone()))
            }
            Some(held) if held.policy.enabled => Standing::Guarded(held.policy.clone()),
            Some(_) if required => Standing::Closed(DISABLED, None),
            Some(_) => Standing::Open,
        }
    }

    /// The last policy, however old. Sessions that are open go on by it.
    pub(crate) fn last(&self) -> Option<Arc<Policy>> {
        self.0.held.load().as_deref().map(|held| held.policy.clone())
    }

    /// A number that grows whenever the policy changes.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The identity that the value of a header `Authorization` shows now.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn authenticate(&self, policy: &Policy, header: Option<&[u8]>) -> Result<Identity, Denial> {
        policy.authenticate(header, &self.0.verifier, self.now())
    }

    /// The account behind a request: that of its token, and without one that of its certificate.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn identify(
        &self,
        policy: &Arc<Policy>,
        header: Option<&[u8]>,
        certified: Option<Certified>,
    ) -> Result<Arc<Admitted>, Denial> {
        policy.identify(header, certified, &self.0.verifier, self.now())
    }

    /// The revision up to which the policy is known. A decision that is made after this call is made by a
    /// policy that is as new at least.
    pub(crate) fn known(&self) -> Revision {
        *self.0.known.borrow()
    }

    /// The revision that the policy has to be known up to before the refusal of a request with this header is
    /// final: its token is newer than the policy, and so may be its account or role. `None` when it is final.
    ///
    /// `known` is the value of [`Self::known`] from before the decision. A policy that arrives between the
    /// decision and this call would otherwise make the refusal by the older policy final.
    pub(crate) fn owed_to(&self, header: Option<&[u8]>, known: Revision) -> Option<Revision> {
        let Standing::Guarded(policy) = self.standing() else { return None };
        policy.owed_to(header, &self.0.verifier, self.now(), known)
    }

    /// Waits until the policy is known up to a revision, for [`POLICY_WAIT`] at most. Cancel-safe.
    pub(crate) async fn reached(&self, revision: Revision) {
        let mut known = self.0.known.subscribe();
        let reached = known.wait_for(|known| *known >= revision);
        // The gate decides again whatever has come of it: with the same policy it refuses again.
        let _ = tokio::time::timeout(POLICY_WAIT, reached).await;
    }

    /// Seconds since 1970, by which tokens are judged.
    pub(crate) fn now(&self) -> u64 {
        self.0.clock.micros() / 1_000_000
    }

    /// The time over which watches end whose clients have not lost anything.
    pub(crate) fn end_over(&self) -> Duration {
        self.0.config.end_over
    }

    /// The instruments of access control.
    pub(crate) fn metrics(&self) -> &PolicyMetrics {
        &self.0.metrics
    }

    /// A bookmark has named the publisher's policy at a revision.
    pub(crate) fn heard(&self, version: Option<PolicyVersion>, at: Revision) {
        // A publisher of a version without policies confirms none.
        let Some(version) = version else { return };
        if self.satisfies(Some(version)) {
            self.0.metrics.confirmed();
            self.knows(at);
            return;
        }
        let held = self.0.held.load().as_deref().map_or(Revision::ZERO, |held| held.version.revision);
        if at < held && !self.0.any_revision.load(Ordering::Relaxed) {
            // It has not seen yet what the replica had seen that sent the policy.
            return;
        }
        if version.revision < held {
            self.0.any_revision.store(true, Ordering::Relaxed);
        }
        self.0.wanted.send_replace(Some(version));
    }

    /// The store was restored from a backup, so that its revisions have begun again.
    pub(crate) fn restored(&self) {
        self.0.known.send_replace(Revision::ZERO);
        self.0.any_revision.store(true, Ordering::Relaxed);
    }

    /// True when the policy that is held is enough for a message that names `wanted`.
    fn satisfies(&self, wanted: Option<PolicyVersion>) -> bool {
        let held = self.0.held.load();
        let Some(held) = held.as_deref() else { return false };
        wanted.is_none_or(|wanted| held.version.digest == wanted.digest)
    }

    /// Takes a policy, unless it is older than the one held, or not the one that was asked for. True when
    /// nothing more is to be asked.
    fn take(&self, wanted: Option<PolicyVersion>, version: PolicyVersion, policy: Policy) -> bool {
        let any_revision = self.0.any_revision.load(Ordering::Relaxed);
        let held = self.0.held.load();
        let is_older = held.as_deref().is_some_and(|held| version.revision < held.version.revision);
        // Replicas with different settings have different policies at one revision. The publisher's counts.
        let is_asked_for = wanted.is_none_or(|wanted| {
            version.digest == wanted.digest || (version.revision > wanted.revision && !any_revision)
        });
        if (is_older && !any_revision) || !is_asked_for {
            return false;
        }
        self.0.metrics.took(version.revision);
        if held.as_deref().is_none_or(|held| held.version != version) {
            self.0.held.store(Some(Arc::new(Held { version, policy: Arc::new(policy) })));
            self.0.any_revision.store(false, Ordering::Relaxed);
            self.0.generation.fetch_add(1, Ordering::Release);
        }
        // Last: a request that waits for this revision decides by the policy that is held when it wakes.
        self.knows(version.revision);
        true
    }

    /// The policy that is held is that of this revision too.
    fn knows(&self, revision: Revision) {
        self.0.known.send_if_modified(|known| {
            let is_later = revision > *known;
            *known = revision.max(*known);
            is_later
        });
    }

    /// Takes a policy without having asked, for tests.
    #[cfg(test)]
    pub(crate) fn give(&self, policy: Policy) {
        let version = access::Bundle::of(&policy).version;
        assert!(self.take(None, version, policy), "it is newer");
    }

    fn is_stale(&self) -> bool {
        self.0.metrics.age() > self.0.config.stale_for
    }
}

#[cfg(test)]
mod tests;
