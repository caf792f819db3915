//! The four ways to hear of changes, each with what it says in one shape.

use std::collections::HashMap;
use std::net::SocketAddr;

use futures_util::StreamExt;
use proto::servicecenter::service_instance_ctrl_client::ServiceInstanceCtrlClient;
use proto::servicecenter::{WatchInstanceRequest, WatchInstanceResponse};
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::{WatchRequest, WatchResponse, watch_response};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{Mind, Way};
use crate::oracle::{Ledger, STAMP, Sight, State, Told, read};

/// An open watch.
pub(super) enum Ears {
    Old(WebSocketStream<TcpStream>),
    Resumed(WebSocketStream<TcpStream>),
    OldGrpc(Streaming<WatchInstanceResponse>),
    Grpc(Streaming<WatchResponse>),
}

/// A received message. `certain` is the revision up to which the watch is complete; 0 when the message does
/// not say.
pub(super) struct Heard {
    pub(super) what: What,
    pub(super) certain: u64,
}

pub(super) enum What {
    Sight(Sight),
    State(State),
    Bookmark,
    Nothing,
}

impl Heard {
    /// A message that promises nothing about other changes.
    fn uncertain(what: What) -> Self {
        Self { what, certain: 0 }
    }
}

impl Ears {
    /// Opens a watch; one that is resumed after `certain`.
    pub(super) async fn open(mind: &Mind, gateway: SocketAddr, certain: u64) -> Option<Self> {
        match mind.way {
            Way::Old => Some(Self::Old(socket(mind, gateway, "").await?)),
            Way::Resumed => Some(Self::Resumed(socket(mind, gateway, &format!("?rev={certain}")).await?)),
            Way::OldGrpc => {
                let request = WatchInstanceRequest { self_service_id: mind.consumer.clone() };
                let mut client = ServiceInstanceCtrlClient::new(channel(gateway).await?);
                Some(Self::OldGrpc(client.watch(request).await.ok()?.into_inner()))
            }
            Way::Grpc => {
                let request = WatchRequest {
                    consumer_id: mind.consumer.clone(),
                    rev: Some(certain),
                    ..WatchRequest::default()
                };
                let mut client = WatchClient::new(channel(gateway).await?);
                Some(Self::Grpc(client.watch(request).await.ok()?.into_inner()))
            }
        }
    }

    /// The next thing that is said; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self, mind: &Mind, ledger: &Ledger) -> Option<Heard> {
        match self {
            Self::Old(socket) => match text(socket).await? {
                Some(text) => Some(Heard::uncertain(read(ledger, &text).map_or(What::Nothing, What::Sight))),
                None => Some(Heard::uncertain(What::Nothing)),
            },
            Self::Resumed(socket) => match text(socket).await? {
                Some(text) => Some(frame(mind, ledger, &text)),
                None => Some(Heard::uncertain(What::Nothing)),
            },
            Self::OldGrpc(stream) => {
                let told = stream.message().await.ok()??;
                let instance = told.instance.unwrap_or_default();
                let seen = (instance.service_id, instance.instance_id);
                let stamp = instance.properties.get(STAMP).map(String::as_str);
                Some(Heard::uncertain(sight(ledger, &told.action, seen, stamp, None)))
            }
            Self::Grpc(stream) => Some(message(mind, ledger, stream.message().await.ok()??)),
        }
    }
}

async fn socket(mind: &Mind, gateway: SocketAddr, query: &str) -> Option<WebSocketStream<TcpStream>> {
    let socket = TcpSocket::new_v4().ok()?;
    if let Some(bytes) = mind.receive_buffer {
        // Before it connects, because the scale of the receive window is agreed on in the handshake.
        socket.set_recv_buffer_size(bytes).ok()?;
    }
    let stream = socket.connect(gateway).await.ok()?;
    let path = format!("v4/default/registry/microservices/{}/watcher{query}", mind.consumer);
    Some(client_async(format!("ws://{gateway}/{path}"), stream).await.ok()?.0)
}

