//! The grammar of bus subjects: built and parsed here, nowhere else.
//!
//! Tokens are percent-encoded, because NATS gives `.`, `*`, `>` and blanks a meaning of their own and a
//! domain or a service id may contain any of them.
//!
//! NATS closes the connection of a client whose control line is longer than 4 096 bytes. Names within the
//! registry's limits never make a subject that long. A longer name, which only a stranger can have written
//! into the store, is folded into a hash, so that no name can cut a process off from the bus.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::event::fnv1a;
use crate::model::{MAX_ID, MAX_TENANT_NAME, ServiceRef, Tenant};

/// Everything but letters, digits, `-` and `_`.
// Hyphen and underscore have no meaning for NATS and are common in names, so ordinary subjects stay
// readable in the server's monitoring.
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The most bytes of one character in a token: four bytes in UTF-8, each of them percent-encoded.
const CHARACTER: usize = 12;

/// Bookmarks of the publisher, at least one a second.
pub const BOOKMARK: &str = "muster.bookmark";
/// Requests for a consumer's interest. One replica replies, as on all subjects of requests but [`RPC_HISTORY`]. The same
/// requests may be sent to every replica, on [`to_all`] of the subject.
pub const RPC_INTEREST: &str = "muster.rpc.interest";
/// Requests for the changes of some providers since a position.
pub const RPC_REPLAY: &str = "muster.rpc.replay";
/// The requests of [`RPC_REPLAY`], sent to all replicas. A replica replies only when its history is long
/// enough.
pub const RPC_HISTORY: &str = "muster.rpc.history";
/// Requests to compare the digests of some providers.
pub const RPC_DIGEST: &str = "muster.rpc.digest";
/// Requests for the access policy.
pub const RPC_POLICY: &str = "muster.rpc.policy";
/// Reports of heartbeats, to the replica with the publisher's seat.
pub const BEATS_REPORT: &str = "muster.beats.report";
/// The ticks of the replica with the publisher's seat, to all who report heartbeats.
pub const BEATS_TICK: &str = "muster.beats.tick";
/// The gateways' announcements of their readiness to each other.
pub const GATEWAYS: &str = "muster.gateways";
/// Questions to every gateway how many of its watchers have been given a change.
pub const GATEWAYS_REACH: &str = "muster.gateways.reach";
/// The queue group of the replicas: the bus gives a request to one member.
pub const REPLICAS: &str = "muster-replicas";

/// The subject on which all replicas receive the requests of `subject`. Every replica that can answer replies, and the
/// others are silent.
pub fn to_all(subject: &str) -> String {
    format!("{subject}.all")
}

/// The subject of a provider's instance events.
pub fn event(provider: &ServiceRef) -> String {
    subject("muster.event", provider)
}

/// The subject of a consumer's interest changes.
pub fn interest(consumer: &ServiceRef) -> String {
    subject("muster.interest", consumer)
}

/// The subject on which a tenant's services come and go.
pub fn services(tenant: &Tenant) -> String {
    let domain = token(&tenant.domain, MAX_TENANT_NAME);
    let project = token(&tenant.project, MAX_TENANT_NAME);
    format!("muster.services.{domain}.{project}")
}

/// The subject on which a gateway receives the answers to its questions on [`GATEWAYS_REACH`].
pub fn reached(asker: u64) -> String {
    format!("muster.gateways.reached.{asker:016x}")
}

/// The service of an event or interest subject.
pub fn service_of(subject: &str) -> Option<ServiceRef> {
    let tokens =
        subject.strip_prefix("muster.event.").or_else(|| subject.strip_prefix("muster.interest."))?;
    let mut tokens = tokens.split('.');
    let domain = name_in(tokens.next()?, MAX_TENANT_NAME)?;
    let project = name_in(tokens.next()?, MAX_TENANT_NAME)?;
    let id = name_in(tokens.next()?, MAX_ID)?;
    // A subject with more tokens may come from a later version. Read in part, it would name a wrong service.
    tokens.next().is_none().then(|| ServiceRef::new(Tenant::new(domain, project), id))
}

fn subject(root: &str, service: &ServiceRef) -> String {
    let Tenant { domain, project } = &service.tenant;
    let domain = token(domain, MAX_TENANT_NAME);
    let project = token(project, MAX_TENANT_NAME);
    let id = token(&service.id, MAX_ID);
    format!("{root}.{domain}.{project}.{id}")
}

/// The token for a name that may have `most` characters.
fn token(name: &str, most: usize) -> String {
    let token = utf8_percent_encode(name, TOKEN).to_string();
    if token.len() <= most * CHARACTER {
        return token;
    }
    // Every process computes this hash alike. A tilde is always encoded in a name, so no name has this
    // token; two names that share it would only receive each other's messages, which name their service.
    format!("~{:016x}", fnv1a(name.bytes()))
}

/// The name in a token. `None` for a token that [`token`] would not make, because its name is too long.
fn name_in(token: &str, most: usize) -> Option<String> {
    let name = percent_decode_str(token).decode_utf8().ok()?;
    let encoded: usize = utf8_percent_encode(&name, TOKEN).map(str::len).sum();
    (encoded <= most * CHARACTER).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_readable() {
        let provider = ServiceRef::new(Tenant::default(), "d8ff48ad");
        assert_eq!(event(&provider), "muster.event.default.default.d8ff48ad");
        assert_eq!(interest(&provider), "muster.interest.default.default.d8ff48ad");
        assert_eq!(services(&provider.tenant), "muster.services.default.default");
    }

    proptest! {
        #[test]
        fn every_name_makes_one_subject_and_is_parsed_back(domain in ".+", project in ".+", id in ".+") {
            let service = ServiceRef::new(Tenant::new(domain, project), id);
            let subject = event(&service);
            prop_assert_eq!(subject.split('.').count(), 5);
            prop_assert!(!subject.contains(['*', '>', ' ']));
            prop_assert_eq!(service_of(&subject), Some(service));
        }
    }

    #[test]
    fn no_name_makes_a_subject_that_the_server_refuses() {
        // The length of a control line, less the verb, a reply subject, the sizes and the end of the line.
        let most = 4096 - 128;
        for (names, id) in [(MAX_TENANT_NAME, MAX_ID), (5000, 5000), (100_000, 1)] {
            let name = "\u{10ffff}".repeat(names);
            let provider = ServiceRef::new(Tenant::new(&name, &name), "\u{10ffff}".repeat(id));
            for subject in [event(&provider), interest(&provider), services(&provider.tenant)] {
                assert!(subject.len() <= most, "{} bytes", subject.len());
                assert!(!subject.contains(['*', '>', ' ']), "{subject}");
            }
            let is_whole = names <= MAX_TENANT_NAME;
            assert_eq!(service_of(&event(&provider)) == Some(provider), is_whole);
        }
        let long = ServiceRef::new(Tenant::default(), "a".repeat(5000));
        let other = ServiceRef::new(Tenant::default(), "a".repeat(5001));
        assert_ne!(event(&long), event(&other), "long names stay apart");
    }

    #[test]
    fn foreign_subjects_name_no_service() {
        for subject in
            ["", "muster.bookmark", "muster.event.a.b", "muster.event.a.b.c.d", "muster.event.a.b.%ff"]
        {
            assert_eq!(service_of(subject), None, "{subject}");
        }
    }
}
