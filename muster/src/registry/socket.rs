//! A watch's connection to a registry.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Registry, Wire, refusal};
use crate::failure::Failure;

/// An open watch.
pub(crate) type Socket = WebSocketStream<Wire>;

/// What is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Watched<'a> {
    /// The providers of this consumer.
    Consumer(&'a str),
    /// Every service that is so; what is `None` matches everything.
    Services { app: Option<&'a str>, environment: Option<&'a str> },
}

/// Opens a watch; with `since`, the one that knows revisions.
pub(crate) async fn connect(
    registry: &Registry,
    watched: Watched<'_>,
    since: Option<u64>,
    timeout: Duration,
) -> Result<Socket, Failure> {
    connect_from(None, registry, watched, since, timeout).await
}

/// Like [`connect`], from an address of this machine: each has ephemeral ports of its own.
pub(crate) async fn connect_from(
    source: Option<IpAddr>,
    registry: &Registry,
    watched: Watched<'_>,
    since: Option<u64>,
    timeout: Duration,
) -> Result<Socket, Failure> {
    let mut url = match watched {
        Watched::Consumer(id) => registry.url(["registry", "microservices", id, "watcher"]),
        Watched::Services { app, environment } => {
            let mut url = registry.url(["registry", "watcher"]);
            let given = [("app", app), ("env", environment)];
            let pairs = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
            url.query_pairs_mut().extend_pairs(pairs).append_pair("all", "true");
            url
        }
    };
    if let Some(rev) = since {
        url.query_pairs_mut().append_pair("rev", &rev.to_string());
    }
    // Between two schemes of the same kind this is always allowed.
    let _ = url.set_scheme(if url.scheme() == "https" { "wss" } else { "ws" });
    let server = || registry.server();
    let usage = |problem: String| Failure::Usage(format!("cannot watch at `{}`: {problem}", server()));
    let mut request = url.as_str().into_client_request().map_err(|e| usage(e.to_string()))?;
    let domain = HeaderValue::from_str(registry.domain()).map_err(|e| usage(e.to_string()))?;
    request.headers_mut().insert("X-Domain-Name", domain);
    // Thousands of watches may be open in one process; frames are small.
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(0);
    let connecting = async {
        let wire = registry.open_from(source).await?;
        tokio_tungstenite::client_async_with_config(request, wire, Some(config)).await
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(answer))) => {
            let body = answer.body().clone().unwrap_or_default();
            Err(refusal(&answer, &body))
        }
        Ok(Err(Error::Io(e))) => Err(Failure::Unreachable { server: server(), problem: e.to_string() }),
        Ok(Err(e)) => Err(Failure::NotUnderstood { server: server(), problem: e.to_string() }),
        Err(_) => Err(Failure::Unreachable { server: server(), problem: "no answer in time".to_owned() }),
    }
}
