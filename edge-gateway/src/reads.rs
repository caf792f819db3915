//! Finds that the gateway answers from its own state.
//!
//! ```text
//! upstream ──▶ EdgeView (swapped after each change) ──▶ Reads ──▶ the answer, or the reason to ask a
//! control plane                                                        │ a control plane's answer with its
//! services ──▶ Lease ──┘
//! ```
//!
//! In: a question, and what a control plane has resolved before. Out: the bytes that a control plane would
//! send, if the gateway can prove them. A consumer is followed from its first find that a control plane has
//! answered, by a [`Lease`]; it ends when the consumer asks nothing for a while, or when the memory is needed
//! for others.
//!
//! Request tasks never wait for the upstream: they read an immutable [`EdgeView`]. "Nothing has changed" is a
//! claim about now, so before it a replica is asked once for all waiting requests ([`barrier`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::{Grant, Labels};
use follow::read::{Proof, ReadTopic, Unknown};
use shared::model::{Revision, ServiceRef};
use tokio::sync::watch;

use crate::policy::labels_of;

pub(crate) mod barrier;
mod batch;
mod contained;
mod found;
pub(crate) mod keeper;
mod lease;
mod lists;
mod question;
mod state;
mod view;

pub(crate) use barrier::Barrier;
pub(crate) use batch::{Questions, asker};
pub(crate) use contained::Contained;
pub(crate) use found::Found;
pub(crate) use keeper::Keeper;
pub use keeper::StateFile;
pub(crate) use lease::{Lease, TenantLease};
pub(crate) use lists::{Content, List, ListKey, Lists, Turn};
pub(crate) use question::{About, Asked, Polled, Question, Reader, consumer};
pub(crate) use view::{EdgeView, SharedView, shared_view};

/// The settings of reads at the edge.
#[derive(Clone, Debug)]
pub struct ReadsConfig {
    /// Finds are answered here.
    pub enabled: bool,
    /// The time after which a consumer that asks nothing is not followed any more.
    pub idle: Duration,
    /// The memory for consumers that are followed for their finds, and their providers; 0 is no limit.
    pub memory: usize,
    /// The greatest age of an answer while a control plane can be asked.
    pub fresh: Duration,
    /// The greatest age of an answer while none can be asked; zero is no limit.
    pub stale_for: Duration,
    /// A replica is asked before "nothing has changed". Otherwise that is as old as any other answer: another
    /// gateway may have pushed a change a moment ago that is not known here yet.
    pub confirm_unchanged: bool,
    /// Tenants that are followed as a whole; 0 is no limit.
    pub tenants: usize,
    /// The file in which the state is kept for a restart while no control plane answers.
    pub state: Option<StateFile>,
}

impl Default for ReadsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            // Clients poll every half a minute.
            idle: Duration::from_secs(300),
            memory: 256 << 20,
            // Bookmarks come every second.
            fresh: Duration::from_secs(3),
            stale_for: Duration::ZERO,
            confirm_unchanged: true,
            tenants: 256,
            state: None,
        }
    }
}

/// The gateway's own answers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    pub(crate) config: ReadsConfig,
    view: Arc<SharedView>,
    began: Instant,
}

impl Reads {
    /// Answers from `view`.
    pub(crate) fn new(config: ReadsConfig, view: Arc<SharedView>, began: Instant) -> Self {
        Self { config, view, began }
    }

    /// Has the state of the last process answer where nothing else can, until this one knows better.
    pub(crate) fn remember(&self, view: EdgeView) {
        self.view.remember(view);
    }

    /// True if something is known that could be answered.
    pub(crate) fn has_something(&self) -> bool {
        self.view.load().heard.is_some() || self.remembered().is_some()
    }

    /// The state of the last process. `None` once this one knows better: a consumer that is not followed by
    /// then has gone, or has been away for so long that its answer would tell of instances that are dead.
    pub(crate) fn remembered(&self) -> Option<Arc<EdgeView>> {
        self.view.remembered()
    }

    /// The state now.
    pub(crate) fn view(&self) -> Arc<EdgeView> {
        self.view.load()
    }

    /// A way to wait until the state is replaced.
    pub(crate) fn replacements(&self) -> watch::Receiver<()> {
        self.view.replacements()
    }

    /// The time since the state was last confirmed.
    pub(crate) fn age(&self, view: &EdgeView, now: Instant) -> Option<Duration> {
        view.heard.map(|heard| now.saturating_duration_since(heard))
    }

