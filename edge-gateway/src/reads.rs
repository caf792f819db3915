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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use access::{Grant, Labels};
use answer::batch::Outcome;
use answer::{FindBody, Resolution};
use arc_swap::{ArcSwap, ArcSwapOption};
use follow::read::{Proof, ReadTopic, ReadView, Unknown};
use parking_lot::RwLock;
use rpds::HashTrieMapSync;
use shared::model::{Instance, Revision, ServiceRef, Tenant};
use tokio::sync::watch;

use crate::policy::labels_of;
use crate::polls::Given;

pub(crate) mod barrier;
mod batch;
mod contained;
pub(crate) mod keeper;
mod lists;
mod question;
mod state;

pub(crate) use barrier::Barrier;
pub(crate) use batch::{Questions, asker};
pub(crate) use contained::Contained;
pub(crate) use keeper::Keeper;
pub use keeper::StateFile;
pub(crate) use lists::{Content, List, ListKey, Lists, Turn};
pub(crate) use question::{About, Asked, Polled, Question, Reader, consumer};

/// Resolutions of one consumer. A consumer with more finds has the further ones answered by a control plane.
const MOST_RESOLUTIONS: usize = 512;

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

/// A consumer that is followed for its finds: their resolutions, and when it last asked.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Seconds since the process began reading.
    used: AtomicU64,
    resolutions: RwLock<HashMap<Box<str>, Arc<Resolution>>>,
    bytes: AtomicUsize,
}

impl Lease {
    /// The resolution of a find.
    pub(crate) fn resolution(&self, key: &str) -> Option<Arc<Resolution>> {
        self.resolutions.read().get(key).cloned()
    }

    /// Keeps what a control plane has resolved, unless something later is known.
    pub(crate) fn keep(&self, key: Box<str>, resolution: Resolution) {
        let mut resolutions = self.resolutions.write();
        if let Some(known) = resolutions.get(&key) {
            if known.rev > resolution.rev {
                return;
            }
        } else if resolutions.len() >= MOST_RESOLUTIONS {
            return;
        } else {
            self.bytes.fetch_add(size_of(&key, &resolution), Ordering::Relaxed);
        }
        resolutions.insert(key, Arc::new(resolution));
    }

