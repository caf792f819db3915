//! A watcher as an old client is one: connects, reads frames, answers pings.

use std::net::SocketAddr;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::deadline;

/// An open watch.
pub struct Watcher {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// A frame in short: action, instance id, the property `tag`.
pub type Seen = (String, String, String);

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Watcher {
    /// Opens a watch of a consumer's providers.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(gateway: SocketAddr, consumer: &str) -> Self {
        Self::connect_in(gateway, "default", consumer).await
    }

    /// Like [`Watcher::connect`], as a consumer of another domain.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect_in(gateway: SocketAddr, domain: &str, consumer: &str) -> Self {
        Self::open_in(gateway, domain, &format!("microservices/{consumer}/watcher")).await
    }

    /// Opens a watch of a path below the registry's base path of the default project.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn open(gateway: SocketAddr, path: &str) -> Self {
        Self::open_in(gateway, "default", path).await
    }

    /// Like [`Watcher::open`]; `None` when the watch is refused.
    pub async fn try_open(gateway: SocketAddr, path: &str) -> Option<Self> {
        let url = format!("ws://{gateway}/v4/default/registry/{path}");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
        Some(Self { socket })
    }

    async fn open_in(gateway: SocketAddr, domain: &str, path: &str) -> Self {
        let url = format!("ws://{gateway}/v4/default/registry/{path}");
        let mut request = url.into_client_request().expect("a request");
        let domain = domain.parse().expect("a domain that may stand in a header");
        request.headers_mut().insert("X-Domain-Name", domain);
        let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("a watch is granted");
        Self { socket }
    }

    /// The next text; `None` when the connection ended.
    ///
    /// # Panics
    /// When nothing comes before the deadline.
    pub async fn text(&mut self) -> Option<String> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    // Pings need no answer here: the library answers them while it reads.
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(deadline(), next).await.expect("a frame within the deadline")
    }

    /// The next event.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn event(&mut self) -> Value {
        let text = self.text().await.expect("an event, not the end");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next event in short.
    pub async fn seen(&mut self) -> Seen {
        let event = self.event().await;
        let instance = &event["instance"];
        (text(&event["action"]), text(&instance["instanceId"]), text(&instance["properties"]["tag"]))
    }

    /// Asserts that the next event is this.
    pub async fn expect(&mut self, action: &str, instance: &str, tag: &str) {
        assert_eq!(self.seen().await, (action.to_owned(), instance.to_owned(), tag.to_owned()));
    }
}
