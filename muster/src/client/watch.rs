//! Opens the WebSocket of a watch.

use std::net::IpAddr;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use shared::model::Revision;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{RegistryClient, ServerStream, refusal};
use crate::failure::CommandFailure;

/// An open watch.
pub(crate) type WatchSocket = WebSocketStream<ServerStream>;

/// The services to watch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WatchQuery<'a> {
    /// The providers of this consumer.
    Consumer(&'a str),
    /// Every service of the application and the environment. `None` matches all of them.
    Services { app: Option<&'a str>, environment: Option<&'a str> },
}

/// Opens a watch within the client's deadline.
///
/// With `since` the watch can be resumed: its frames carry revisions, and it begins after that one. Without,
/// it is the watch of Service-Center. A connection from a `source` address uses the ephemeral ports of that
/// address.
pub(crate) async fn open(
    client: &RegistryClient,
    query: WatchQuery<'_>,
    since: Option<Revision>,
    source: Option<IpAddr>,
) -> Result<WatchSocket, CommandFailure> {
    let url = url_of(client, query, since);
    let mut request = url.as_str().into_client_request().map_err(|e| not_usable(client, &e.to_string()))?;
    let domain = HeaderValue::from_str(&client.domain).map_err(|e| not_usable(client, &e.to_string()))?;
    request.headers_mut().insert("X-Domain-Name", domain);
    if let Some(authorization) = &client.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    // The load generator opens thousands of watches in one process; tungstenite's own buffers of 128 KiB each
    // would be most of its memory, and frames are small.
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(0);
    let connecting = async {
        let stream = client.open(source).await?;
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await
    };
    match tokio::time::timeout(client.timeout, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(reply))) => {
            let body = reply.body().clone().unwrap_or_default();
            Err(refusal(&reply, &body))
        }
        Ok(Err(Error::Io(e))) => Err(client.unreachable(&e.to_string())),
        Ok(Err(e)) => Err(client.not_understood(e.to_string())),
        Err(_) => Err(client.unreachable("no reply in time")),
    }
}

fn url_of(client: &RegistryClient, query: WatchQuery<'_>, since: Option<Revision>) -> url::Url {
    let mut url = match query {
        WatchQuery::Consumer(id) => client.url(["registry", "microservices", id, "watcher"]),
        WatchQuery::Services { app, environment } => {
            let mut url = client.url(["registry", "watcher"]);
            for (name, value) in [("app", app), ("env", environment)] {
                if let Some(value) = value {
                    url.query_pairs_mut().append_pair(name, value);
                }
            }
            // Beside a condition this changes nothing; without one the server needs it.
            url.query_pairs_mut().append_pair("all", "true");
            url
        }
    };
    if let Some(rev) = since {
        url.query_pairs_mut().append_pair("rev", &rev.to_string());
    }
    // The change from http to ws is always allowed, because both have a host.
    let _ = url.set_scheme(if url.scheme() == "https" { "wss" } else { "ws" });
    url
}

fn not_usable(client: &RegistryClient, problem: &str) -> CommandFailure {
    CommandFailure::Usage(format!(
        "no watch can be opened at `{}` for this domain: {problem}",
        client.server()
    ))
}
