//! The body of a find's reply.

use std::sync::OnceLock;

use bytes::Bytes;
use shared::model::Instance;

use crate::gzip;

/// The body of a find's reply, plain and compressed.
#[derive(Debug)]
pub struct FindBody {
    plain: Bytes,
    gzip: OnceLock<Bytes>,
}

const OPENING: &[u8] = br#"{"instances":["#;
const CLOSING: &[u8] = b"]}";

impl FindBody {
    /// The body with these instances of one service, which come in the order of their ids.
    pub fn of<'a>(instances: impl Iterator<Item = &'a Instance>) -> Self {
        Self::written(instances, |plain, instance| {
            serde_json::to_writer(plain, instance).expect("plain fields always serialise");
        })
    }

    /// The same with instances that are JSON already.
    pub fn of_texts<'a>(instances: impl Iterator<Item = &'a str>) -> Self {
        Self::written(instances, |plain, instance| plain.extend_from_slice(instance.as_bytes()))
    }

    fn written<T>(instances: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) -> Self {
        // Written by hand, so that `joined` can put the lists of several bodies together without decoding
        // them.
        let mut plain = OPENING.to_vec();
        for (index, instance) in instances.enumerate() {
            if index > 0 {
                plain.push(b',');
            }
            write(&mut plain, instance);
        }
        plain.extend_from_slice(CLOSING);
        Self { plain: plain.into(), gzip: OnceLock::new() }
    }

    /// The body as JSON.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The body as gzipped JSON. It is compressed at the first call and kept.
    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| gzip::kept(&self.plain))
    }

    /// The instances as a list in JSON without its brackets.
    pub fn list(&self) -> Bytes {
        self.plain.slice(OPENING.len()..self.plain.len() - CLOSING.len())
    }

    /// One body with the instances of several bodies.
    pub fn joined<'a>(bodies: impl Iterator<Item = &'a Self>) -> Vec<u8> {
        let mut joined = OPENING.to_vec();
        for (index, body) in bodies.enumerate() {
            if index > 0 {
                joined.push(b',');
            }
            joined.extend_from_slice(&body.list());
        }
        joined.extend_from_slice(CLOSING);
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_joined_without_decoding_them() {
        let instances =
            ["a", "b", "c"].map(|id| Instance { instance_id: id.to_owned(), ..Instance::default() });
        let first = FindBody::of(instances[..2].iter());
        let second = FindBody::of(instances[2..].iter());
        let whole = FindBody::of(instances.iter());
        assert_eq!(FindBody::joined([&first, &second].into_iter()), whole.plain()[..]);
        let texts = instances.map(|instance| serde_json::to_string(&instance).expect("serialises"));
        assert_eq!(FindBody::of_texts(texts.iter().map(String::as_str)).plain(), whole.plain());
    }
}
