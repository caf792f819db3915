//! Applications: the instances of one scope, by application and id, with the hash that Eureka's clients
//! compare.

use std::collections::{BTreeMap, btree_map::Entry};
use std::sync::Arc;

use follow::read::ReadTopic;
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};

use super::model::{ActionType, Info};
use super::record;

/// The services that see each other: those of one environment and one application of the registry, as for a
/// find.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scope {
    pub(crate) environment: String,
    pub(crate) app_id: String,
}

impl Scope {
    /// The scope of a service.
    pub(crate) fn of(key: &ServiceKey) -> Self {
        Self { environment: key.environment.clone(), app_id: key.app_id.clone() }
    }
}

/// An instance in both worlds.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) service: ServiceRef,
    pub(crate) key: Arc<ServiceKey>,
    pub(crate) instance: Arc<Instance>,
    /// The revision that wrote the instance.
    pub(crate) rev: Revision,
    pub(crate) info: Info,
}

impl Member {
    /// An instance as it stands in the registry.
    pub(crate) fn of(
        service: &ServiceRef,
        key: &Arc<ServiceKey>,
        instance: &Arc<Instance>,
        rev: Revision,
    ) -> Self {
        let info = record::to_info(key, instance);
        Self { service: service.clone(), key: key.clone(), instance: instance.clone(), rev, info }
    }

    fn is_registered_in_eureka(&self) -> bool {
        self.instance.properties.contains_key(record::RECORD)
    }
}

/// The applications of a scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applications(BTreeMap<String, BTreeMap<String, Arc<Member>>>);

/// Applications that are about to be written.
#[derive(Debug, Default)]
pub(crate) struct Listed<'a> {
    /// Grows with each change.
    pub(crate) version: u64,
    /// The number of instances by status, of everything that the reader may see.
    pub(crate) hash: String,
    pub(crate) applications: Vec<Application<'a>>,
}

/// One application that is about to be written.
#[derive(Debug)]
pub(crate) struct Application<'a> {
    pub(crate) name: &'a str,
    pub(crate) instances: Vec<(&'a Info, ActionType)>,
}

impl Applications {
    /// The applications of these instances.
    pub(crate) fn of(members: impl IntoIterator<Item = Arc<Member>>) -> Self {
        let mut all = Self::default();
        members.into_iter().for_each(|member| all.add(member));
        all
    }

    fn add(&mut self, member: Arc<Member>) {
        let of_name = self.0.entry(member.info.app.clone()).or_default();
        match of_name.entry(member.info.instance_id.clone()) {
            Entry::Vacant(free) => _ = free.insert(member),
            // One client, which has registered again as another version of its service: the last one counts
            // until the other has expired.
            Entry::Occupied(mut taken)
                if member.is_registered_in_eureka()
                    && taken.get().is_registered_in_eureka()
                    && taken.get().key.service_name == member.key.service_name =>
            {
                if taken.get().rev < member.rev {
                    taken.insert(member);
                }
            }
            // The registry's ids are unique in one service only, and no instance may hide another.
            Entry::Occupied(_) => {
                let mut other = (*member).clone();
                other.info.instance_id = format!("{}:{}", member.info.instance_id, member.service.id);
                of_name.insert(other.info.instance_id.clone(), Arc::new(other));
            }
        }
    }

    /// True if these are the same instances, in the same states.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let is_same = |(own, their): (&Arc<Member>, &Arc<Member>)| {
            Arc::ptr_eq(own, their) || (own.info == their.info && own.service == their.service)
        };
        self.iter().count() == other.iter().count() && self.iter().zip(other.iter()).all(is_same)
    }

    /// An instance by application and id.
    pub(crate) fn get(&self, app: &str, id: &str) -> Option<&Arc<Member>> {
        self.0.get(app)?.get(id)
    }

    /// The instances with this id, one for each application that has it.
    pub(crate) fn by_id(&self, id: &str) -> impl Iterator<Item = &Arc<Member>> {
        self.0.values().filter_map(move |of_name| of_name.get(id))
    }

    /// Every instance, in the order of applications and ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// The instances of one application.
    pub(crate) fn of_name(&self, app: &str) -> impl Iterator<Item = &Arc<Member>> {
        self.0.get(app).into_iter().flat_map(BTreeMap::values)
    }
}

/// One application of a scope, as the services are now.
pub(crate) fn application_of<'a>(
    services: impl IntoIterator<Item = (&'a ServiceRef, &'a Arc<ReadTopic>)>,
    scope: &Scope,
    app: &str,
) -> Applications {
    let mut members = Vec::new();
    for (service, topic) in services {
        let Some(key) = &topic.key else { continue };
        if Scope::of(key) == *scope && key.service_name.to_uppercase() == app {
            let all = topic.instances.values();
            members.extend(all.map(|(instance, rev)| Arc::new(Member::of(service, key, instance, *rev))));
        }
    }
    Applications::of(members)
}

/// The instances that one client of Eureka has registered as other versions of its service than `last`. An
/// [`Applications`] shows only one of them, so it cannot tell.
pub(crate) fn earlier_of<'a>(
    services: impl IntoIterator<Item = (&'a ServiceRef, &'a Arc<ReadTopic>)>,
    scope: &Scope,
    (app, id): (&str, &str),
    last: &ServiceRef,
) -> Vec<Member> {
    let mut earlier = Vec::new();
    for (service, topic) in services {
        let Some(key) = topic.key.as_ref().filter(|_| service != last) else { continue };
        if Scope::of(key) == *scope && key.service_name.to_uppercase() == app {
            let all =
                topic.instances.values().map(|(instance, rev)| Member::of(service, key, instance, *rev));
            earlier.extend(
                all.filter(|member| member.is_registered_in_eureka() && member.info.instance_id == id),
            );
        }
    }
    earlier
}

/// The hash of Eureka: each status that occurs, in the order of the words, with its number of instances.
pub(crate) fn hash<'a>(members: impl IntoIterator<Item = &'a Arc<Member>>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        *counts.entry(member.info.status.word()).or_default() += 1;
    }
    counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
}

/// Instances by application, ready to be written. They come in the order of their applications.
pub(crate) fn listed<'a>(
    version: u64,
    hash: String,
    members: impl IntoIterator<Item = (&'a Member, ActionType)>,
) -> Listed<'a> {
    let mut applications: Vec<Application<'a>> = Vec::new();
    for (member, action) in members {
        match applications.last_mut().filter(|last| last.name == member.info.app) {
            Some(last) => last.instances.push((&member.info, action)),
            None => applications
                .push(Application { name: &member.info.app, instances: vec![(&member.info, action)] }),
        }
    }
    Listed { version, hash, applications }
}

/// True for an instance that has this name among those by which it is looked up.
pub(crate) fn is_found_by(info: &Info, name: &str, secure: bool) -> bool {
    let names = if secure { &info.secure_vip_address } else { &info.vip_address };
    names.split(',').any(|own| own.trim().eq_ignore_ascii_case(name))
}
