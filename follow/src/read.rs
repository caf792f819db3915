//! The part of a gateway's state that finds are answered from: immutable, and shared by every request.
//!
//! In: what the tracker follows for consumers whose finds are answered here, and for tenants whose services
//! other dialects read. Out: the state of the services that answer a find, or the reason for which a control
//! plane has to be asked; and every service of a tenant.
//!
//! A [`ReadView`] says nothing that the gateway does not know. A service or an interest is *sound* when
//! nothing up to the last bookmark is missing from it, by the same proof as for watchers: its subscription is
//! verified, and nothing is being requested about it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use answer::{FindBody, Resolution};
use proto::event::v1 as pb;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use shared::event::{Position, digest_of};
use shared::model::{Instance, Revision, ServiceKey, ServiceRef, Tenant};

use crate::bytes::text_bytes;

/// Instances by id, in the order of a reply, each with the revision that wrote it.
pub type Instances = RedBlackTreeMapSync<String, (Arc<Instance>, Revision)>;

/// Bytes of an instance beside its texts, about, in the tables and in the body.
const INSTANCE_BYTES: usize = 1200;

/// The size of an instance in memory, about. Its texts are there twice, once as they are and once in the
/// body.
pub(crate) fn size_of(instance: &Instance) -> usize {
    INSTANCE_BYTES + 2 * text_bytes(instance)
}

/// The body of a find's reply, made when it is first needed.
pub(crate) type Body = Arc<OnceLock<FindBody>>;

/// A service as finds read it.
#[derive(Clone, Debug)]
pub struct ReadTopic {
    /// The position of the last change that was applied.
    pub at: Position,
    /// The digest of the instances.
    pub digest: u64,
    /// The service's name, once known.
    pub key: Option<Arc<ServiceKey>>,
    /// Nothing up to the last bookmark is missing, and the instances are whole.
    pub sound: bool,
    /// Nothing is being requested that may be missing.
    pub settled: bool,
    /// The instances.
    pub instances: Instances,
    /// Their size in memory, about.
    pub bytes: usize,
    pub(crate) body: Body,
}

impl ReadTopic {
    /// A service as it was once known. Nothing of it counts as proved.
    pub fn remembered(key: Option<Arc<ServiceKey>>, at: Position, instances: Instances) -> Self {
        let mut digest = 0_u64;
        let mut bytes = 0;
        for (id, (instance, mod_rev)) in instances.iter() {
            digest = digest.wrapping_add(digest_of(id, *mod_rev));
            bytes += size_of(instance);
        }
        Self { at, digest, key, sound: false, settled: false, instances, bytes, body: Body::default() }
    }

    /// The body of a reply with this service alone, made once for each state of its instances. `None` without
    /// instances.
    pub fn body(&self) -> Option<&FindBody> {
        let instances = || self.instances.values().map(|(instance, _)| &**instance);
        (!self.instances.is_empty()).then(|| self.body.get_or_init(|| FindBody::of(instances())))
    }

    /// True when `other` is the same state.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.at == other.at
            && self.sound == other.sound
            && self.settled == other.settled
            && Arc::ptr_eq(&self.body, &other.body)
    }
}

/// The interest of a consumer as its finds read it, or all services of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadInterest {
    /// The interest, and with it the answer of every recorded find, had no change after this revision.
    pub changed_at: Revision,
    /// No change of the interest up to the last bookmark is missing.
    pub sound: bool,
    /// Nothing is being requested that may be missing.
    pub settled: bool,
    /// The providers in the interest.
    pub providers: Arc<BTreeSet<ServiceRef>>,
}

/// The reason for which a question cannot be answered from a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The consumer, or a service, is not followed.
    NotFollowed,
    /// Something may be missing, or a request about it is under way.
    Unsound,
    /// The services that answer may be others by now.
    Outdated,
}

/// Everything that finds are answered from, at one moment.
#[derive(Clone, Debug, Default)]
pub struct ReadView {
    /// The last bookmark: everything sound is complete up to here.
    pub bookmark: Revision,
    /// The last bookmark of a publisher that does not tell each changed find. Answers from before do not
    /// count.
    pub floor: Revision,
    /// The followed services.
    pub topics: HashTrieMapSync<ServiceRef, Arc<ReadTopic>>,
    /// The consumers whose finds are answered.
    pub consumers: HashTrieMapSync<ServiceRef, Arc<ReadInterest>>,
    /// The tenants that are followed as a whole.
    pub tenants: HashTrieMapSync<Tenant, ReadTenant>,
    /// The number of services, consumers and tenants among these about which something is being requested.
    pub unsettled: usize,
}

