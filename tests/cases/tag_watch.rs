//! Watchers that note the tags of one instance, for tests that change much else meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use harness::Client;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// The messages to one watcher, in order, and the code with which its watch ended.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) tags: Vec<String>,
    pub(crate) ended: Option<u16>,
}

/// Opens a watch of a provider. Without a token the client shows none.
pub(crate) async fn watch(gateway: SocketAddr, provider: &str, token: &str) -> Arc<Mutex<Told>> {
    let url = format!("ws://{gateway}/v4/default/registry/watcher?providers={provider}&rev=0");
    let mut request = url.into_client_request().expect("a request");
    if !token.is_empty() {
        request.headers_mut().insert("authorization", token.parse().expect("a value"));
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a watch is granted");
    let told = Arc::new(Mutex::new(Told::default()));
    let teller = told.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    let is_state = frame["action"] == "RESET";
                    let instance = if is_state { &frame["instances"][0] } else { &frame["instance"] };
                    teller.lock().tags.extend(instance["properties"]["tag"].as_str().map(str::to_owned));
                }
                Message::Close(close) => {
                    teller.lock().ended = Some(close.map_or(1005, |close| close.code.into()));
                }
                _ => {}
            }
        }
        teller.lock().ended.get_or_insert(1006);
    });
    told
}

/// Sends a request with a token; `None` without an answer.
pub(crate) async fn send(
    gateway: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: Value,
) -> Option<harness::Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Client::new(gateway).try_send(method, path, &[("authorization", token)], body).await
}
