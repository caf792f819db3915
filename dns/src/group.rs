//! A service with all its versions, as the zone answers for it.
//!
//! In: the service's versions and their instances. Out: the instances that take traffic, with everything that
//! records are made of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use hickory_proto::rr::Name;
use shared::model::Instance;

use crate::endpoint::{Endpoint, Host};
use crate::label::{has_label, label};
use crate::order::Weighted;
use crate::source::{Service, Stamp};
use crate::wire::EndpointRecord;

/// A service.
#[derive(Debug)]
pub(crate) struct Group {
    /// The labels of service, application and environment, with dots between them.
    pub(crate) name: Box<str>,
    /// The states that this was made of.
    pub(crate) made_of: Vec<Stamp>,
    /// The versions that are registered, also those without instances.
    pub(crate) versions: Vec<Version>,
    /// The instances that take traffic.
    pub(crate) members: Vec<Member>,
    /// The addresses of all of them.
    pub(crate) addresses: Addresses,
    /// The endpoints of all of them, with their weights.
    pub(crate) endpoints: Weighted<Spot>,
}

/// The place of an endpoint in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Among [`Group::members`].
    pub(crate) member: usize,
    /// Among [`Member::endpoints`].
    pub(crate) endpoint: usize,
}

/// A version of a service.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) text: Box<str>,
    pub(crate) label: Box<str>,
}

/// An instance that takes traffic.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) label: Box<str>,
    /// The place of its version in [`Group::versions`].
    pub(crate) version: usize,
    pub(crate) weight: u16,
    pub(crate) endpoints: Vec<Endpoint>,
    /// The different addresses of its endpoints.
    pub(crate) addresses: Vec<IpAddr>,
    /// The name of the instance has several addresses: its own, or also those of an instance with the same id in
    /// another version of the service.
    pub(crate) has_many: bool,
    /// The name of the instance has several endpoints, so that records with one target may stand in an answer.
    pub(crate) is_repeated: bool,
    pub(crate) instance: Arc<Instance>,
    /// The records of its endpoints, each made when an answer has it for the first time: of a service with
    /// thousands of instances that changes all the time, most are never told. `None` when a name is too long.
    records: Box<[OnceLock<Option<EndpointRecord>>]>,
}

/// Addresses of instances with their weights, each once.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) v4: Weighted<Ipv4Addr>,
    pub(crate) v6: Weighted<Ipv6Addr>,
    pub(crate) names: Weighted<Name>,
}

impl Group {
    /// A group of these versions of one service.
    pub(crate) fn new<S: Service>(name: Box<str>, services: &[&S]) -> Self {
        let mut versions = Vec::with_capacity(services.len());
        let mut members = Vec::new();
        for (place, service) in services.iter().enumerate() {
            let text = service.key().map_or("", |key| key.version.as_str());
            versions.push(Version { text: text.into(), label: label(text).into() });
            members.extend(service.instances().filter_map(|instance| Member::new(place, instance)));
        }
        let made_of = services.iter().map(|service| service.stamp()).collect();
        mark_many(&mut members);
        let addresses = Addresses::of(&members, None);
        let endpoints = (0..members.len()).flat_map(|member| spots(&members, member)).collect();
        Self { name, made_of, versions, members, addresses, endpoints }
    }

    /// The endpoints of an instance, with their weights.
    pub(crate) fn endpoints_of(&self, member: usize) -> impl Iterator<Item = (Spot, u32)> {
        spots(&self.members, member)
    }

    /// An endpoint.
    pub(crate) fn endpoint(&self, spot: Spot) -> &Endpoint {
        &self.members[spot.member].endpoints[spot.endpoint]
    }

    /// The record of an endpoint, made the first time that it is asked for. `None` when it cannot be made.
    pub(crate) fn record(
        &self,
        spot: Spot,
        make: impl FnOnce(&Member, &Endpoint) -> Option<EndpointRecord>,
    ) -> Option<&EndpointRecord> {
        let member = &self.members[spot.member];
        let made = member.records[spot.endpoint].get_or_init(|| make(member, self.endpoint(spot)));
        made.as_ref()
    }
}

