//! What comes from clients may be anything. Inputs: see the crate `fuzz`.

use axum::body::Body;
use futures_util::FutureExt as _;
use fuzz::Corpus;
use http::{HeaderMap, Method, Uri};
use proto::servicecenter as old;
use proto::watch::v1 as new;

use super::frame::{Decoder, Violation};
use super::{grpc, route};

const TIMES: u32 = 10_000;

/// What a decoder makes of the bytes when they come in pieces of `size`.
fn heard(bytes: &[u8], size: usize) -> (Vec<String>, Option<Violation>) {
    let (mut decoder, mut heard) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        let read = decoder.read(piece, |incoming| {
            heard.push(format!("{incoming:?}"));
            true
        });
        if let Err(violation) = read {
            return (heard, Some(violation));
        }
    }
    (heard, None)
}

#[test]
fn frames() {
    let corpus = Corpus::of("frames");
    corpus.smoke(TIMES, |bytes| {
        let whole = heard(bytes, bytes.len());
        assert_eq!(heard(bytes, 1), whole, "however it is cut");
        assert_eq!(heard(bytes, 7), whole, "however it is cut");
    });
}

#[test]
fn watch_requests() {
    let corpus = Corpus::of("watches");
    let read = |bytes: Vec<u8>| {
        let new = grpc::request::<new::WatchRequest>(Body::from(bytes.clone())).now_or_never();
        let old = grpc::request::<old::WatchInstanceRequest>(Body::from(bytes)).now_or_never();
        assert!(new.is_some() && old.is_some(), "nothing to wait for");
    };
    let prefixed = |message: &[u8]| [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    corpus.smoke(TIMES, |bytes| {
        read(prefixed(bytes));
        read(bytes.to_vec());
    });
}

#[test]
fn paths() {
    let corpus = Corpus::of("paths");
    corpus.smoke(TIMES, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Ok(uri) = text.parse::<Uri>() {
            _ = route::watch(&uri, &HeaderMap::new()).map(|it| it.is_ok());
            _ = route::is_heartbeat_channel(&Method::GET, uri.path());
        }
    });
}
