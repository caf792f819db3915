//! A watch's connection to a registry.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderValue;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Registry, refusal};
use crate::failure::Failure;

/// An open watch.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

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
    let _ = url.set_scheme("ws");
    let server = || registry.server();
    let usage = |problem: String| Failure::Usage(format!("cannot watch at `{}`: {problem}", server()));
    let mut request = url.as_str().into_client_request().map_err(|e| usage(e.to_string()))?;
    let domain = HeaderValue::from_str(registry.domain()).map_err(|e| usage(e.to_string()))?;
    request.headers_mut().insert("X-Domain-Name", domain);
    // Thousands of watches may be open in one process; frames are small.
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(0);
    let connecting = async {
        let stream = MaybeTlsStream::Plain(reach(registry.address(), source).await?);
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await
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

/// A TCP connection to the first address of the server that answers.
async fn reach(server: (String, u16), source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let fits = |address: &SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let mut problem = std::io::Error::other("its name has no address that can be reached from there");
    for address in lookup_host(server).await?.filter(fits) {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => problem = e,
        }
    }
    Err(problem)
}
