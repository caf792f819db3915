//! The sizes of what the bus carries, and the part of a change that is left out when it is too large.
//!
//! A message beyond the bus' limit is refused however often it is sent, and every message after it waits.
//! Clients cannot cause one, because `LARGEST_INSTANCE` is checked before an instance is stored. Other
//! programs can, because they write into the store themselves.

use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::Instance;

/// The largest record of an instance that is stored for a client, in bytes.
///
/// Twelve times as much as Service-Center takes on the route for instances. Its route for services takes
/// more, but a frame to a watcher must stay below 64 KiB, and it has the name of the service as well.
pub(crate) const LARGEST_INSTANCE: usize = 60 << 10;

/// The most bytes of a subject. NATS closes the connection after a control line of more than 4096.
const LONGEST_SUBJECT: usize = 4000;
/// A list is cut into parts of about this many bytes.
const PART_BYTES: usize = 256 << 10;
/// Room in a message for everything beside its list: ids, the name of a service, positions.
const HEAD_BYTES: usize = 16 << 10;
/// The most bytes of the names of a service together. Every event of its instances carries them.
pub(crate) const LONGEST_NAMES: usize = 4 << 10;
/// Bytes of tags and lengths that protobuf puts around an item, rounded up.
const ITEM_BYTES: usize = 16;
/// Bytes of an instance beside its endpoints and properties, about.
const INSTANCE_BYTES: usize = 512;
/// The longest text of a shortened instance.
const SHORT_TEXT: usize = 64;

/// The payload that the bus carries at most, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room(usize);

impl Room {
    /// The room of a bus with this limit; see `Bus::max_payload`.
    pub const fn new(max_payload: usize) -> Self {
        Self(max_payload)
    }

    /// True for a payload that the bus carries.
    pub(crate) fn takes(self, payload: &[u8]) -> bool {
        payload.len() <= self.0
    }

    /// The bytes at which a part of a longer list is closed.
    pub(crate) fn of_part(self) -> usize {
        PART_BYTES.min(self.0 / 2)
    }

    /// The bytes that one item of a list may have.
    pub(crate) fn of_item(self) -> usize {
        self.0.saturating_sub(HEAD_BYTES).max(self.0 / 2)
    }
}

/// True for a subject that a NATS server takes. Other programs may store ids that make none.
pub(crate) fn is_subject(subject: &str) -> bool {
    subject.len() <= LONGEST_SUBJECT && !subject.split('.').any(str::is_empty)
}

/// Cuts a list into parts of at most `count` items and about `bytes` bytes. An item that is larger is a part
/// of its own. An empty list has no part.
pub(crate) fn parts<T: prost::Message>(all: &[T], count: usize, bytes: usize) -> Vec<&[T]> {
    let mut parts = Vec::with_capacity(all.len().div_ceil(count));
    let mut start = 0;
    let mut filled = 0;
    for (index, item) in all.iter().enumerate() {
        let item_bytes = item.encoded_len() + ITEM_BYTES;
        if index > start && (index - start == count || filled + item_bytes > bytes) {
            parts.push(&all[start..index]);
            start = index;
            filled = 0;
        }
        filled += item_bytes;
    }
    if start < all.len() {
        parts.push(&all[start..]);
    }
    parts
}

/// The bytes of an instance in a message or a reply, about and without encoding it.
pub(crate) fn weight(instance: &Instance) -> usize {
    let endpoints: usize = instance.endpoints.iter().map(String::len).sum();
    let properties: usize = instance.properties.iter().map(|(key, value)| key.len() + value.len()).sum();
    INSTANCE_BYTES + endpoints + properties
}

/// Shortens the instance of an event that has more than `bytes` bytes. True when it was too long.
pub(crate) fn shorten_event(event: &mut pb::InstanceEvent, bytes: usize) -> bool {
    let excess = event.encoded_len().saturating_sub(bytes);
    match &mut event.instance {
        Some(instance) if excess > 0 => {
            let allowed = instance.encoded_len().saturating_sub(excess + ITEM_BYTES);
            shorten(instance, allowed);
            true
        }
        _ => false,
    }
}

/// Takes out of an instance everything that makes it larger than `bytes`: its properties, and if that is not
/// enough, everything but its identity and status. A client that wants the rest gets it with a find.
pub(crate) fn shorten(instance: &mut pb::Instance, bytes: usize) {
    if instance.encoded_len() <= bytes {
        return;
    }
    // First, because nearly always they are the reason, and a consumer can reach the instance without them.
    instance.properties.clear();
    instance.shortened = true;
    if instance.encoded_len() <= bytes {
        return;
    }
    let whole = std::mem::take(instance);
    *instance = pb::Instance {
        instance_id: whole.instance_id,
        service_id: whole.service_id,
        status: short(whole.status),
        timestamp: short(whole.timestamp),
        mod_timestamp: short(whole.mod_timestamp),
        version: short(whole.version),
        shortened: true,
        ..pb::Instance::default()
    };
}

/// The text, or nothing in place of a long one: another program may have put anything into it.
fn short(text: String) -> String {
    if text.len() <= SHORT_TEXT { text } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_by_number_and_by_size() {
        let of = |length: usize| pb::ServiceRef { service_id: "s".repeat(length), ..Default::default() };
        let all = [of(10), of(10), of(10), of(900), of(10)];
        let lengths =
            |count, bytes| parts(&all, count, bytes).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(2, 10_000), [2, 2, 1]);
        assert_eq!(lengths(100, 500), [3, 1, 1]);
        assert!(parts::<pb::ServiceRef>(&[], 2, 10).is_empty());
    }

    #[test]
    fn an_instance_loses_its_properties_before_its_endpoints() {
        let long = "x".repeat(5000);
        let whole = pb::Instance {
            instance_id: "i".into(),
            endpoints: vec!["rest://10.0.0.1:1".into()],
            status: "UP".into(),
            properties: [("k".to_owned(), long.clone())].into(),
            ..Default::default()
        };
        let mut instance = whole.clone();
        shorten(&mut instance, 10_000);
        assert_eq!(instance, whole);
        shorten(&mut instance, 1000);
        assert_eq!((instance.properties.len(), instance.endpoints.len()), (0, 1));
        instance.endpoints.push(long);
        shorten(&mut instance, 1000);
        assert_eq!(
            instance,
            pb::Instance {
                instance_id: "i".into(),
                status: "UP".into(),
                shortened: true,
                ..Default::default()
            }
        );
    }

    #[test]
    fn a_subject_has_no_empty_token_and_fits_the_control_line() {
        assert!(is_subject("muster.event.default.default.a"));
        assert!(!is_subject("muster.event..default.a") && !is_subject("muster.event.default.default."));
        assert!(!is_subject(&format!("muster.event.d.p.{}", "a".repeat(4000))));
    }
}
