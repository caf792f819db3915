//! gRPC by hand where it must share its bytes: messages with their prefix, requests, statuses.
//!
//! A generated server would encode every message once per stream; here an event is one slice for all of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited};
use prost::Message;
use proto::event::v1 as pb;
use proto::servicecenter as old;
use proto::watch::v1 as new;
use shared::event::Action;
use shared::model::{Instance, Revision, ServiceKey};

use crate::close::Reason;
use crate::hub::stream::{Next, Reader};

/// The path of the historical watch.
pub(crate) const HISTORICAL: &str = "/proto.ServiceInstanceCtrl/watch";
/// The path of our own.
pub(crate) const WATCH: &str = "/muster.watch.v1.Watch/Watch";
/// Bytes of a request at most: a list of providers fits.
const MAX_REQUEST: usize = 256 * 1024;
/// What the historical watch said with each event.
const SUCCESS: &str = "Watch instance successfully.";

/// The statuses that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// A message with its prefix, uncompressed.
fn message(message: &impl Message) -> Bytes {
    let size = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(size + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    message.encode(&mut bytes).expect("a buffer that grows has room");
    bytes.freeze()
}

fn action(it: Action) -> pb::Action {
    match it {
        Action::Create => pb::Action::Create,
        Action::Update => pb::Action::Update,
        Action::Delete => pb::Action::Delete,
    }
}

/// An event for `muster.watch.v1`.
pub(crate) fn event(
    it: Action,
    key: &ServiceKey,
    instance: &Instance,
    rev: Revision,
    since: Option<Revision>,
) -> Bytes {
    let (key, instance) = (Some(key.into()), Some(instance.into()));
    let event = new::Event { action: action(it).into(), key, instance, rev, since };
    message(&new::WatchResponse { what: Some(new::watch_response::What::Event(event)) })
}

/// A bookmark for `muster.watch.v1`.
pub(crate) fn bookmark(rev: Revision) -> Bytes {
    message(&new::WatchResponse { what: Some(new::watch_response::What::Bookmark(new::Bookmark { rev })) })
}

/// A provider's state for `muster.watch.v1`, or without one that nothing counts any more.
pub(crate) fn reset(
    key: Option<&ServiceKey>,
    instances: &[Arc<Instance>],
    rev: Revision,
    since: Revision,
) -> Bytes {
    let instances = instances.iter().map(|it| (&**it).into()).collect();
    let reset = new::Reset { key: key.map(Into::into), instances, rev, since: Some(since) };
    message(&new::WatchResponse { what: Some(new::watch_response::What::Reset(reset)) })
}

/// An event for the historical watch.
pub(crate) fn historical(it: Action, key: &ServiceKey, instance: &Instance) -> Bytes {
    message(&old::WatchInstanceResponse {
        response: Some(old::Response { code: 0, message: SUCCESS.to_owned() }),
        action: it.as_str().to_owned(),
        key: Some(old::MicroServiceKey {
            tenant: key.tenant.clone(),
            app_id: key.app_id.clone(),
            service_name: key.service_name.clone(),
            version: key.version.clone(),
            environment: key.environment.clone(),
            alias: key.alias.clone(),
            ..Default::default()
        }),
        instance: Some(old::MicroServiceInstance {
            instance_id: instance.instance_id.clone(),
            service_id: instance.service_id.clone(),
            endpoints: instance.endpoints.clone(),
            host_name: instance.host_name.clone(),
            status: instance.status.clone(),
            properties: instance.properties.clone().into_iter().collect(),
            health_check: instance.health_check.as_ref().map(|it| old::HealthCheck {
                mode: it.mode.clone(),
                port: it.port,
                interval: it.interval,
                times: it.times,
                url: it.url.clone(),
            }),
            timestamp: instance.timestamp.clone(),
            data_center_info: instance.data_center_info.as_ref().map(|it| old::DataCenterInfo {
                name: it.name.clone(),
                region: it.region.clone(),
                available_zone: it.available_zone.clone(),
            }),
            mod_timestamp: instance.mod_timestamp.clone(),
            version: instance.version.clone(),
        }),
    })
}

/// Reads the one message of a request; `None` when there is none that makes sense.
pub(crate) async fn request<T: Message + Default>(body: Body) -> Option<T> {
    let bytes = Limited::new(body, MAX_REQUEST).collect().await.ok()?.to_bytes();
    let (prefix, rest) = bytes.split_at_checked(5)?;
    let size = u32::from_be_bytes(prefix.get(1..5)?.try_into().ok()?) as usize;
    (prefix.first() == Some(&0) && rest.len() == size).then(|| T::decode(rest).ok())?
}

/// An answer that is only a status.
pub(crate) fn refuse(code: Code, words: &str) -> Response<Body> {
    let mut answer = head(Body::empty());
    answer.headers_mut().extend(status(code, words));
    answer
}

/// The status for what the control plane answered over HTTP.
pub(crate) fn refuse_like(status: StatusCode) -> Response<Body> {
    match status {
        StatusCode::UNAUTHORIZED => refuse(Code::Unauthenticated, "unauthorized"),
        StatusCode::FORBIDDEN => refuse(Code::PermissionDenied, "forbidden"),
        _ => refuse(Code::Unavailable, "nobody can say whether this watch is allowed"),
    }
}

/// An answer that streams messages and ends with what the session ended for.
pub(crate) fn stream(messages: Reader) -> Response<Body> {
    head(Body::new(Messages { messages: Some(messages) }))
}

fn head(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

fn status(code: Code, words: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(code as u16));
    if let Ok(words) = HeaderValue::from_str(words) {
        headers.insert("grpc-message", words);
    }
    headers
}

/// What a client is told when its session ended for this.
fn status_of(reason: Reason) -> HeaderMap {
    match reason {
        Reason::NoService => status(Code::NotFound, "service does not exist"),
        Reason::ClientClosed | Reason::ClientGone => status(Code::Ok, ""),
        Reason::WriteTimeout => status(Code::ResourceExhausted, "the client takes nothing"),
        Reason::Drained
        | Reason::ReadTimeout
        | Reason::Broken
        | Reason::Protocol
        | Reason::TooBig
        | Reason::NotText
        | Reason::NeverAttached
        | Reason::NoInstance
        | Reason::HeartbeatFailed
        | Reason::Restored => status(Code::Unavailable, "watch again"),
    }
}

/// The body of a stream.
struct Messages {
    messages: Option<Reader>,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(messages) = &self.messages else { return Poll::Ready(None) };
        match ready!(messages.poll_next(cx)) {
            Next::Chunk(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Next::End(reason) => {
                self.messages = None;
                Poll::Ready(Some(Ok(Frame::trailers(status_of(reason)))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_one_message_or_refused() {
        let good = message(&old::WatchInstanceRequest { self_service_id: "abc".to_owned() });
        let read = request::<old::WatchInstanceRequest>(Body::from(good.clone())).await;
        assert_eq!(read.map(|it| it.self_service_id).as_deref(), Some("abc"));
        for bad in [&b""[..], b"\0\0", &good[..good.len() - 1], b"\x01\0\0\0\0", b"\0\0\0\0\x02\xff\xff"] {
            assert!(
                request::<old::WatchInstanceRequest>(Body::from(bad.to_vec())).await.is_none(),
                "{bad:?}"
            );
        }
    }
}
