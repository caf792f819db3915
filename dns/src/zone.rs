//! A tenant as a zone: made once per state, read by every question.
//!
//! In: all services of a tenant. Out: the service behind a name. What has not changed since the zone before
//! is taken over from it, so a change costs a walk over the services and the making of one of them.
//!
//! Different services may have one name in DNS, such as `Order` and `order`. The service whose name is its
//! label owns it, and the others cannot be found by DNS. When there is no such service, the name is answered
//! with a failure: a guess would send traffic to the wrong service.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hickory_proto::rr::Name;
use shared::model::ServiceKey;

use crate::group::Group;
use crate::label::label;
use crate::origin::Origin;
use crate::source::Service;

/// A zone at one moment.
#[derive(Debug)]
pub struct Zone {
    pub(crate) origin: Arc<Origin>,
    /// The revision, as the serial number of the zone.
    pub(crate) serial: u32,
    /// Every service is known, with its name and its instances, so that what is not in the zone does not
    /// exist.
    pub(crate) is_whole: bool,
    /// The services by name.
    groups: HashMap<Box<str>, Entry>,
    /// Names that have others below them: applications, environments, and both together.
    above: HashSet<Box<str>>,
    /// The services that cannot be found, because another one has their name.
    hidden: usize,
    /// The instances by address; made when the first question asks for it.
    hosts: OnceLock<HashMap<IpAddr, Vec<Place>>>,
}

/// The owner of a name.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A service.
    One(Arc<Group>),
    /// Several services, of which none has more right to it.
    Ambiguous,
}

/// An instance in a zone.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) group: Arc<Group>,
    pub(crate) member: usize,
}

/// The versions of one service, with the right to their name.
struct Candidate<'a, S> {
    versions: Vec<&'a S>,
    /// The service's name is its label.
    is_exact: bool,
}

impl Zone {
    /// The zone of these services, at a revision. `before` is the zone of an earlier moment.
    pub fn new<S: Service>(
        origin: Arc<Origin>,
        revision: u64,
        services: &[S],
        before: Option<&Self>,
    ) -> Self {
        let mut is_whole = true;
        let mut by_key = HashMap::<[&str; 3], Vec<&S>>::new();
        for service in services {
            match service.key() {
                Some(key) => by_key.entry(parts(key)).or_default().push(service),
                None => is_whole = false,
            }
        }
        let mut by_name = HashMap::<Box<str>, Vec<Candidate<'_, S>>>::with_capacity(by_key.len());
        let mut above = HashSet::new();
        for (parts, mut versions) in by_key {
            let labels = parts.map(label);
            let Some(name) = path(&labels) else { continue };
            let [service, app, env] = labels;
            versions.sort_unstable_by(|a, b| version(*a).cmp(version(*b)));
            let is_exact = parts == [service.as_str(), app.as_str(), env.as_str()];
            by_name.entry(name.into()).or_default().push(Candidate { versions, is_exact });
            if !env.is_empty() {
                above.insert(format!("{app}.{env}").into());
                above.insert(env.into());
            }
            above.insert(app.into());
        }
        // The records of a group have names of the zone in them, and its time.
        let before = before.filter(|before| before.origin == origin);
        let mut hidden = 0;
        let mut groups = HashMap::with_capacity(by_name.len());
        for (name, candidates) in by_name {
            hidden += candidates.len() - 1;
            let owner = match &candidates[..] {
                [only] => Some(only),
                several => several.iter().find(|candidate| candidate.is_exact),
            };
            let entry = match owner {
                Some(owner) => Entry::One(Self::group(before, &name, &owner.versions)),
                None => {
                    hidden += 1;
                    Entry::Ambiguous
                }
            };
            groups.insert(name, entry);
        }
        // A serial number has 32 bits and may begin again.
        let serial = revision as u32;
        Self { origin, serial, is_whole, groups, above, hidden, hosts: OnceLock::new() }
    }

    /// The same zone while something of it may be missing: what it has is told, and nothing is denied.
    #[must_use]
    pub fn incomplete(self) -> Self {
        Self { is_whole: false, ..self }
    }

    fn group<S: Service>(before: Option<&Self>, name: &str, versions: &[&S]) -> Arc<Group> {
        if let Some(Entry::One(group)) = before.and_then(|before| before.groups.get(name))
            && group.made_of.iter().cloned().eq(versions.iter().map(|service| service.stamp()))
        {
            return group.clone();
        }
        Arc::new(Group::new(name.into(), versions))
    }

    /// The number of names of services.
    pub fn names(&self) -> usize {
        self.groups.len()
    }

    /// The number of services that cannot be found, because another one has their name.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// The service with this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.groups.get(name)
    }

    /// True when there are names below this one.
    pub(crate) fn has_below(&self, name: &str) -> bool {
        self.above.contains(name)
    }

    /// The instances that take traffic on an address.
    pub(crate) fn at(&self, address: IpAddr) -> &[Place] {
        let hosts = self.hosts.get_or_init(|| {
            let mut hosts = HashMap::<IpAddr, Vec<Place>>::new();
            for entry in self.groups.values() {
                let Entry::One(group) = entry else { continue };
                for (member, known) in group.members.iter().enumerate() {
                    for address in &known.addresses {
                        let place = Place { group: group.clone(), member };
                        hosts.entry(*address).or_default().push(place);
                    }
                }
            }
            hosts
        });
        hosts.get(&address.to_canonical()).map_or(&[], Vec::as_slice)
    }
}

impl Place {
    /// The name of the instance. `None` when it is too long for DNS.
    pub(crate) fn name(&self, origin: &Origin) -> Option<Name> {
        origin.instance(&self.group, &self.group.members[self.member], None)
    }
}

/// The name of a service before that of the zone. `None` for a service that has no name in DNS.
pub(crate) fn path_of(key: &ServiceKey) -> Option<String> {
    path(&parts(key).map(label))
}

fn path(labels: &[String; 3]) -> Option<String> {
    match labels {
        [service, app, _] if service.is_empty() || app.is_empty() => None,
        [service, app, env] if env.is_empty() => Some(format!("{service}.{app}")),
        [service, app, env] => Some(format!("{service}.{app}.{env}")),
    }
}

fn parts(key: &ServiceKey) -> [&str; 3] {
    [&key.service_name, &key.app_id, &key.environment]
}

fn version<S: Service>(service: &S) -> &str {
    service.key().map_or("", |key| &key.version)
}
