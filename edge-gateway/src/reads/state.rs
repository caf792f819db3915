//! The state that finds and dialects are answered from, as bytes for a file. Pure.
//!
//! ```text
//! MUSTEREDGE 1 ┊ CRC-32 of the rest, 4 bytes, big endian ┊ muster.edge.v1.State
//! ```
//!
//! In: an [`EdgeView`]. Out: bytes, and from them the same state again, of which nothing counts as proved:
//! it answers only when nobody can be asked. Bytes that are not whole are refused and not read in part.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use answer::Resolution;
use follow::read::{Instances, ReadInterest, ReadTenant, ReadTopic, ReadView};
use prost::Message as _;
use proto::edge::v1 as pb;
use proto::event::v1 as event;
use rpds::HashTrieMapSync;
use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

use super::{Contained, EdgeView, Lease, TenantLease};

/// The name of the format and its version. Another version of a gateway may write another one.
const MAGIC: &[u8] = b"MUSTEREDGE 1\n";
/// Bytes of the checksum.
const CHECKSUM: usize = 4;

/// The reason for which bytes are no state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoState {
    /// They have another beginning.
    #[error("it was not written by this version of a gateway")]
    Foreign,
    /// They are not what was written.
    #[error("its checksum is wrong, so it is damaged or was not written to its end")]
    Damaged,
    /// They are what was written, and cannot be read.
    #[error("its contents make no sense")]
    Malformed,
    /// It is from before this machine's clock began.
    #[error("its time is in the future, or too long ago")]
    Untimely,
}

/// The part of the history that each tenant's state contains, by the states that were kept so far.
pub(crate) type Claims = HashMap<Tenant, Contained>;

/// The view as bytes, each tenant with what it is known to contain. `None` before the first bookmark: there
/// is nothing to keep.
pub(crate) fn encode(
    view: &EdgeView,
    claims: &mut Claims,
    now: Instant,
    unix_micros: u64,
) -> Option<Vec<u8>> {
    let age = now.saturating_duration_since(view.heard?);
    let heard_at = unix_micros.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    let mut names = Names::default();
    let bookmark = view.read.bookmark.get();
    let mut state = pb::State { heard_at, bookmark, incarnation: view.incarnation, ..pb::State::default() };
    for (service, topic) in &view.read.topics {
        state.topics.push(topic_to_proto(names.place(service), topic));
    }
    for (consumer, interest) in &view.read.consumers {
        let Some(lease) = view.leases.get(consumer) else { continue };
        let mut resolutions = Vec::new();
        for (key, resolution) in lease.resolutions.read().iter() {
            resolutions.push(pb::Resolution {
                key: key.to_string(),
                rev: resolution.rev.get(),
                services: names.places(&resolution.services),
            });
        }
        state.consumers.push(pb::Consumer {
            service: names.place(consumer),
            changed_at: interest.changed_at.get(),
            providers: names.places(&*interest.providers),
            resolutions,
        });
    }
    claims.retain(|tenant, _| view.read.tenants.contains_key(tenant));
    for (tenant, known) in &view.read.tenants {
        let claim = claims.entry(tenant.clone()).or_default();
        *claim = claim.advance(tenant, view);
        // A tenant of which something is missing could not be told from one that has less.
        if view.read.is_whole(tenant) {
            state.tenants.push(pb::Tenant {
                domain: tenant.domain.clone(),
                project: tenant.project.clone(),
                services: names.places(&*known.services.providers),
                contained: claim.revision().get(),
            });
        }
    }
    state.services = names.list;
    let body = state.encode_to_vec();
    let mut bytes = Vec::with_capacity(MAGIC.len() + CHECKSUM + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    Some(bytes)
}

/// The view that [`encode`] has made these bytes from.
///
/// # Errors
/// The reason for which they are none.
pub(crate) fn decode(bytes: &[u8], now: Instant, unix_micros: u64) -> Result<EdgeView, NoState> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(NoState::Foreign)?;
    let (checksum, body) = rest.split_first_chunk::<CHECKSUM>().ok_or(NoState::Damaged)?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(NoState::Damaged);
    }
    let state = pb::State::decode(body).map_err(|_| NoState::Malformed)?;
    let age = unix_micros.checked_sub(state.heard_at).map(Duration::from_micros).ok_or(NoState::Untimely)?;
    let heard = now.checked_sub(age).ok_or(NoState::Untimely)?;
    view_of(state, heard).ok_or(NoState::Malformed)
}

