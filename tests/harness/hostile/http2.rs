//! HTTP/2 streams whose answers are not read.
//!
//! Written by hand, because a client library would open the window and answer the pings.

use std::io;

use tokio::io::AsyncWriteExt as _;

use super::toggles::register;
use super::visit::{ATTEMPT, Visit};

/// Streams of one connection.
const STREAMS: u32 = 200;
/// A domain of its own, since its requests take the places of others of their domain.
const DOMAIN: &str = "hostile-reader";

pub(super) async fn unread(visit: &Visit) -> io::Result<()> {
    let mut stream = visit.connect().await?;
    let path = register(&mut stream, DOMAIN, "large").await?;
    let mut stream = visit.connect().await?;
    stream.write_all(&unread_streams(&format!("/v4/default/registry{path}"))).await?;
    // Neither the answers nor the pings are read.
    tokio::time::sleep(ATTEMPT).await;
    Ok(())
}

/// Requests on many streams of a connection that grants no byte of an answer. The answers have a large instance,
/// so that each is worth holding.
fn unread_streams(path: &str) -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: [u8; 6] = [0, 4, 0, 0, 0, 0];
    // `:method GET` and `:scheme http` of the static table, then the others as literals.
    let mut head = vec![0x82, 0x86, 0x04];
    put_text(path, &mut head);
    head.push(0x01);
    put_text("test", &mut head);
    head.push(0x00);
    put_text("x-domain-name", &mut head);
    put_text(DOMAIN, &mut head);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    put_frame(4, 0, 0, &INITIAL_WINDOW_SIZE, &mut bytes);
    for number in 0..STREAMS {
        // The flags END_STREAM and END_HEADERS.
        put_frame(1, 5, number * 2 + 1, &head, &mut bytes);
    }
    bytes
}

/// A text of fewer than 127 bytes, which have a length of one byte.
fn put_text(text: &str, out: &mut Vec<u8>) {
    debug_assert!(text.len() < 127);
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn put_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