    /// The revision up to which an answer for a consumer contains everything, whichever it is and whoever
    /// makes it from now on.
    pub(crate) fn floor(&self, consumer: &ServiceRef) -> Revision {
        let view = self.view.load();
        if view.read.unsettled == 0 {
            return view.read.bookmark;
        }
        let Some(interest) = view.read.consumers.get(consumer) else { return view.read.bookmark };
        // Nobody may be there to ask, and then the answer is the last that is known.
        view.read.contained(interest, &*interest.providers).unwrap_or(Revision::ZERO)
    }

    /// The lease of a consumer that is followed.
    pub(crate) fn lease(&self, view: &EdgeView, consumer: &ServiceRef) -> Option<Arc<Lease>> {
        let lease = view.leases.get(consumer)?;
        lease.touch(self.second(Instant::now()));
        Some(lease.clone())
    }

    /// A lease for a consumer that is to be followed.
    pub(crate) fn new_lease(&self) -> Arc<Lease> {
        let lease = Lease::default();
        lease.touch(self.second(Instant::now()));
        Arc::new(lease)
    }

    /// The second of now, as leases count them.
    pub(crate) fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// The answer to a question by what is known at `view`, for a caller with this grant.
    ///
    /// # Errors
    /// The reason to ask a control plane. A caller whose grant does not plainly cover the answer is one: what
    /// its labels hide is decided there.
    pub(crate) fn find(
        &self,
        view: &EdgeView,
        consumer: &ServiceRef,
        asked: &Asked,
        grant: &Grant,
        proof: Proof,
    ) -> Result<Found, Unknown> {
        let found = match &asked.about {
            About::Find { key } => {
                let lease = self.lease(view, consumer).ok_or(Unknown::NotFollowed)?;
                let resolution = lease.resolution(key).ok_or(Unknown::NotFollowed)?;
                let found = view.read.find(consumer, &resolution, proof)?;
                let services = found.iter().map(|(service, _)| (*service).clone()).collect();
                Found::of(found.into_iter().map(|(_, topic)| topic).collect(), services, resolution.rev)
            }
            About::List { service } => {
                self.lease(view, consumer).ok_or(Unknown::NotFollowed)?;
                let topic = view.read.provider(consumer, service, proof)?;
                Found::of(vec![topic], vec![service.clone()], view.read.bookmark)
            }
            About::One { service, instance } => {
                self.lease(view, consumer).ok_or(Unknown::NotFollowed)?;
                let topic = view.read.provider(consumer, service, proof)?;
                // Only a control plane may say that it does not exist.
                let (instance, mod_rev) = topic.instances.get(instance).ok_or(Unknown::NotFollowed)?;
                let rev = answer::instance_revision(&instance.instance_id, *mod_rev);
                let one = Some((instance.clone(), *mod_rev));
                Found { one, rev, ..Found::of(vec![topic], vec![service.clone()], view.read.bookmark) }
            }
        };
        if is_plainly_granted(asked, grant, &found) { Ok(found) } else { Err(Unknown::NotFollowed) }
    }

    /// True when the answer that was found at `view` holds at the moment for which `changes` speak.
    pub(crate) fn confirm(
        view: &EdgeView,
        consumer: &ServiceRef,
        found: &Found,
        changes: &follow::read::Changes,
    ) -> bool {
        changes.confirm(&view.read, consumer, found.resolved_at, &found.services)
    }
}

/// True when the caller's labels cover the question and every service of the answer, by the rules of a
/// control plane.
fn is_plainly_granted(asked: &Asked, grant: &Grant, found: &Found) -> bool {
    if *grant == Grant::All {
        return true;
    }
    let admits = |topic: &Arc<ReadTopic>| topic.key.as_ref().is_some_and(|key| grant.admits(labels_of(key)));
    if !found.topics.iter().all(admits) {
        return false;
    }
    match &asked.labels {
        None => true,
        Some(labels) => {
            // A find without an environment is one in the consumer's own, and so are the services that it
            // finds.
            let own = found.topics.first().and_then(|topic| topic.key.as_ref());
            let environment = match (labels.environment.as_str(), own) {
                ("", None) => return false,
                ("", Some(key)) => &key.environment,
                (environment, _) => environment,
            };
            grant.admits(Labels {
                environment,
                app_id: if labels.app_id.is_empty() { "default" } else { &labels.app_id },
                service_name: &labels.service_name,
            })
        }
    }
}
