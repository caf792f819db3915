//! A request, read from its bytes.
//!
//! Nearly all requests acknowledge an answer and ask for the same as before. On the state of the world each
//! of them repeats every name, perhaps thousands; so a request is first looked over without a copy, and read
//! only if it says something new.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use proto::envoy as pb;

use super::Unreadable;
use crate::xds::kind::{Kind, Variant};
use crate::xds::names::Names;
use crate::xds::stream::{Ask, Terms};

/// A request with what only the first one says.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) node: Option<pb::Node>,
    pub(crate) of: Type,
    pub(crate) ask: Ask,
    /// The words of a refusal.
    pub(crate) refusal: Option<String>,
}

/// The kind of resources that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Of(Kind),
    /// The request does not say it.
    Unnamed,
    /// There is nothing of that kind.
    Unknown,
}

impl Type {
    fn read(url: &str) -> Self {
        match Kind::of_type_url(url) {
            Some(kind) => Self::Of(kind),
            None if url.is_empty() => Self::Unnamed,
            None => Self::Unknown,
        }
    }
}

/// Reads the requests of one stream.
pub(crate) struct Reader {
    variant: Variant,
    names: Arc<Names>,
    /// The digest of the names in the last request of each kind; 0 before the first.
    last: [u64; Kind::ALL.len()],
}

