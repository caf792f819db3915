//! The instances that a name means.
//!
//! In: a name below the zone. Out: the part of a service that it means, a proof that there is nothing, or the
//! word that nobody can tell.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::group::{Addresses, Group, Member, Spot};
use crate::names::{Asked, Part, Reading};
use crate::order::Weighted;
use crate::origin::address_label;
use crate::zone::{Entry, Zone};

/// The owner of a name.
pub(crate) enum Found<'z> {
    /// There is no such name.
    Nothing,
    /// The name has no records, but others are below it.
    Above,
    /// The name is that of several services.
    Ambiguous,
    /// A part of a service.
    Service(Selection<'z>),
}

/// A part of a service.
pub(crate) struct Selection<'z> {
    pub(crate) group: &'z Group,
    /// The places of the instances in the group; `None` means all.
    members: Option<Vec<usize>>,
    /// The only address that is meant.
    address: Option<IpAddr>,
    /// The only protocol that is meant.
    pub(crate) protocol: Option<Box<str>>,
    /// The name is that of one instance.
    pub(crate) is_instance: bool,
    /// The place of the only version that is meant.
    pub(crate) version: Option<usize>,
}

/// Finds the owner of a name.
pub(crate) fn find<'z>(zone: &'z Zone, asked: &Asked<'_>) -> Found<'z> {
    for reading in asked.readings() {
        match zone.get(reading.service) {
            None => {}
            Some(Entry::Ambiguous) => return Found::Ambiguous,
            Some(Entry::One(group)) => return of_protocol(part_of(group, reading), asked),
        }
    }
    let has_protocol = asked.protocol.is_some() || asked.is_above_protocol;
    if !has_protocol && zone.has_below(asked.rest) { Found::Above } else { Found::Nothing }
}

fn part_of<'z>(group: &'z Group, reading: Reading<'_>) -> Found<'z> {
    let whole =
        Selection { group, members: None, address: None, protocol: None, is_instance: false, version: None };
    let some = |chosen: &dyn Fn(&Member) -> bool| -> Vec<usize> {
        (0..group.members.len()).filter(|place| chosen(&group.members[*place])).collect()
    };
    let found = |members: Vec<usize>, rest: Selection<'z>| {
        if members.is_empty() {
            Found::Nothing
        } else {
            Found::Service(Selection { members: Some(members), ..rest })
        }
    };
    match reading.part {
        Part::Whole => Found::Service(whole),
        Part::Version(label) => match group.versions.iter().position(|version| &*version.label == label) {
            None => Found::Nothing,
            Some(place) => {
                // Versions with one label, such as 1.0 and 1-0, are one here. The registry admits only the
                // first form.
                let members = Some(some(&|member| &*group.versions[member.version].label == label));
                Found::Service(Selection { members, version: Some(place), ..whole })
            }
        },
        Part::Tag { value, key } => found(some(&|member| member.has_tag(key, value)), whole),
        Part::Instance(id) => {
            found(some(&|member| &*member.label == id), Selection { is_instance: true, ..whole })
        }
        Part::Host { address, instance } => {
            let members = some(&|member| &*member.label == instance);
            let addresses = members.iter().flat_map(|place| &group.members[*place].addresses);
            match addresses.copied().find(|known| address_label(*known) == address) {
                None => Found::Nothing,
                known => found(members, Selection { is_instance: true, address: known, ..whole }),
            }
        }
        Part::Above => Found::Above,
        Part::AboveTag(key) if group.members.iter().any(|member| member.has_tag_key(key)) => Found::Above,
        Part::AboveTag(_) => Found::Nothing,
    }
}

fn of_protocol<'z>(found: Found<'z>, asked: &Asked<'_>) -> Found<'z> {
    if asked.protocol.is_none() && !asked.is_above_protocol {
        return found;
    }
    let Found::Service(selection) = found else { return Found::Nothing };
    let protocol = asked.protocol.map(Box::from);
    let selection = Selection { protocol, ..selection };
    if selection.spots().next().is_none() {
        Found::Nothing
    } else if asked.is_above_protocol {
        Found::Above
    } else {
        Found::Service(selection)
    }
}

impl<'z> Selection<'z> {
    /// The instances.
    pub(crate) fn members(&self) -> impl Iterator<Item = &'z Member> {
        let group = self.group;
        self.places().map(move |place| &group.members[place])
    }

    /// The places of the instances in the group.
    fn places(&self) -> impl Iterator<Item = usize> {
        let count = self.members.as_ref().map_or(self.group.members.len(), Vec::len);
        (0..count).map(|index| self.members.as_ref().map_or(index, |members| members[index]))
    }

    /// All instances are meant.
    pub(crate) fn is_whole(&self) -> bool {
        self.members.is_none()
    }

    /// The addresses of the instances.
    pub(crate) fn addresses(&self) -> Cow<'z, Addresses> {
        if self.is_whole() && self.address.is_none() {
            return Cow::Borrowed(&self.group.addresses);
        }
        Cow::Owned(Addresses::of(self.members(), self.address))
    }

    /// The endpoints of the instances, with their weights.
    pub(crate) fn endpoints(&self) -> Cow<'z, Weighted<Spot>> {
        if self.is_whole() && self.protocol.is_none() && self.address.is_none() {
            return Cow::Borrowed(&self.group.endpoints);
        }
        Cow::Owned(self.spots().collect())
    }

    fn spots(&self) -> impl Iterator<Item = (Spot, u32)> {
        let endpoints = self.places().flat_map(|place| self.group.endpoints_of(place));
        endpoints.filter(|(spot, _)| {
            let endpoint = self.group.endpoint(*spot);
            self.protocol.as_deref().is_none_or(|protocol| *endpoint.protocol == *protocol)
                && self.address.is_none_or(|only| endpoint.is_on(only))
        })
    }
}
