//! A tenant's services at one moment, grouped by name, and the way from one moment to the next.
//!
//! A group is a service in all its versions. A group that has not changed is shared by all states, and so are
//! the resources that were made of it: each is made when a stream first asks for it, once for all streams.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use access::Grant;
use follow::read::ReadTopic;
use parking_lot::Mutex;
use rpds::RedBlackTreeMapSync;
use shared::model::{ServiceKey, ServiceRef};
use shared::version::Version;

use super::kind::Kind;
use super::name::{Name, group_name, group_of};
use super::resource::{self, Resource};
use super::stream::{Change, Source};
use super::version::Point;
use crate::policy::labels_of;

/// Resources of one group that are kept for further streams. Names choose versions and protocols, and clients
/// choose names.
const KEPT: usize = 64;

/// Nonces between those of two states: more than the answers that a stream usually sends of one.
const NONCES: u64 = 16;

/// A service in all its versions.
#[derive(Debug)]
struct Group {
    /// The name of one of the versions: environment, application and service are those of all.
    key: Arc<ServiceKey>,
    /// The versions, lowest first.
    members: Vec<Member>,
    /// The last change.
    point: Point,
    made: Mutex<Vec<Made>>,
}

/// A resource with its kind and name.
type Made = (Kind, Box<str>, Arc<Resource>);

#[derive(Debug)]
struct Member {
    version: Version,
    key: Arc<ServiceKey>,
    topic: Arc<ReadTopic>,
}

/// A tenant's services at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Counts the states of this process.
    pub(crate) serial: u64,
    /// Everything up to here is contained.
    pub(crate) point: Point,
    /// The latest change that is contained.
    pub(crate) reached: Point,
    /// The differences to the state before.
    pub(crate) changes: Arc<[Change]>,
    groups: RedBlackTreeMapSync<Arc<str>, Arc<Group>>,
}

impl Group {
    fn resource(&self, kind: Kind, text: &str) -> Option<Arc<Resource>> {
        let find = |made: &[Made]| {
            let found = made.iter().find(|(of, name, _)| *of == kind && **name == *text);
            found.map(|(_, _, resource)| resource.clone())
        };
        if let Some(found) = find(&self.made.lock()) {
            return Some(found);
        }
        let name = Name::parse(text)?;
        let mut made = self.made.lock();
        // Another stream may have made it meanwhile.
        if let Some(found) = find(&made) {
            return Some(found);
        }
        let value = match kind {
            Kind::Cluster => resource::cluster(text, name.protocol),
            Kind::Listener => resource::listener(text),
            Kind::Route => resource::route(text),
            Kind::Endpoint => {
                let highest = self.members.last().map(|member| member.version).unwrap_or_default();
                let taken = self.members.iter().filter(|member| {
                    let takes = |rule: &shared::version::VersionRule| {
                        rule.takes(&member.key.version, member.version, highest)
                    };
                    name.rule.as_ref().is_none_or(takes)
                });
                let instances = taken.flat_map(|member| {
                    let version = member.key.version.as_str();
                    let instances = member.topic.instances.values();
                    instances.map(move |(instance, rev)| (&**instance, *rev, version))
                });
                resource::endpoints(text, name.protocol, instances)
            }
        };
        let resource = Arc::new(Resource::new(kind, text, self.point, value));
        if made.len() < KEPT {
            made.push((kind, text.into(), resource.clone()));
        }
        Some(resource)
    }
}

/// A state as one account sees it.
pub(crate) struct Seen<'a> {
    pub(crate) state: &'a State,
    pub(crate) grant: &'a Grant,
    /// Everything up to here is contained: the state's point, or a later one that has changed nothing.
    pub(crate) point: Point,
}

impl Seen<'_> {
    fn admits(&self, group: &Group) -> bool {
        self.grant.admits(labels_of(&group.key))
    }
}

impl Source for Seen<'_> {
    fn find(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let group = self.state.groups.get(group_of(name))?;
        self.admits(group).then(|| group.resource(kind, name)).flatten()
    }

    fn none_any_more(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        // Envoy keeps the endpoints of a cluster whose resource is gone, so that it is told that there are
        // none. Nothing else is missed: clusters and listeners are listed whole, and a route without them is
        // unused.
        let is_told = kind == Kind::Endpoint && Name::parse(name).is_some();
        is_told.then(|| {
            let value = resource::endpoints(name, None, std::iter::empty());
            Arc::new(Resource::new(kind, name, self.point, value))
        })
    }

    fn all(&self, kind: Kind) -> Vec<Arc<str>> {
        match kind {
            Kind::Cluster | Kind::Endpoint => {
                let seen = self.state.groups.iter().filter(|(_, group)| self.admits(group));
                seen.map(|(name, _)| name.clone()).collect()
            }
            // They are for gRPC clients, which name them. Envoy refuses listeners of this form.
            Kind::Listener | Kind::Route => Vec::new(),
        }
    }

    fn is_of_all(&self, kind: Kind, name: &str) -> bool {
        matches!(kind, Kind::Cluster | Kind::Endpoint) && name == group_of(name)
    }

    fn point(&self) -> Point {
        self.point
    }

    fn first_nonce(&self) -> u64 {
        self.state.serial.saturating_mul(NONCES)
    }
}

