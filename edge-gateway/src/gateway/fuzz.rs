//! The fuzz targets of watch requests, which may be any bytes.

use axum::body::Body;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Uri};
use proto::servicecenter as historical;
use proto::watch::v1 as current;

use super::route;
use crate::codec::grpc::read_request;

/// The request of a gRPC watch, of both kinds: neither may panic or wait.
///
/// # Panics
/// When one waits although the whole body is there.
pub fn watches(bytes: &[u8]) {
    let prefix = (bytes.len() as u32).to_be_bytes();
    read_both([&[0], &prefix[..], bytes].concat());
    read_both(bytes.to_vec());
}

fn read_both(bytes: Vec<u8>) {
    let current = read_request::<current::WatchRequest>(Body::from(bytes.clone())).now_or_never();
    let historical = read_request::<historical::WatchInstanceRequest>(Body::from(bytes)).now_or_never();
    assert!(current.is_some() && historical.is_some(), "a whole body is read without waiting");
}

/// The target of a WebSocket request.
pub fn paths(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    if let Ok(uri) = text.parse::<Uri>() {
        _ = route::watch(&uri, &HeaderMap::new()).map(|watch| watch.is_ok());
        _ = route::is_heartbeat_channel(&Method::GET, uri.path());
        _ = route::check_heartbeat_channel(uri.path(), &HeaderMap::new());
    }
}