fn spots(members: &[Member], member: usize) -> impl Iterator<Item = (Spot, u32)> {
    let Member { weight, endpoints, .. } = &members[member];
    (0..endpoints.len()).map(move |endpoint| (Spot { member, endpoint }, u32::from(*weight)))
}

impl Member {
    fn new(version: usize, instance: &Arc<Instance>) -> Option<Self> {
        if !instance.takes_traffic() {
            return None;
        }
        let weight = instance.weight().into();
        // By sets: one instance may have thousands of endpoints, and is made anew with each of its changes.
        let mut known = HashSet::new();
        let all = instance.endpoints.iter().filter_map(|text| Endpoint::parse(text));
        let endpoints: Vec<Endpoint> = all.filter(|endpoint| known.insert(endpoint.clone())).collect();
        let mut placed = HashSet::new();
        let addresses = endpoints.iter().filter_map(|endpoint| match endpoint.host {
            Host::Address(address) => placed.insert(address).then_some(address),
            Host::Name(_) => None,
        });
        let addresses = addresses.collect();
        let label = label(&instance.instance_id).into();
        let records = endpoints.iter().map(|_| OnceLock::new()).collect();
        Some(Self {
            label,
            version,
            weight,
            endpoints,
            addresses,
            has_many: false,
            is_repeated: false,
            instance: instance.clone(),
            records,
        })
    }

    /// True when the instance has this property, by the labels of its key and value.
    pub(crate) fn has_tag(&self, key: &str, value: &str) -> bool {
        self.instance.properties.iter().any(|(k, v)| has_label(k, key) && has_label(v, value))
    }

    /// True when the instance has a property with this label.
    pub(crate) fn has_tag_key(&self, key: &str) -> bool {
        self.instance.properties.keys().any(|k| has_label(k, key))
    }
}

/// Marks the instances whose names have several addresses, and those whose names have several endpoints.
fn mark_many(members: &mut [Member]) {
    let mut names = HashMap::<&str, (HashSet<IpAddr>, usize)>::new();
    for member in &*members {
        let (addresses, endpoints) = names.entry(&member.label).or_default();
        addresses.extend(&member.addresses);
        *endpoints += member.endpoints.len();
    }
    let marks = |member: &Member| {
        let (addresses, endpoints) = &names[&*member.label];
        (addresses.len() > 1, *endpoints > 1)
    };
    let marks: Vec<_> = members.iter().map(marks).collect();
    for (member, (has_many, is_repeated)) in members.iter_mut().zip(marks) {
        (member.has_many, member.is_repeated) = (has_many, is_repeated);
    }
}

impl Addresses {
    /// The addresses of these instances, or the one of them that is named. Instances on one address have the sum of
    /// their weights.
    pub(crate) fn of<'a>(members: impl IntoIterator<Item = &'a Member>, only: Option<IpAddr>) -> Self {
        let mut addresses = BTreeMap::<IpAddr, u32>::new();
        let mut names = BTreeMap::<&Name, u32>::new();
        for member in members {
            for address in &member.addresses {
                let weight = addresses.entry(*address).or_default();
                *weight = weight.saturating_add(member.weight.into());
            }
            for endpoint in &member.endpoints {
                if let Host::Name(name) = &endpoint.host {
                    let weight = names.entry(name).or_default();
                    *weight = weight.saturating_add(member.weight.into());
                }
            }
        }
        if let Some(only) = only {
            addresses.retain(|address, _| *address == only);
            names.clear();
        }
        let names = names.into_iter().map(|(name, weight)| (name.clone(), weight)).collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, weight) in addresses {
            match address {
                IpAddr::V4(address) => v4.push((address, weight)),
                IpAddr::V6(address) => v6.push((address, weight)),
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect(), names }
    }
}
