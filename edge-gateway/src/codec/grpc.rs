//! The messages of both gRPC watches, and their requests, as bytes.
//!
//! Messages are written by hand, with their five bytes of prefix, because a generated server would encode
//! each of them once per stream. Here an event is encoded once and its bytes are shared by all streams.

use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use host::http::is_late;
use http_body_util::{BodyExt as _, Limited};
use prost::Message;
use proto::event::v1 as pb;
use proto::servicecenter as historical;
use proto::watch::v1 as current;
use proto::watch::v1::watch_response::What;
use shared::event::Action;
use shared::model::{DataCenter, HealthCheck, Instance, Revision, ServiceKey};

/// Bytes before each message: a flag for compression and four bytes of length.
const PREFIX: usize = 5;
/// Bytes that a request may have; a list of a thousand providers fits.
const MAX_REQUEST: usize = 256 * 1024;
/// The text that Service-Center's watch sends with each event.
const SUCCESS: &str = "Watch instance successfully.";

/// A message with its prefix, uncompressed.
fn with_prefix(message: &impl Message) -> Bytes {
    let size = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + size);
    bytes.put_u8(0);
    // No message comes near 4 GiB. If one did, its stream would break, and not the process.
    bytes.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    message.encode(&mut bytes).expect("a buffer that grows has room");
    bytes.freeze()
}

fn response(what: What) -> Bytes {
    with_prefix(&current::WatchResponse { what: Some(what) })
}

/// An event for `muster.watch.v1`.
pub(crate) fn event(
    action: Action,
    key: &ServiceKey,
    instance: &Instance,
    rev: Revision,
    since: Option<Revision>,
) -> Bytes {
    let action = match action {
        Action::Create => pb::Action::Create,
        Action::Update => pb::Action::Update,
        Action::Delete => pb::Action::Delete,
    };
    // The conversions copy every text. That is affordable because the bytes are made once for all streams.
    response(What::Event(current::Event {
        action: action.into(),
        key: Some(key.into()),
        instance: Some(instance.into()),
        rev: rev.get(),
        since: since.map(Revision::get),
    }))
}

/// A bookmark for `muster.watch.v1`: the client has everything up to `rev`.
pub(crate) fn bookmark(rev: Revision) -> Bytes {
    response(What::Bookmark(current::Bookmark { rev: rev.get() }))
}

/// Appends one message with a part of a provider's state for `muster.watch.v1`: the first of `instances`, at least one and
/// otherwise so many as have `most` bytes. Returns their number; the message says whether others follow.
pub(crate) fn put_reset(
    key: &ServiceKey,
    instances: &[Arc<Instance>],
    rev: Revision,
    since: Revision,
    most: usize,
    out: &mut Vec<u8>,
) -> usize {
    let mut part: Vec<pb::Instance> = Vec::new();
    let mut bytes = 0;
    for instance in instances {
        let instance = pb::Instance::from(&**instance);
        bytes += instance.encoded_len();
        if !part.is_empty() && bytes > most {
            break;
        }
        part.push(instance);
    }
    let taken = part.len();
    out.extend_from_slice(&response(What::Reset(current::Reset {
        key: Some(key.into()),
        instances: part,
        rev: rev.get(),
        since: Some(since.get()),
        more: taken < instances.len(),
    })));
    taken
}

/// The message for `muster.watch.v1` that voids what the client knows of every provider.
pub(crate) fn void(rev: Revision, since: Revision) -> Bytes {
    let since = Some(since.get());
    response(What::Reset(current::Reset { rev: rev.get(), since, ..current::Reset::default() }))
}

/// An event for Service-Center's watch.
pub(crate) fn historical_event(action: Action, key: &ServiceKey, instance: &Instance) -> Bytes {
    with_prefix(&historical::WatchInstanceResponse {
        response: Some(historical::Response { code: 0, message: SUCCESS.to_owned() }),
        action: action.as_str().to_owned(),
        key: Some(historical::MicroServiceKey {
            tenant: key.tenant.clone(),
            app_id: key.app_id.clone(),
            service_name: key.service_name.clone(),
            version: key.version.clone(),
            environment: key.environment.clone(),
            alias: key.alias.clone(),
            ..Default::default()
        }),
        instance: Some(historical::MicroServiceInstance {
            instance_id: instance.instance_id.clone(),
            service_id: instance.service_id.clone(),
            endpoints: instance.endpoints.clone(),
            host_name: instance.host_name.clone(),
            status: instance.status.clone(),
            properties: instance.properties.clone().into_iter().collect(),
            health_check: instance.health_check.as_ref().map(historical_health_check),
            timestamp: instance.timestamp.clone(),
            data_center_info: instance.data_center_info.as_ref().map(historical_data_center),
            mod_timestamp: instance.mod_timestamp.clone(),
            version: instance.version.clone(),
        }),
    })
}

