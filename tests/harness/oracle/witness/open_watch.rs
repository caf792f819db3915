//! The five protocols over which a witness receives changes, each read into one shape.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use proto::servicecenter::service_instance_ctrl_client::ServiceInstanceCtrlClient;
use proto::servicecenter::{WatchInstanceRequest, WatchInstanceResponse};
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::{Reset, WatchRequest, WatchResponse, watch_response};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{WatchPlan, Way};
use crate::oracle::{ChangeKind, Ledger, STAMP, Sight, State, read};

/// An open watch.
pub(super) enum OpenWatch {
    Old(WebSocketStream<TcpStream>),
    Resumed(WebSocketStream<TcpStream>),
    OldGrpc(Streaming<WatchInstanceResponse>),
    /// The stream, and a state of which parts are still to come.
    Grpc(Streaming<WatchResponse>, Option<Reset>),
    Events(EventLines),
}

/// The lines of a stream of events.
pub(super) struct EventLines {
    body: Incoming,
    read: Vec<u8>,
}

/// A received message. `certain` is the revision up to which the watch is complete; 0 when the message does
/// not say.
pub(super) struct Received {
    pub(super) what: What,
    pub(super) certain: u64,
}

pub(super) enum What {
    Sight(Sight),
    State(State),
    Bookmark,
    Nothing,
}

impl Received {
    /// A message that promises nothing about other changes.
    fn uncertain(what: What) -> Self {
        Self { what, certain: 0 }
    }
}

impl OpenWatch {
    /// Opens a watch; one that is resumed after `certain`.
    pub(super) async fn open(plan: &WatchPlan, gateway: SocketAddr, certain: u64) -> Option<Self> {
        match plan.way {
            Way::Old => Some(Self::Old(socket(plan, gateway, "").await?)),
            Way::Resumed => Some(Self::Resumed(socket(plan, gateway, &format!("?rev={certain}")).await?)),
            Way::OldGrpc => {
                let request = WatchInstanceRequest { self_service_id: plan.consumer.clone() };
                let mut client = ServiceInstanceCtrlClient::new(channel(gateway).await?);
                Some(Self::OldGrpc(client.watch(request).await.ok()?.into_inner()))
            }
            Way::Grpc => {
                let request = WatchRequest {
                    consumer_id: plan.consumer.clone(),
                    rev: Some(certain),
                    ..WatchRequest::default()
                };
                let mut client = WatchClient::new(channel(gateway).await?);
                Some(Self::Grpc(client.watch(request).await.ok()?.into_inner(), None))
            }
            Way::Events => Some(Self::Events(EventLines::open(plan, gateway, certain).await?)),
        }
    }

    /// The next message of the watch; `None` when the watch has ended. Cancel safe.
    pub(super) async fn next(&mut self, plan: &WatchPlan, ledger: &Ledger) -> Option<Received> {
        match self {
            Self::Old(socket) => match text(socket).await? {
                Some(text) => {
                    Some(Received::uncertain(read(ledger, &text).map_or(What::Nothing, What::Sight)))
                }
                None => Some(Received::uncertain(What::Nothing)),
            },
            Self::Resumed(socket) => match text(socket).await? {
                Some(text) => Some(frame(plan, ledger, &text)),
                None => Some(Received::uncertain(What::Nothing)),
            },
            Self::OldGrpc(stream) => {
                let told = stream.message().await.ok()??;
                let instance = told.instance.unwrap_or_default();
                let seen = (instance.service_id, instance.instance_id);
                let stamp = instance.properties.get(STAMP).map(String::as_str);
                Some(Received::uncertain(sight(ledger, &told.action, seen, stamp, None)))
            }
            Self::Grpc(stream, state) => loop {
                let mut response = stream.message().await.ok()??;
                match (&mut response.what, state.take()) {
                    (Some(watch_response::What::Reset(part)), begun) => {
                        let begun = begun.into_iter().flat_map(|begun| begun.instances);
                        part.instances = begun.chain(std::mem::take(&mut part.instances)).collect();
                        if part.more {
                            *state = Some(std::mem::take(part));
                            continue;
                        }
                    }
                    (_, Some(_)) => return None,
                    (_, None) => {}
                }
                return Some(message(plan, ledger, response));
            },
            Self::Events(lines) => match lines.next().await?.strip_prefix("data: ") {
                // The end has a reason, and no frame.
                Some(text) if text.contains("\"action\":\"END\"") => None,
                Some(text) => Some(frame(plan, ledger, text)),
                None => Some(Received::uncertain(What::Nothing)),
            },
        }
    }
}

