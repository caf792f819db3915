//! Requests of clients may be anything. Inputs: see the crate `fuzz`.

use axum::body::Body;
use futures_util::FutureExt as _;
use fuzz::Corpus;
use http::{HeaderMap, Method, Uri};
use proto::servicecenter as historical;
use proto::watch::v1 as current;

use super::route;
use crate::codec::grpc::read_request;

const TIMES: u32 = 10_000;

/// Reads the bytes as both kinds of requests; neither may panic or wait.
fn read_both(bytes: Vec<u8>) {
    let current = read_request::<current::WatchRequest>(Body::from(bytes.clone())).now_or_never();
    let historical = read_request::<historical::WatchInstanceRequest>(Body::from(bytes)).now_or_never();
    assert!(current.is_some() && historical.is_some(), "a whole body is read without waiting");
}

#[test]
fn watch_requests() {
    let corpus = Corpus::of("watches");
    corpus.smoke(TIMES, |bytes| {
        let prefix = (bytes.len() as u32).to_be_bytes();
        read_both([&[0], &prefix[..], bytes].concat());
        read_both(bytes.to_vec());
    });
}

#[test]
fn paths() {
    let corpus = Corpus::of("paths");
    corpus.smoke(TIMES, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Ok(uri) = text.parse::<Uri>() {
            _ = route::watch(&uri, &HeaderMap::new()).map(|watch| watch.is_ok());
            _ = route::is_heartbeat_channel(&Method::GET, uri.path());
        }
    });
}
