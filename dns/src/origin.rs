//! The zone itself: its name, and the names of what is in it.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::SOA;

use crate::group::{Group, Member};

/// The name of the server, below the zone.
pub(crate) const NAME_SERVER: &str = "ns";

/// A zone's name and its times.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    name: Name,
    name_server: Name,
    mailbox: Name,
    /// Seconds for which an answer may be kept.
    pub(crate) ttl: u32,
    /// The address of the server, if it has only one.
    pub(crate) address: Option<IpAddr>,
}

/// The name of a zone that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a name with at least one label, such as muster. or registry.example.com.")]
pub struct NoDomain;

impl Origin {
    /// The zone with this name. `listen` is the address of the server.
    ///
    /// # Errors
    /// When the name cannot be that of a zone.
    pub fn new(domain: &str, ttl: u32, listen: IpAddr) -> Result<Self, NoDomain> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !domain.chars().all(is_plain) {
            return Err(NoDomain);
        }
        let mut name = Name::from_ascii(domain).map_err(|_| NoDomain)?;
        name.set_fqdn(true);
        // The names below it need room: the longest name of DNS has 255 octets.
        if name.is_root() || name.len() > 100 {
            return Err(NoDomain);
        }
        let name = name.to_lowercase();
        let name_server = name.prepend_label(NAME_SERVER).map_err(|_| NoDomain)?;
        let mailbox = name.prepend_label("hostmaster").map_err(|_| NoDomain)?;
        let address = (!listen.is_unspecified()).then_some(listen);
        Ok(Self { name, name_server, mailbox, ttl, address })
    }

    /// The name of the server.
    pub(crate) fn name_server(&self) -> &Name {
        &self.name_server
    }

    /// The name of the zone.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// The part of a name before the zone: labels in lower case with dots between them, empty for the zone
    /// itself. `None` when the name is not in the zone.
    pub(crate) fn below(&self, name: &Name) -> Option<String> {
        let zone = self.name.iter();
        let count = name.iter().len().checked_sub(zone.len())?;
        if !name.iter().skip(count).zip(zone).all(|(a, b)| a.eq_ignore_ascii_case(b)) {
            return None;
        }
        let mut below = String::with_capacity(name.len());
        for label in name.iter().take(count) {
            if !below.is_empty() {
                below.push('.');
            }
            // A label of DNS may have any octets. A dot within one must not look like two labels, and no name
            // of ours has other characters than these.
            let is_ours = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            below.extend(label.iter().map(|b| if is_ours(b) { b.to_ascii_lowercase() as char } else { '!' }));
        }
        Some(below)
    }

    /// The name of an instance, or of one of its addresses. `None` when it is too long for DNS.
    pub(crate) fn instance(&self, group: &Group, member: &Member, address: Option<IpAddr>) -> Option<Name> {
        let mut name = Name::new();
        if let Some(address) = address {
            name = name.append_label(address_label(address).as_bytes()).ok()?;
        }
        name = name.append_label(member.label.as_bytes()).ok()?;
        name = name.append_label(b"instance".as_slice()).ok()?;
        for label in group.name.split('.') {
            name = name.append_label(label.as_bytes()).ok()?;
        }
        name.append_name(&self.name).ok()
    }

    /// The record that says how long a missing name may be taken for missing.
    pub(crate) fn soa(&self, serial: u32) -> SOA {
        let hour = 3600;
        // There are no secondary servers, so only the last number matters.
        SOA::new(self.name_server.clone(), self.mailbox.clone(), serial, hour, 60, hour, self.ttl)
    }
}

/// The label of an address.
pub(crate) fn address_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn origin(domain: &str) -> Result<Origin, NoDomain> {
        Origin::new(domain, 5, Ipv4Addr::UNSPECIFIED.into())
    }

    #[test]
    fn a_zone_has_a_name_of_its_own() {
        for domain in ["muster", "muster.", "Registry.Example.com."] {
            assert!(origin(domain).is_ok(), "{domain}");
        }
        let long = ["abcdefghi"; 12].join(".");
        for domain in ["", ".", "a..b", "mu ster", "müster.", "a\\046b", &long, &"a".repeat(64)] {
            assert!(origin(domain).is_err(), "{domain}");
        }
    }

    #[test]
    fn names_are_below_the_zone_or_not() {
        let zone = origin("Registry.example.").expect("a zone");
        let below = |name: &str| zone.below(&Name::from_ascii(name).expect("a name"));
        assert_eq!(below("Order.Shop.registry.EXAMPLE.").as_deref(), Some("order.shop"));
        assert_eq!(below("registry.example.").as_deref(), Some(""));
        for other in ["example.", ".", "registry.example.com.", "aregistry.example."] {
            assert_eq!(below(other), None, "{other}");
        }
        let dotted = Name::from_labels([b"order.shop".as_slice(), b"registry", b"example"]).expect("a name");
        assert_eq!(zone.below(&dotted).as_deref(), Some("order!shop"), "a dot within a label is none");
    }
}
