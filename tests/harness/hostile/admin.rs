//! Admin ports: requests that a browser on this machine sends for a page of another site, and connections without
//! a request, of which there are more than the port has.

use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;

use super::visit::{ATTEMPT, Visit, hold_for};

/// Idle connections. An admin port has 256.
const IDLE: usize = 300;
/// The time for which a request waits for its answer.
const WAIT: Duration = Duration::from_millis(200);
/// The body of a form, which a browser sends to any site.
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b";

pub(super) async fn of_another_site(visit: &Visit) -> io::Result<()> {
    let own = visit.target;
    for request in [
        format!("POST /drain HTTP/1.1\r\nHost: {own}\r\nOrigin: http://other.example\r\n{FORM}"),
        format!("POST /drain HTTP/1.1\r\nHost: {own}\r\nSec-Fetch-Site: cross-site\r\n{FORM}"),
        format!("POST /drain HTTP/1.1\r\nHost: {own}\r\nX-Forwarded-For: 10.1.1.1\r\n{FORM}"),
        // A name of the page's own site that leads to this machine.
        format!("POST /drain HTTP/1.1\r\nHost: other.example:{}\r\n{FORM}", own.port()),
        format!("GET /config HTTP/1.1\r\nHost: other.example:{}\r\n\r\n", own.port()),
        format!("GET /known HTTP/1.1\r\nHost: {own}\r\nOrigin: null\r\n\r\n"),
    ] {
        let mut stream = visit.connect().await?;
        if stream.write_all(request.as_bytes()).await.is_ok()
            && hold_for(&mut stream, WAIT).await.starts_with("HTTP/1.1 2")
        {
            visit.note_had(request.lines().next().unwrap_or_default());
        }
    }
    Ok(())
}

pub(super) async fn idle(visit: &Visit) -> io::Result<()> {
    let mut streams = Vec::with_capacity(IDLE);
    for opened in join_all((0..IDLE).map(|_| visit.connect())).await {
        let mut stream = opened?;
        // Every second one has begun a request.
        if streams.len() % 2 == 0 {
            _ = stream.write_all(b"GET /live HTTP/1.1\r\nHo").await;
        }
        streams.push(stream);
    }
    tokio::time::sleep(ATTEMPT).await;
    drop(streams);
    Ok(())
}
