//! The grammar of bus subjects: built and parsed here, nowhere else.
//!
//! Tokens are percent-encoded, because NATS gives `.`, `*`, `>` and blanks a meaning of their own and a
//! domain or a service id may contain any of them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::model::{ServiceRef, Tenant};

/// Everything but letters, digits, `-` and `_`.
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Progress of the publisher, once a second.
pub const BOOKMARK: &str = "muster.bookmark";
/// Who is a consumer interested in? Answered by any replica.
pub const RPC_INTEREST: &str = "muster.rpc.interest";
/// What happened to these providers since? Answered by any replica.
pub const RPC_REPLAY: &str = "muster.rpc.replay";
/// The question of [`RPC_REPLAY`], put to all replicas: whose history has the whole of it answers, the others do not.
pub const RPC_HISTORY: &str = "muster.rpc.history";
/// Do we agree on these providers? Answered by any replica.
pub const RPC_DIGEST: &str = "muster.rpc.digest";
/// The queue group of the replicas.
pub const REPLICAS: &str = "muster-replicas";

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
    let encode = |token| utf8_percent_encode(token, TOKEN);
    format!("muster.services.{}.{}", encode(&tenant.domain), encode(&tenant.project))
}

/// The service of an event or interest subject.
pub fn service_of(subject: &str) -> Option<ServiceRef> {
    let tokens =
        subject.strip_prefix("muster.event.").or_else(|| subject.strip_prefix("muster.interest."))?;
    let mut tokens = tokens.split('.');
    let mut next = || percent_decode_str(tokens.next()?).decode_utf8().ok().map(String::from);
    let (domain, project, id) = (next()?, next()?, next()?);
    tokens.next().is_none().then(|| ServiceRef::new(Tenant::new(domain, project), id))
}

fn subject(root: &str, service: &ServiceRef) -> String {
    let encode = |token| utf8_percent_encode(token, TOKEN);
    let Tenant { domain, project } = &service.tenant;
    format!("{root}.{}.{}.{}", encode(domain), encode(project), encode(&service.id))
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
        fn every_name_makes_one_subject_and_comes_back(domain in ".+", project in ".+", id in ".+") {
            let service = ServiceRef::new(Tenant::new(domain, project), id);
            let subject = event(&service);
            prop_assert_eq!(subject.split('.').count(), 5);
            prop_assert!(!subject.contains(['*', '>', ' ']));
            prop_assert_eq!(service_of(&subject), Some(service));
        }
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