    /// The consumer asks at this second.
    pub(crate) fn touch(&self, second: u64) {
        // Relaxed, and only when it changes: all requests of a consumer share this line of memory.
        if self.used.load(Ordering::Relaxed) != second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    /// The second at which the consumer last asked.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bytes of the resolutions, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A tenant that is followed as a whole, and its readers.
#[derive(Debug, Default)]
pub(crate) struct TenantLease {
    /// Seconds since the process began reading.
    used: AtomicU64,
    readers: AtomicUsize,
    /// All of its services have been known at some moment.
    complete: AtomicBool,
    /// The states that the last process left contain everything up to here.
    left: Revision,
}

impl TenantLease {
    /// The lease of a tenant as the last process has left it, which contains everything up to a revision.
    pub(crate) fn left(contained: Revision) -> Self {
        Self { left: contained, ..Self::default() }
    }

    /// True once all services of the tenant have been known; `view` is the latest. One that is registered
    /// later may still be missing for the moment in which its instances are requested.
    pub(crate) fn is_complete(&self, tenant: &Tenant, view: &ReadView) -> bool {
        // A look at every service costs too much for each request.
        if !self.complete.load(Ordering::Relaxed) && view.is_whole(tenant) {
            self.complete.store(true, Ordering::Relaxed);
        }
        self.complete.load(Ordering::Relaxed)
    }

    /// One more reader, until [`TenantLease::leave`].
    pub(crate) fn enter(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// One reader less; it has read until this second.
    pub(crate) fn leave(&self, second: u64) {
        self.used.fetch_max(second, Ordering::Relaxed);
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// The second at which somebody last read. `None` while somebody does.
    pub(crate) fn unused_since(&self) -> Option<u64> {
        (self.readers.load(Ordering::Relaxed) == 0).then(|| self.used.load(Ordering::Relaxed))
    }
}

fn size_of(key: &str, resolution: &Resolution) -> usize {
    200 + key.len() + resolution.services.len() * 200
}

/// The state of the upstream as requests see it.
#[derive(Clone, Debug)]
pub(crate) struct EdgeView {
    pub(crate) read: ReadView,
    /// The leases of the consumers in `read`.
    pub(crate) leases: HashTrieMapSync<ServiceRef, Arc<Lease>>,
    /// The leases of the tenants in `read`.
    pub(crate) tenants: HashTrieMapSync<Tenant, Arc<TenantLease>>,
    /// The last bookmark arrived then.
    pub(crate) heard: Option<Instant>,
    /// The incarnation of the store, as far as it is known.
    pub(crate) incarnation: Option<u64>,
}

/// The view of now. The upstream writes it, requests read it.
#[derive(Debug)]
pub(crate) struct SharedView {
    now: ArcSwap<EdgeView>,
    /// The states of the last process, until this one knows better.
    remembered: ArcSwapOption<EdgeView>,
    /// Tells readers that wait that there is another one.
    replaced: watch::Sender<()>,
}

/// An empty view.
pub(crate) fn shared_view() -> Arc<SharedView> {
    let view = EdgeView {
        read: ReadView::default(),
        leases: HashTrieMapSync::new_sync(),
        tenants: HashTrieMapSync::new_sync(),
        heard: None,
        incarnation: None,
    };
    let now = ArcSwap::from_pointee(view);
    Arc::new(SharedView { now, remembered: ArcSwapOption::empty(), replaced: watch::Sender::new(()) })
}

impl SharedView {
    /// The view of now.
    pub(crate) fn load(&self) -> Arc<EdgeView> {
        self.now.load_full()
    }

    /// Replaces the view.
    pub(crate) fn store(&self, view: EdgeView) {
        self.now.store(Arc::new(view));
        self.replaced.send_replace(());
    }

    /// Forgets what the last process knew.
    pub(crate) fn forget_remembered(&self) {
        if self.remembered.load().is_some() {
            self.remembered.store(None);
        }
    }

    /// Forgets what the last process knew, if that was of another incarnation of the store, or of another
    /// registry that has one. True if so.
    pub(crate) fn forget_other_incarnation(&self, incarnation: Option<u64>) -> bool {
        let remembered = self.remembered.load();
        let theirs = remembered.as_ref().and_then(|view| view.incarnation);
        let is_other = incarnation.is_some() && theirs.is_some() && incarnation != theirs;
        if is_other {
            self.remembered.store(None);
        }
        is_other
    }
}

/// The services, or the instance, that answer a question.
#[derive(Debug)]
pub(crate) struct Found {
    topics: Vec<Arc<ReadTopic>>,
    /// Only this instance of the one topic.
    one: Option<(Arc<Instance>, Revision)>,
    services: Vec<ServiceRef>,
    resolved_at: Revision,
    /// The revision of the reply.
    pub(crate) rev: String,
}

impl Found {
    fn of(topics: Vec<&Arc<ReadTopic>>, services: Vec<ServiceRef>, resolved_at: Revision) -> Self {
        let with_instances = topics.iter().filter(|topic| !topic.instances.is_empty());
        let rev = answer::revision_of(with_instances.map(|topic| topic.digest));
        Self { topics: topics.into_iter().cloned().collect(), one: None, services, resolved_at, rev }
    }

    /// The body of the reply, and its compressed form where that is kept.
    pub(crate) fn body(&self) -> (bytes::Bytes, Option<&FindBody>) {
        if let Some((instance, _)) = &self.one {
            return (answer::reply::body_of_one(instance), None);
        }
        let bodies: Vec<&FindBody> = self.topics.iter().filter_map(|topic| topic.body()).collect();
        let kept = match bodies.as_slice() {
            [only] => Some(*only),
            _ => None,
        };
        (answer::reply::body_of(&bodies), kept)
    }

    /// The outcome of this question in a batch, for a client that has the reply with this revision.
    pub(crate) fn outcome(&self, sent: &str) -> Outcome {
        if let Some((instance, _)) = &self.one {
            let instance = serde_json::to_string(instance).expect("plain fields always serialise");
            return Outcome::found_one(sent, self.rev.clone(), &instance);
        }
        Outcome::found(sent, self.rev.clone(), self.topics.iter().filter_map(|topic| topic.body()))
    }

    /// Everything that the reply, which was found at `view` for a consumer, contains.
    pub(crate) fn contained(&self, view: &ReadView, consumer: &ServiceRef) -> Revision {
        let contained = view.consumers.get(consumer).and_then(|interest| {
            // A change of the interest up to the bookmark may have brought a service that is not among these.
            let is_resolved = self.resolved_at >= view.changed_at(interest).min(view.bookmark);
            view.contained(interest, &self.services).filter(|_| is_resolved)
        });
        contained.unwrap_or(Revision::ZERO)
    }

    /// The content of the reply that was found at `view` for a consumer.
    pub(crate) fn given(self, view: &ReadView, consumer: &ServiceRef) -> Given {
        let rev = self.contained(view, consumer);
        let services = self.services.into_iter().zip(self.topics);
        let services = services.map(|(service, topic)| (service, Some(topic.at))).collect();
        Given { rev, services: Some(services) }
    }

    /// True when the state contains a write of each service's instances at the revision that `written` names,
    /// and everything up to `records`.
    pub(crate) fn contains(
        &self,
        bookmark: Revision,
        records: Revision,
        written: impl Fn(&ServiceRef) -> Revision,
    ) -> bool {
        let services = self.services.iter().zip(&self.topics);
        bookmark >= records
            && services.into_iter().all(|(service, topic)| {
                let written = written(service);
                bookmark >= written || topic.at.whole() >= written
            })
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
        self.view.remembered.store(Some(Arc::new(view)));
    }

    /// True if something is known that could be answered.
    pub(crate) fn has_something(&self) -> bool {
        self.view.load().heard.is_some() || self.remembered().is_some()
    }

    /// The state of the last process. `None` once this one knows better: a consumer that is not followed by
    /// then has gone, or has been away for so long that its answer would tell of instances that are dead.
    pub(crate) fn remembered(&self) -> Option<Arc<EdgeView>> {
        self.view.remembered.load_full()
    }

    /// The state now.
    pub(crate) fn view(&self) -> Arc<EdgeView> {
        self.view.load()
    }

    /// A way to wait until the state is replaced.
    pub(crate) fn replacements(&self) -> watch::Receiver<()> {
        self.view.replaced.subscribe()
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
