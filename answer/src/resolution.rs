//! The services that answer a find, as a control plane tells a gateway.
//!
//! A gateway asks for them with the header [`ASK`], and gets them in [`FOUND`] beside the reply. It never
//! lets a client set the one or see the other. They name nothing that the reply itself does not show: where
//! the caller's rights leave a service out, or the services are too many, they are left out altogether.
//! Beside the reply to a batch of finds, the header has a part for each element in order; an element of
//! which nothing is told has an empty one.

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
/// The most bytes of the header beside a batch: the services of some 250 elements.
const MOST_BATCH_BYTES: usize = 16 << 10;
/// Between the elements of a batch.
const BETWEEN: char = '|';
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
        HeaderValue::try_from(self.text()?).ok()
    }

    /// The header beside a batch. Elements that do not fit are left out. `None` when nothing is told.
    pub fn encode_batch<'a>(elements: impl Iterator<Item = Option<&'a Self>>) -> Option<HeaderValue> {
        let mut header = String::new();
        let mut is_told = false;
        for (index, element) in elements.enumerate() {
            if index > 0 {
                header.push(BETWEEN);
            }
            let text = element.and_then(Self::text);
            if let Some(text) = text.filter(|text| header.len() + text.len() <= MOST_BATCH_BYTES) {
                header.push_str(&text);
                is_told = true;
            }
        }
        // The elements that are left out at the end need no place.
        HeaderValue::try_from(header.trim_end_matches(BETWEEN)).ok().filter(|_| is_told)
    }

    fn text(&self) -> Option<String> {
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
        (text.len() <= MOST_BYTES).then_some(text)
    }

    /// Reads the header. `None` when it makes no sense.
    pub fn decode(value: &HeaderValue) -> Option<Self> {
        Self::read(value.to_str().ok()?)
    }

    /// Reads the header beside a batch: the elements of which something is told, by their indexes. Empty when
    /// a part of it makes no sense.
    pub fn decode_batch(value: &HeaderValue) -> Vec<(usize, Self)> {
        let parts = value.to_str().unwrap_or_default().split(BETWEEN).enumerate();
        let told = parts.filter(|(_, text)| !text.is_empty());
        told.map(|(index, text)| Some((index, Self::read(text)?))).collect::<Option<_>>().unwrap_or_default()
    }

    fn read(text: &str) -> Option<Self> {
        let (rev, services) = text.split_once(';')?;
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
    fn the_elements_of_a_batch_are_told_by_their_places() {
        let of = |rev: u64, ids: &[&str]| Resolution {
            rev: Revision::new(rev),
            services: ids.iter().map(|id| ServiceRef::new(Tenant::new("d|", "p"), *id)).collect(),
        };
        let [first, none, last] = [of(7, &["a", "b|"]), of(8, &[]), of(9, &["c"])];
        let elements = [None, Some(&first), None, Some(&none), Some(&last), None];
        let header = Resolution::encode_batch(elements.into_iter()).expect("something is told");
        let told = Resolution::decode_batch(&header);
        assert_eq!(told, [(1, first), (3, none), (4, last.clone())], "{header:?}");
        assert_eq!(Resolution::encode_batch([None, None].into_iter()), None);
        assert_eq!(Resolution::encode_batch(std::iter::empty()), None);
        for bad in ["7;a", "7;|x", "7;d/p/a|7;d/p/%ff"] {
            assert_eq!(Resolution::decode_batch(&HeaderValue::from_static(bad)), [], "{bad}");
        }
        // What does not fit is left out, and the header keeps its bound.
        let many = of(1, &["x"; 60]);
        let header = Resolution::encode_batch(vec![Some(&many); 100].into_iter()).expect("some fit");
        let told = Resolution::decode_batch(&header).len();
        assert!(header.len() <= MOST_BATCH_BYTES && told > 10 && told < 100, "{told}");
        let long = of(1, &["x".repeat(5000).as_str()]);
        let told = Resolution::encode_batch([Some(&long), Some(&last)].into_iter()).expect("one fits");
        assert_eq!(Resolution::decode_batch(&told), [(1, last)]);
    }

    #[test]
    fn a_header_that_makes_no_sense_is_not_believed() {
        for bad in ["", "7", "x;", "7;a", "7;a/b", "7;a/b/c/d", "7;a/b/%ff"] {
            assert_eq!(Resolution::decode(&HeaderValue::from_static(bad)), None, "{bad}");
        }
    }
}