impl EventLines {
    async fn open(plan: &WatchPlan, gateway: SocketAddr, certain: u64) -> Option<Self> {
        let path = format!("/v4/default/registry/events?consumer={}&rev=0", plan.consumer);
        let request = Request::get(format!("http://{gateway}{path}"))
            // It has precedence over the address, which an `EventSource` keeps.
            .header("Last-Event-ID", certain.to_string())
            .body(Empty::<Bytes>::new())
            .ok()?;
        let client = legacy::Client::builder(TokioExecutor::new()).build_http();
        let reply = client.request(request).await.ok()?;
        (reply.status() == StatusCode::OK).then(|| Self { body: reply.into_body(), read: Vec::new() })
    }

    /// The next line; `None` at the end. Cancel safe.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if let Ok(data) = self.body.frame().await?.ok()?.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

async fn socket(plan: &WatchPlan, gateway: SocketAddr, query: &str) -> Option<WebSocketStream<TcpStream>> {
    let socket = TcpSocket::new_v4().ok()?;
    if let Some(bytes) = plan.receive_buffer {
        // Before it connects, because the scale of the receive window is agreed on in the handshake.
        socket.set_recv_buffer_size(bytes).ok()?;
    }
    let stream = socket.connect(gateway).await.ok()?;
    let path = format!("v4/default/registry/microservices/{}/watcher{query}", plan.consumer);
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
    let kind = match action {
        "CREATE" => ChangeKind::Create,
        "UPDATE" => ChangeKind::Update,
        "DELETE" => ChangeKind::Delete,
        _ => return What::Nothing,
    };
    let stamp = stamp.and_then(|stamp| stamp.parse().ok()).unwrap_or(0);
    What::Sight(Sight { key: ledger.key(&service, &instance), kind, stamp, rev, at: Instant::now() })
}

/// A state of the service with this name.
fn state(
    plan: &WatchPlan,
    ledger: &Ledger,
    name: &str,
    rev: u64,
    instances: impl Iterator<Item = (String, u64)>,
) -> What {
    let place = plan.names.iter().position(|known| known == name);
    let service = place.map_or_else(|| name.to_owned(), |place| plan.services[place].clone());
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

fn frame(plan: &WatchPlan, ledger: &Ledger, text: &str) -> Received {
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
            state(plan, ledger, &words(&json["key"], "serviceName"), rev, stamped)
        }
        Some(action) => {
            let instance = &json["instance"];
            let seen = (words(instance, "serviceId"), words(instance, "instanceId"));
            sight(ledger, action, seen, instance["properties"][STAMP].as_str(), Some(rev))
        }
        None => What::Nothing,
    };
    Received { what, certain: certain(rev, since) }
}

fn message(plan: &WatchPlan, ledger: &Ledger, response: WatchResponse) -> Received {
    match response.what {
        Some(watch_response::What::Event(event)) => {
            let action = event.action().as_str_name().trim_start_matches("ACTION_").to_owned();
            let instance = event.instance.unwrap_or_default();
            let seen = (instance.service_id, instance.instance_id);
            let stamp = instance.properties.get(STAMP).map(String::as_str);
            let what = sight(ledger, &action, seen, stamp, Some(event.rev));
            Received { what, certain: certain(event.rev, event.since) }
        }
        Some(watch_response::What::Bookmark(bookmark)) => {
            Received { what: What::Bookmark, certain: bookmark.rev }
        }
        Some(watch_response::What::Reset(reset)) => {
            let name = reset.key.unwrap_or_default().service_name;
            let stamped = reset.instances.into_iter().map(|instance| {
                let stamp = instance.properties.get(STAMP).and_then(|stamp| stamp.parse().ok());
                (instance.instance_id, stamp.unwrap_or(0))
            });
            let what = state(plan, ledger, &name, reset.rev, stamped);
            Received { what, certain: certain(reset.rev, reset.since) }
        }
        None => Received { what: What::Nothing, certain: 0 },
    }
}