fn historical_health_check(check: &HealthCheck) -> historical::HealthCheck {
    historical::HealthCheck {
        mode: check.mode.clone(),
        port: check.port,
        interval: check.interval,
        times: check.times,
        url: check.url.clone(),
    }
}

fn historical_data_center(data_center: &DataCenter) -> historical::DataCenterInfo {
    historical::DataCenterInfo {
        name: data_center.name.clone(),
        region: data_center.region.clone(),
        available_zone: data_center.available_zone.clone(),
    }
}

/// The reason for which a request cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The body is too large, breaks off, is compressed, or is not exactly one message of the kind.
    NotOneMessage,
    /// The client did not send the whole body in time.
    Late,
}

/// Reads the one message of a request.
pub(crate) async fn read_request<T: Message + Default>(body: Body) -> Result<T, Unreadable> {
    let bytes = match Limited::new(body, MAX_REQUEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if is_late(&*error) => return Err(Unreadable::Late),
        Err(_) => return Err(Unreadable::NotOneMessage),
    };
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(Unreadable::NotOneMessage);
    };
    let [compressed, size @ ..] = *prefix;
    // The server offers no compression, and a request is one message: anything more is the client's mistake.
    if compressed != 0 || message.len() != u32::from_be_bytes(size) as usize {
        return Err(Unreadable::NotOneMessage);
    }
    T::decode(message).map_err(|_| Unreadable::NotOneMessage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_exactly_one_message() {
        let good = with_prefix(&historical::WatchInstanceRequest { self_service_id: "abc".to_owned() });
        let read = read_request::<historical::WatchInstanceRequest>(Body::from(good.clone())).await;
        assert_eq!(read.expect("a request").self_service_id, "abc");
        for bad in [&b""[..], b"\0\0", &good[..good.len() - 1], b"\x01\0\0\0\0", b"\0\0\0\0\x02\xff\xff"] {
            let read = read_request::<historical::WatchInstanceRequest>(Body::from(bad.to_vec())).await;
            assert_eq!(read, Err(Unreadable::NotOneMessage), "{bad:?}");
        }
    }

    #[test]
    fn a_large_state_takes_several_messages() {
        let properties = [("large".to_owned(), "x".repeat(60_000))];
        let instances: Vec<Arc<Instance>> = (0..200)
            .map(|number: u32| {
                let instance_id = number.to_string();
                let properties = properties.clone().into_iter().collect();
                Arc::new(Instance { instance_id, properties, ..Instance::default() })
            })
            .collect();
        for count in [0, 1, 30, 200] {
            let state = &instances[..count];
            let mut rest = Vec::new();
            let mut taken = 0;
            while taken < count || rest.is_empty() {
                let (rev, since) = (Revision::new(7), Revision::new(3));
                taken += put_reset(&ServiceKey::default(), &state[taken..], rev, since, 200_000, &mut rest);
            }
            let mut rest = Bytes::from(rest);
            let mut received = Vec::new();
            let mut more = true;
            while more {
                let size = u32::from_be_bytes(rest[1..PREFIX].try_into().expect("four bytes")) as usize;
                assert!(size < 210_000, "{size}");
                let message = rest.split_to(PREFIX + size).slice(PREFIX..);
                let message = current::WatchResponse::decode(message).expect("a message");
                let Some(What::Reset(part)) = message.what else { panic!("a reset") };
                assert_eq!((part.rev, part.since, part.key.is_some()), (7, Some(3), true));
                received.extend(part.instances.into_iter().map(|instance| instance.instance_id));
                more = part.more;
            }
            assert!(rest.is_empty(), "nothing follows the last one");
            assert_eq!(received, state.iter().map(|i| i.instance_id.clone()).collect::<Vec<_>>());
        }
    }
}