/// A tenant that is followed as a whole.
#[derive(Clone, Debug)]
pub struct ReadTenant {
    /// Its services.
    pub services: Arc<ReadInterest>,
    /// Another one after every change of its services and their instances. Versions mean nothing outside of
    /// this process.
    pub version: u64,
}

/// The amount of proof that an answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The answer is that of a control plane at the last bookmark or later.
    Bookmark,
    /// Nobody can be asked: the last that is known.
    Last,
}

impl ReadView {
    /// The services of a find that a control plane has resolved for a consumer, and their states. Without proof those
    /// that the consumer has lost sight of since are left out; others may be missing.
    ///
    /// # Errors
    /// The reason why the find cannot be answered from this view.
    pub fn find<'a, 'r>(
        &'a self,
        consumer: &ServiceRef,
        resolution: &'r Resolution,
        proof: Proof,
    ) -> Result<Vec<(&'r ServiceRef, &'a Arc<ReadTopic>)>, Unknown> {
        let interest = self.consumers.get(consumer).ok_or(Unknown::NotFollowed)?;
        let is_outdated = resolution.rev < self.changed_at(interest);
        let with_state = |service: &'r ServiceRef| Ok((service, self.topic(service, proof)?));
        if is_outdated && proof == Proof::Last {
            // The first find of a provider changes the interest itself, after its answer was made.
            let is_seen = |service: &&ServiceRef| interest.providers.contains(*service);
            let seen: Result<Vec<_>, _> =
                resolution.services.iter().filter(is_seen).map(with_state).collect();
            // An answer without any service would say that there is none, which nobody knows.
            return seen.and_then(|seen| if seen.is_empty() { Err(Unknown::Outdated) } else { Ok(seen) });
        }
        if is_outdated {
            return Err(Unknown::Outdated);
        }
        // Nothing older may follow what the control plane has shown.
        let is_reached = resolution.rev <= self.bookmark;
        if proof == Proof::Bookmark && !(interest.sound && is_reached) {
            return Err(Unknown::Unsound);
        }
        resolution.services.iter().map(with_state).collect()
    }

    /// A service that a consumer may see, because it is among its providers.
    ///
    /// # Errors
    /// The reason why the service cannot be shown from this view.
    pub fn provider(
        &self,
        consumer: &ServiceRef,
        service: &ServiceRef,
        proof: Proof,
    ) -> Result<&Arc<ReadTopic>, Unknown> {
        let consumer = self.consumers.get(consumer).ok_or(Unknown::NotFollowed)?;
        if !consumer.providers.contains(service) {
            return Err(Unknown::NotFollowed);
        }
        if proof == Proof::Bookmark && !consumer.sound {
            return Err(Unknown::Unsound);
        }
        self.topic(service, proof)
    }

    /// Every service of a tenant with its state, in the order of their ids. `None` until all of them are
    /// known: before that, "none" would be a claim without proof. A service that is registered later is
    /// included from the moment at which its instances are known.
    pub fn services_of(
        &self,
        tenant: &Tenant,
    ) -> Option<impl Iterator<Item = (&ServiceRef, &Arc<ReadTopic>)>> {
        let services = &self.tenants.get(tenant)?.services.providers;
        Some(services.iter().filter_map(|service| self.topics.get_key_value(service)))
    }

    /// True when every service of the tenant is known with its instances.
    pub fn is_whole(&self, tenant: &Tenant) -> bool {
        let services = self.tenants.get(tenant).map(|tenant| &tenant.services.providers);
        services.is_some_and(|services| services.iter().all(|service| self.topics.contains_key(service)))
    }

    /// The revision up to which everything about these services, and about the interest that names them, is
    /// contained: the last bookmark. `None` while something is being requested that may be missing, also a
    /// service that is loading for the first time.
    ///
    /// Whatever says that something does not exist, or up to where it is complete, goes by this: the last
    /// bookmark alone says what there is, and not that it has arrived.
    pub fn contained<'a>(
        &self,
        interest: &ReadInterest,
        services: impl IntoIterator<Item = &'a ServiceRef>,
    ) -> Option<Revision> {
        let is_settled = |service| self.topics.get(service).is_some_and(|topic| topic.settled);
        (interest.settled && services.into_iter().all(is_settled)).then_some(self.bookmark)
    }

    /// The revision of the last change that the answers of the consumer's finds may have had, as far as is known.
    pub fn changed_at(&self, interest: &ReadInterest) -> Revision {
        interest.changed_at.max(self.floor)
    }

    fn topic(&self, service: &ServiceRef, proof: Proof) -> Result<&Arc<ReadTopic>, Unknown> {
        let topic = self.topics.get(service).ok_or(Unknown::NotFollowed)?;
        if proof == Proof::Bookmark && !topic.sound { Err(Unknown::Unsound) } else { Ok(topic) }
    }
}

