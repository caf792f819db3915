//! Heads that two readers could take for different requests: hosts that are missing or doubled, lines without
//! their whole end, bodies with two lengths.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::visit::{Visit, hold_for};

/// The time for which each of them waits for its answer.
const WAIT: Duration = Duration::from_millis(100);

const HEADS: [&str; 8] = [
    "GET /v4/default/registry/microservices HTTP/1.1\r\nX-Domain-Name: hostile\r\n\r\n",
    "GET /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Domain-Name: hostile\r\n\r\n",
    "GET /v4/default/registry/microservices HTTP/1.1\nHost: a\nX-Domain-Name: hostile\n\n",
    "GET /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nX-Domain-Name: hostile\n\r\n",
    // Two requests or one, by which of the lengths a reader believes.
    "POST /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nX-Domain-Name: hostile\r\n\
     Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
     DELETE /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nX-Domain-Name: hostile\r\n\r\n",
    "POST /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nX-Domain-Name: hostile\r\n\
     Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}",
    "POST /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nX-Domain-Name: hostile\r\n\
     Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}",
    "GET /v4/default/registry/microservices HTTP/1.1\r\nHost: a\r\nX-Domain-Name:\r\n hostile\r\n\r\n",
];

pub(super) async fn broken(visit: &Visit) -> io::Result<()> {
    for head in HEADS {
        // A connection each, since the target closes most of them.
        let mut stream = visit.connect().await?;
        if stream.write_all(head.as_bytes()).await.is_ok() {
            hold_for(&mut stream, WAIT).await;
        }
    }
    Ok(())
}