impl Reader {
    pub(crate) fn new(variant: Variant, names: Arc<Names>) -> Self {
        Self { variant, names, last: [0; Kind::ALL.len()] }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// When the bytes are none.
    pub(crate) fn read(&mut self, bytes: Bytes) -> Result<Message, Unreadable> {
        let seen = Seen::look(self.variant, &bytes, &self.names);
        if let Some(Seen { kind, nonce, names }) = seen {
            let is_same = match self.variant {
                Variant::State => self.last[kind as usize] == names,
                Variant::Delta => self.last[kind as usize] != 0,
            };
            self.last[kind as usize] = names;
            if is_same {
                let ask = Ask { nonce, refused: false, terms: Terms::Same };
                return Ok(Message { node: None, of: Type::Of(kind), ask, refusal: None });
            }
        }
        let message = self.read_whole(bytes)?;
        if let (Type::Of(kind), None) = (message.of, seen) {
            // Its content was not looked at.
            self.last[kind as usize] = 0;
        }
        Ok(message)
    }

    fn read_whole(&self, bytes: Bytes) -> Result<Message, Unreadable> {
        let malformed = |_| Unreadable::Malformed;
        let share = |names: &[String]| self.names.share(names.iter().map(String::as_str));
        let (node, type_url, nonce, error, terms) = match self.variant {
            Variant::State => {
                let request = pb::DiscoveryRequest::decode(bytes).map_err(malformed)?;
                let names = share(&request.resource_names);
                let terms = Terms::State { names, version: request.version_info };
                (request.node, request.type_url, request.response_nonce, request.error_detail, terms)
            }
            Variant::Delta => {
                let request = pb::DeltaDiscoveryRequest::decode(bytes).map_err(malformed)?;
                let versions = request.initial_resource_versions;
                let named = self.names.share(versions.keys().map(String::as_str));
                let terms = Terms::Delta {
                    subscribe: share(&request.resource_names_subscribe),
                    unsubscribe: share(&request.resource_names_unsubscribe),
                    versions: named.into_iter().zip(versions.into_values()).collect(),
                };
                (request.node, request.type_url, request.response_nonce, request.error_detail, terms)
            }
        };
        let ask = Ask { nonce: nonce.parse().ok(), refused: error.is_some(), terms };
        let refusal = error.map(|status| status.message);
        Ok(Message { node, of: Type::read(&type_url), ask, refusal })
    }
}

/// An acknowledgement, as far as it can be seen without a copy.
#[derive(Clone, Copy, Debug)]
struct Seen {
    kind: Kind,
    nonce: Option<u64>,
    /// The digest of its names.
    names: u64,
}

/// The numbers of the fields that acknowledgements have.
struct Fields {
    version: u32,
    node: u32,
    names: u32,
    type_url: u32,
    nonce: u32,
}

/// The version of a delta request stands in its list of versions, which no acknowledgement has.
const NO_FIELD: u32 = u32::MAX;

impl Seen {
    /// Looks a request over. `None` for one that says more than an acknowledgement does.
    fn look(variant: Variant, mut bytes: &[u8], names: &Names) -> Option<Self> {
        let fields = match variant {
            Variant::State => Fields { version: 1, node: 2, names: 3, type_url: 4, nonce: 5 },
            Variant::Delta => Fields { version: NO_FIELD, node: 1, names: NO_FIELD, type_url: 2, nonce: 6 },
        };
        let whole = bytes;
        let (mut kind, mut nonce) = (None, None);
        while !bytes.is_empty() {
            let (field, value) = next(&mut bytes)?;
            match field {
                _ if field == fields.type_url => {
                    kind = Kind::of_type_url(std::str::from_utf8(value).ok()?);
                }
                _ if field == fields.nonce => nonce = std::str::from_utf8(value).ok()?.parse().ok(),
                // Clients may repeat their identity; only the first request is asked for that.
                _ if field == fields.names || field == fields.version || field == fields.node => {}
                _ => return None,
            }
        }
        let mut rest = whole;
        let each = std::iter::from_fn(|| (!rest.is_empty()).then(|| next(&mut rest)).flatten());
        let digest = names.digest(each.filter(|(field, _)| *field == fields.names).map(|(_, value)| value));
        Some(Self { kind: kind?, nonce, names: digest })
    }
}

/// Takes a field with bytes from the front. `None` if it is of another form.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (field, form) = decode_key(bytes).ok()?;
    if form != WireType::LengthDelimited {
        return None;
    }
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((field, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(names: &[&str], nonce: &str) -> pb::DiscoveryRequest {
        pb::DiscoveryRequest {
            type_url: Kind::Endpoint.type_url().to_owned(),
            version_info: "0.5-0123456789abcdef".to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..pb::DiscoveryRequest::default()
        }
    }

    fn read(reader: &mut Reader, request: &impl prost::Message) -> Message {
        reader.read(request.encode_to_vec().into()).expect("a request")
    }

    fn is_same(message: &Message) -> bool {
        matches!(message.ask.terms, Terms::Same)
    }

    #[test]
    fn a_request_that_asks_for_the_same_is_seen_without_its_names() {
        let mut reader = Reader::new(Variant::State, Arc::default());
        let first = read(&mut reader, &state(&["a/x", "a/y"], ""));
        assert!(!is_same(&first) && first.ask.nonce.is_none());
        let second = read(&mut reader, &state(&["a/x", "a/y"], "7"));
        assert!(is_same(&second));
        assert_eq!((second.of, second.ask.nonce), (Type::Of(Kind::Endpoint), Some(7)));
        assert!(!is_same(&read(&mut reader, &state(&["a/x"], "8"))), "a name less");
        assert!(!is_same(&read(&mut reader, &state(&["a/x", "a/z"], "8"))), "another name");
        let status = Some(pb::Status { code: 3, message: "no".to_owned() });
        let refusal = pb::DiscoveryRequest { error_detail: status, ..state(&["a/x", "a/z"], "9") };
        let refusal = read(&mut reader, &refusal);
        assert!(refusal.ask.refused && refusal.refusal.as_deref() == Some("no"));
        let other = pb::DiscoveryRequest {
            type_url: Kind::Cluster.type_url().to_owned(),
            ..state(&["a/x", "a/z"], "")
        };
        assert!(!is_same(&read(&mut reader, &other)), "the first of its kind");
    }

    #[test]
    fn an_acknowledgement_of_a_delta_asks_for_the_same() {
        let mut reader = Reader::new(Variant::Delta, Arc::default());
        let request = |subscribe: &[&str], nonce: &str| pb::DeltaDiscoveryRequest {
            type_url: Kind::Endpoint.type_url().to_owned(),
            resource_names_subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..pb::DeltaDiscoveryRequest::default()
        };
        let first = read(&mut reader, &request(&[], ""));
        assert!(!is_same(&first), "it asks for everything");
        assert!(is_same(&read(&mut reader, &request(&[], "1"))));
        assert!(!is_same(&read(&mut reader, &request(&["a/x"], "1"))));
    }
}