/// Everything that changed after a bookmark, up to a revision that covers the moment of the question.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The bookmark.
    pub since: Revision,
    /// The last event of each provider.
    pub providers: HashMap<ServiceRef, Position>,
    /// The last change of each consumer's interest.
    pub consumers: HashMap<ServiceRef, Revision>,
}

impl Changes {
    /// The request for everything that changed after `since`.
    pub fn request(since: Revision) -> pb::DigestRequest {
        pb::DigestRequest { confirm: true, changed_since: Some(since.get()), ..pb::DigestRequest::default() }
    }

    /// Reads the reply to [`Changes::request`]. `None` when it does not know everything. A replica of an
    /// older version ignores the question.
    pub fn from_reply(since: Revision, reply: pb::DigestReply) -> Option<Self> {
        if !reply.confirmed || !reply.changes_known || reply.rev < since.get() {
            return None;
        }
        let mut changes = Self { since, ..Self::default() };
        for reached in reply.providers {
            changes.providers.insert(reached.service?.into(), reached.at?.into());
        }
        for reached in reply.consumers {
            // In order, so the last one stays.
            changes.consumers.insert(reached.service?.into(), Position::from(reached.at?).rev);
        }
        Some(changes)
    }

    /// True when a find that was answered from `view`, with these services, is answered so at the moment of
    /// the question.
    pub fn confirm(
        &self,
        view: &ReadView,
        consumer: &ServiceRef,
        resolved_at: Revision,
        services: &[ServiceRef],
    ) -> bool {
        let is_applied = |service: &ServiceRef| {
            let changed = self.providers.get(service);
            let topic = view.topics.get(service);
            topic.is_some_and(|topic| topic.sound && changed.is_none_or(|at| *at <= topic.at))
        };
        let is_resolved = self.consumers.get(consumer).is_none_or(|changed| *changed <= resolved_at);
        view.bookmark >= self.since && is_resolved && services.iter().all(is_applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(id: &str) -> ServiceRef {
        ServiceRef::new(Tenant::default(), id)
    }

    /// A consumer whose interest is these providers since revision 5, at bookmark 9. All of `p`, `q` and `r` are followed.
    fn view(providers: &[&str]) -> ReadView {
        let mut view = ReadView { bookmark: Revision::new(9), ..ReadView::default() };
        let providers = Arc::new(providers.iter().map(|id| service(id)).collect());
        let interest = ReadInterest { changed_at: Revision::new(5), sound: true, settled: true, providers };
        view.consumers.insert_mut(service("c"), Arc::new(interest));
        for id in ["p", "q", "r"] {
            let mut topic = ReadTopic::remembered(None, Position::default(), Instances::new_sync());
            topic.sound = true;
            view.topics.insert_mut(service(id), Arc::new(topic));
        }
        view
    }

    /// The services with which a find is answered that a control plane has resolved to `p` and `q`.
    fn found(view: &ReadView, resolved_at: u64, proof: Proof) -> Result<Vec<String>, Unknown> {
        let services = ["p", "q"].map(service).into();
        let resolution = Resolution { rev: Revision::new(resolved_at), services };
        let found = view.find(&service("c"), &resolution, proof)?;
        Ok(found.into_iter().map(|(service, _)| service.id.clone()).collect())
    }

    #[test]
    fn an_outdated_find_is_answered_without_proof_and_without_what_left_the_interest() {
        let both = Ok(vec!["p".to_owned(), "q".to_owned()]);
        for proof in [Proof::Bookmark, Proof::Last] {
            assert_eq!(found(&view(&["p", "q", "r"]), 5, proof), both);
        }
        let grown = view(&["p", "q", "r"]);
        assert_eq!(found(&grown, 4, Proof::Bookmark), Err(Unknown::Outdated));
        assert_eq!(found(&grown, 4, Proof::Last), both);
        assert_eq!(found(&view(&["q"]), 4, Proof::Last), Ok(vec!["q".to_owned()]));
        assert_eq!(
            found(&view(&["r"]), 4, Proof::Last),
            Err(Unknown::Outdated),
            "no claim that there is none"
        );
    }

    #[test]
    fn finds_behind_a_publisher_that_does_not_tell_their_changes_are_outdated() {
        let view = ReadView { floor: Revision::new(8), ..view(&["p", "q"]) };
        assert_eq!(found(&view, 7, Proof::Bookmark), Err(Unknown::Outdated));
        assert_eq!(found(&view, 7, Proof::Last).map(|found| found.len()), Ok(2));
    }
}