async fn channel(gateway: SocketAddr) -> Option<Channel> {
    Endpoint::from_shared(format!("http://{gateway}")).ok()?.connect().await.ok()
}

/// The next text, or nothing for another message; `None` at the end.
async fn text(socket: &mut WebSocketStream<TcpStream>) -> Option<Option<String>> {
    match socket.next().await? {
        Ok(Message::Text(text)) => Some(Some(text.to_string())),
        Ok(Message::Close(_)) | Err(_) => None,
        Ok(_) => Some(None),
    }
}

fn sight(
    ledger: &Ledger,
    action: &str,
    (service, instance): (String, String),
    stamp: Option<&str>,
    rev: Option<u64>,
) -> What {
    let told = match action {
        "CREATE" => Told::Create,
        "UPDATE" => Told::Update,
        "DELETE" => Told::Delete,
        _ => return What::Nothing,
    };
    let stamp = stamp.and_then(|stamp| stamp.parse().ok()).unwrap_or(0);
    What::Sight(Sight { key: ledger.key(&service, &instance), told, stamp, rev, at: Instant::now() })
}

/// A state of the service with this name.
fn state(
    mind: &Mind,
    ledger: &Ledger,
    name: &str,
    rev: u64,
    instances: impl Iterator<Item = (String, u64)>,
) -> What {
    let place = mind.names.iter().position(|known| known == name);
    let service = place.map_or_else(|| name.to_owned(), |place| mind.services[place].clone());
    let instances: HashMap<u32, u64> =
        instances.map(|(instance, stamp)| (ledger.key(&service, &instance), stamp)).collect();
    What::State(State { service, instances, rev })
}

/// Up to where a frame makes certain.
fn certain(rev: u64, since: Option<u64>) -> u64 {
    since.unwrap_or(rev)
}

fn words(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn frame(mind: &Mind, ledger: &Ledger, text: &str) -> Heard {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let rev = json["rev"].as_u64().unwrap_or(0);
    let since = json["since"].as_u64();
    let what = match json["action"].as_str() {
        Some("BOOKMARK") => What::Bookmark,
        Some("RESET") => {
            let instances = json["instances"].as_array().map_or(&[][..], Vec::as_slice).iter();
            let stamped = instances.map(|instance| {
                let stamp = instance["properties"][STAMP].as_str().and_then(|stamp| stamp.parse().ok());
                (words(instance, "instanceId"), stamp.unwrap_or(0))
            });
            state(mind, ledger, &words(&json["key"], "serviceName"), rev, stamped)
        }
        Some(action) => {
            let instance = &json["instance"];
            let seen = (words(instance, "serviceId"), words(instance, "instanceId"));
            sight(ledger, action, seen, instance["properties"][STAMP].as_str(), Some(rev))
        }
        None => What::Nothing,
    };
    Heard { what, certain: certain(rev, since) }
}

fn message(mind: &Mind, ledger: &Ledger, response: WatchResponse) -> Heard {
    match response.what {
        Some(watch_response::What::Event(event)) => {
            let action = event.action().as_str_name().trim_start_matches("ACTION_").to_owned();
            let instance = event.instance.unwrap_or_default();
            let seen = (instance.service_id, instance.instance_id);
            let stamp = instance.properties.get(STAMP).map(String::as_str);
            let what = sight(ledger, &action, seen, stamp, Some(event.rev));
            Heard { what, certain: certain(event.rev, event.since) }
        }
        Some(watch_response::What::Bookmark(bookmark)) => {
            Heard { what: What::Bookmark, certain: bookmark.rev }
        }
        Some(watch_response::What::Reset(reset)) => {
            let name = reset.key.unwrap_or_default().service_name;
            let stamped = reset.instances.into_iter().map(|instance| {
                let stamp = instance.properties.get(STAMP).and_then(|stamp| stamp.parse().ok());
                (instance.instance_id, stamp.unwrap_or(0))
            });
            let what = state(mind, ledger, &name, reset.rev, stamped);
            Heard { what, certain: certain(reset.rev, reset.since) }
        }
        None => Heard { what: What::Nothing, certain: 0 },
    }
}
