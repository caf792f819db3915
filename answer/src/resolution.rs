//! The services that answer a find, as a control plane tells a gateway.
//!
//! A gateway asks for them with the header [`ASK`], and gets them in [`FOUND`] beside the reply. It never
//! lets a client set the one or see the other. They name nothing that the reply itself does not show: where
//! the caller's rights leave a service out, or the services are too many, they are left out altogether.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use shared::model::{Revision, ServiceRef, Tenant};

/// A gateway asks for the services that answer.
pub const ASK: HeaderName = HeaderName::from_static("x-muster-resolve");
/// The services that answer.
pub const FOUND: HeaderName = HeaderName::from_static("x-muster-found");

/// The most services that are told.
const MOST_SERVICES: usize = 64;
/// The most bytes of the header.
const MOST_BYTES: usize = 4096;
/// Everything but what ids and names consist of. The separators are not among those.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// The services that answer a find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The revision of the view that the find was answered from.
    pub rev: Revision,
    /// The services, in the order of the reply.
    pub services: Vec<ServiceRef>,
}

impl Resolution {
    /// The header. `None` when the services are too many.
    pub fn encode(&self) -> Option<HeaderValue> {
        if self.services.len() > MOST_SERVICES {
            return None;
        }
        let mut text = format!("{};", self.rev);
        for (index, service) in self.services.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            let ServiceRef { tenant: Tenant { domain, project }, id } = service;
            for (part, after) in [(domain, "/"), (project, "/"), (id, "")] {
                text.extend(utf8_percent_encode(part, ESCAPED));
                text.push_str(after);
            }
        }
        if text.len() > MOST_BYTES { None } else { HeaderValue::try_from(text).ok() }
    }

    /// Reads the header. `None` when it makes no sense.
    pub fn decode(value: &HeaderValue) -> Option<Self> {
        let (rev, services) = value.to_str().ok()?.split_once(';')?;
        let rev = rev.parse().ok()?;
        let services = services.split(',').filter(|service| !service.is_empty());
        let services = services.map(service).collect::<Option<Vec<_>>>()?;
        Some(Self { rev, services })
    }
}

fn service(text: &str) -> Option<ServiceRef> {
    let mut parts =
        text.split('/').map(|part| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned()));
    let mut next = || parts.next()?;
    let service = ServiceRef::new(Tenant::new(next()?, next()?), next()?);
    parts.next().is_none().then_some(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_the_header() {
        let services = [("default", "default", "a1"), ("d/x", "p,;", "ä %"), ("", "", "")]
            .map(|(domain, project, id)| ServiceRef::new(Tenant::new(domain, project), id));
        for count in 0..=2 {
            let resolution = Resolution { rev: Revision::new(7), services: services[..count].to_vec() };
            let header = resolution.encode().expect("fits");
            assert_eq!(Resolution::decode(&header), Some(resolution), "{header:?}");
        }
    }

    #[test]
    fn too_many_services_are_not_told() {
        let of = |count: usize, id: usize| Resolution {
            rev: Revision::new(1),
            services: vec![ServiceRef::new(Tenant::default(), "x".repeat(id)); count],
        };
        assert!(of(64, 8).encode().is_some());
        assert!(of(65, 8).encode().is_none() && of(64, 64).encode().is_none());
    }

    #[test]
    fn a_header_that_makes_no_sense_is_not_believed() {
        for bad in ["", "7", "x;", "7;a", "7;a/b", "7;a/b/c/d", "7;a/b/%ff"] {
            assert_eq!(Resolution::decode(&HeaderValue::from_static(bad)), None, "{bad}");
        }
    }
}