fn view_of(state: pb::State, heard: Instant) -> Option<EdgeView> {
    let services: Vec<ServiceRef> = state.services.into_iter().map(Into::into).collect();
    let named = |place: u32| services.get(place as usize).cloned();
    let all_named = |places: Vec<u32>| places.into_iter().map(named).collect::<Option<Vec<_>>>();
    let mut read = ReadView { bookmark: Revision::new(state.bookmark), ..ReadView::default() };
    for topic in state.topics {
        read.topics.insert_mut(named(topic.service)?, Arc::new(topic_from_proto(topic)?));
    }
    let mut leases = HashTrieMapSync::new_sync();
    for consumer in state.consumers {
        let service = named(consumer.service)?;
        let providers = all_named(consumer.providers)?;
        let interest = interest(Revision::new(consumer.changed_at), providers);
        read.consumers.insert_mut(service.clone(), Arc::new(interest));
        let lease = Lease::default();
        for resolution in consumer.resolutions {
            let services = all_named(resolution.services)?;
            lease.keep(resolution.key.into(), Resolution { rev: Revision::new(resolution.rev), services });
        }
        leases.insert_mut(service, Arc::new(lease));
    }
    let mut tenants = HashTrieMapSync::new_sync();
    for tenant in state.tenants {
        let services = Arc::new(interest(read.bookmark, all_named(tenant.services)?));
        let lease = TenantLease::left(Revision::new(tenant.contained));
        let tenant = Tenant::new(tenant.domain, tenant.project);
        read.tenants.insert_mut(tenant.clone(), ReadTenant { services, version: 0 });
        tenants.insert_mut(tenant, Arc::new(lease));
    }
    Some(EdgeView { read, leases, tenants, heard: Some(heard), incarnation: state.incarnation })
}

fn interest(changed_at: Revision, providers: Vec<ServiceRef>) -> ReadInterest {
    // Nothing of it is proved any more.
    ReadInterest {
        changed_at,
        sound: false,
        settled: false,
        providers: Arc::new(BTreeSet::from_iter(providers)),
    }
}

fn topic_to_proto(service: u32, topic: &ReadTopic) -> pb::Topic {
    let mut instances = Vec::with_capacity(topic.instances.size());
    for (instance, mod_rev) in topic.instances.values() {
        let instance = Some((&**instance).into());
        instances.push(event::SnapshotInstance { instance, mod_rev: mod_rev.get() });
    }
    let key = topic.key.as_ref().map(|key| (&**key).into());
    pb::Topic { service, key, at: Some(topic.at.into()), instances }
}

fn topic_from_proto(topic: pb::Topic) -> Option<ReadTopic> {
    let mut instances = Instances::new_sync();
    for known in topic.instances {
        let instance: shared::model::Instance = known.instance?.into();
        let id = instance.instance_id.clone();
        instances.insert_mut(id, (Arc::new(instance), Revision::new(known.mod_rev)));
    }
    let at: Position = topic.at?.into();
    Some(ReadTopic::remembered(topic.key.map(|key| Arc::new(key.into())), at, instances))
}

/// The services that a state names, each once.
#[derive(Debug, Default)]
struct Names {
    list: Vec<event::ServiceRef>,
    places: HashMap<ServiceRef, u32>,
}

impl Names {
    fn place(&mut self, service: &ServiceRef) -> u32 {
        if let Some(place) = self.places.get(service) {
            return *place;
        }
        // The memory for what is followed is bounded, so the number is far below the limit.
        let place = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(service.into());
        self.places.insert(service.clone(), place);
        place
    }

    fn places<'a>(&mut self, services: impl IntoIterator<Item = &'a ServiceRef>) -> Vec<u32> {
        services.into_iter().map(|service| self.place(service)).collect()
    }
}

#[cfg(test)]
mod tests;