/// Makes states, each from the one before.
#[derive(Debug, Default)]
pub(super) struct States {
    last: State,
    /// The services as of the last state, each with its group.
    known: HashMap<ServiceRef, Known>,
    /// The services of each group.
    members: HashMap<Arc<str>, BTreeSet<ServiceRef>>,
}

#[derive(Debug)]
struct Known {
    group: Arc<str>,
    topic: Arc<ReadTopic>,
    /// The look at which it was last there.
    seen: u64,
}

impl States {
    /// The state with these services, of which everything up to `point` is contained. `None` when it is the
    /// last one.
    pub(super) fn take<'a>(
        &mut self,
        services: impl Iterator<Item = (&'a ServiceRef, &'a Arc<ReadTopic>)>,
        point: Point,
    ) -> Option<State> {
        let look = self.last.serial + 1;
        let mut touched = BTreeSet::new();
        let mut count = 0;
        for (service, topic) in services {
            let Some(key) = &topic.key else { continue };
            count += 1;
            if let Some(known) = self.known.get_mut(service) {
                known.seen = look;
                if Arc::ptr_eq(&known.topic, topic) {
                    continue;
                }
                if !is_same(&known.topic, topic) {
                    touched.insert(known.group.clone());
                }
                known.topic = topic.clone();
                continue;
            }
            let name = group_name(&key.environment, &key.app_id, &key.service_name);
            let group: Arc<str> = match self.members.get_key_value(&*name) {
                Some((group, _)) => group.clone(),
                None => name.into(),
            };
            self.members.entry(group.clone()).or_default().insert(service.clone());
            touched.insert(group.clone());
            self.known.insert(service.clone(), Known { group, topic: topic.clone(), seen: look });
        }
        if count < self.known.len() {
            self.known.retain(|service, known| {
                let is_there = known.seen == look;
                if !is_there {
                    touched.insert(known.group.clone());
                    if let Some(members) = self.members.get_mut(&known.group) {
                        members.remove(service);
                    }
                }
                is_there
            });
        }
        if touched.is_empty() && look > 1 {
            return None;
        }
        let changes: Vec<Change> = touched.into_iter().map(|group| self.regroup(group, point)).collect();
        self.last.serial = look;
        self.last.point = point;
        self.last.changes = changes.into();
        Some(self.last.clone())
    }

    /// The latest change that is contained.
    pub(super) fn reached(&self) -> Point {
        self.last.reached
    }

    fn regroup(&mut self, name: Arc<str>, now: Point) -> Change {
        let services = self.members.get(&name).filter(|services| !services.is_empty());
        let before = self.last.groups.get(&name);
        let existed = before.is_some();
        let Some(services) = services else {
            self.members.remove(&name);
            self.last.groups.remove_mut(&name);
            return Change { group: name, in_existence: existed };
        };
        let mut members: Vec<Member> = services
            .iter()
            .filter_map(|service| {
                let topic = &self.known.get(service)?.topic;
                let key = topic.key.clone()?;
                let version = Version::parse(&key.version).unwrap_or_default();
                Some(Member { version, key, topic: topic.clone() })
            })
            .collect();
        members.sort_by(|a, b| (a.version, &a.key.version).cmp(&(b.version, &b.key.version)));
        let Some(key) = members.first().map(|member| member.key.clone()) else {
            self.last.groups.remove_mut(&name);
            return Change { group: name, in_existence: existed };
        };
        // A version of the service that goes takes its revision with it, and no version may go back.
        let floor = match before {
            Some(before) if before.members.len() > members.len() => now.max(before.point),
            Some(before) => before.point,
            None => Point::ZERO,
        };
        let changes = members.iter().map(|member| now.with(member.topic.at.rev));
        let point = changes.fold(floor, Point::max);
        self.last.reached = self.last.reached.max(point);
        let group = Group { key, members, point, made: Mutex::default() };
        self.last.groups.insert_mut(name.clone(), Arc::new(group));
        Change { group: name, in_existence: !existed }
    }
}

/// True when two states of a service have the same instances.
fn is_same(a: &ReadTopic, b: &ReadTopic) -> bool {
    a.at == b.at && a.digest == b.digest && a.key == b.key
}
