//! The floor of xDS: a server of gRPC written the usual way, which sends the bytes that the gateway sends.
//!
//! A process of its own like the gateway, so that what it takes is counted the same way. It answers the first
//! request of each kind by what a gateway has answered, and writes that gateway's endpoints, with a stamp of
//! its own, to every stream once per event. It knows no service, no version and no right, and looks into no
//! acknowledgement.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::Request;
use bytes::{BufMut as _, Bytes};
use futures_util::{Stream, stream};
use prost::Message as _;
use proto::envoy::{DiscoveryRequest, DiscoveryResponse};
use shared::clock::Clock;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::server::{Grpc, StreamingService};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::crowd::place_in_endpoints;
use crate::stamp::{LENGTH, Stamp};

const ROLE: &str = "plain-xds";
/// Events that may wait for a stream. One that falls behind further ends.
const WAITING: usize = 1024;

/// Becomes the floor if that is what this process was started for.
///
/// # Errors
/// When it cannot serve.
pub fn become_child_if_asked() -> Result<bool> {
    if std::env::args().nth(1).as_deref() != Some(ROLE) {
        return Ok(false);
    }
    tokio::runtime::Runtime::new()?.block_on(serve(std::io::stdin().lock()))?;
    Ok(true)
}

/// The process. Ended when dropped.
pub struct Plain {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    /// The address on which it listens.
    pub address: SocketAddr,
}

impl Plain {
    /// Starts a server that tells what these answers tell, of which the endpoints have a stamp.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(answers: &[DiscoveryResponse]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ask = child.stdin.take().context("piped")?;
        let mut answer = BufReader::new(child.stdout.take().context("piped")?);
        let answers: Vec<Vec<u8>> = answers.iter().map(DiscoveryResponse::encode_to_vec).collect();
        writeln!(ask, "{}", serde_json::to_string(&answers)?)?;
        let address = line(&mut answer)?.trim().parse()?;
        Ok(Self { child, ask, answer, address })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends an event to every stream. Returns before they have it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn write(&mut self) -> Result<()> {
        writeln!(self.ask, "write")?;
        line(&mut self.answer).map(drop)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(from.read_line(&mut line)? > 0, "the floor ended");
    Ok(line)
}

/// What all streams share.
struct Shared {
    /// The first answer of each kind.
    first: HashMap<String, Bytes>,
    events: broadcast::Sender<Bytes>,
}

async fn serve(mut commands: impl BufRead) -> Result<()> {
    let answers: Vec<Vec<u8>> = serde_json::from_str(&line(&mut commands)?)?;
    let stamped = |answer: &Vec<u8>| place_in_endpoints(answer).map(|place| (answer.clone(), place));
    let (mut event, place) = answers.iter().find_map(stamped).context("endpoints with a stamp")?;
    let mut first = HashMap::new();
    for answer in answers {
        first.insert(DiscoveryResponse::decode(&*answer)?.type_url, Bytes::from(answer));
    }
    let shared = Arc::new(Shared { first, events: broadcast::Sender::new(WAITING) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let of_streams = shared.clone();
    let router = Router::new().fallback(async move |request: Request| {
        Grpc::new(Plainly::default())
            .streaming(Discovery(of_streams), request)
            .await
            .map(axum::body::Body::new)
    });
    let incoming = TcpListenerStream::new(listener);
    let server = Server::builder().tcp_nodelay(true).add_routes(Routes::from(router));
    // Its drop ends the server.
    let mut serving = JoinSet::new();
    serving.spawn(server.serve_with_incoming(incoming));
    println!("{address}");
    let clock = Clock::system();
    // Lines are rare, and nothing else is to be done here.
    for (seq, command) in (1..).zip(commands.lines()) {
        command?;
        let stamp = Stamp { provider: 0, seq, at: clock.micros() };
        event[place..place + LENGTH].copy_from_slice(stamp.text().as_bytes());
        _ = shared.events.send(Bytes::copy_from_slice(&event));
        println!("done");
    }
    Ok(())
}

#[derive(Clone)]
struct Discovery(Arc<Shared>);

impl StreamingService<DiscoveryRequest> for Discovery {
    type Response = Bytes;
    type ResponseStream = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let events = self.0.events.subscribe();
        let open = Open { requests: request.into_inner(), events, shared: self.0.clone() };
        std::future::ready(Ok(Response::new(Box::pin(stream::unfold(open, Open::next)))))
    }
}

/// A stream.
struct Open {
    requests: Streaming<DiscoveryRequest>,
    events: broadcast::Receiver<Bytes>,
    shared: Arc<Shared>,
}

impl Open {
    async fn next(mut self) -> Option<(Result<Bytes, Status>, Self)> {
        loop {
            tokio::select! {
                asked = self.requests.message() => {
                    let asked = asked.ok()??;
                    if asked.response_nonce.is_empty() && let Some(answer) = self.shared.first.get(&asked.type_url) {
                        return Some((Ok(answer.clone()), self));
                    }
                }
                event = self.events.recv() => return Some((Ok(event.ok()?), self)),
            }
        }
    }
}

/// Requests as messages, answers as the bytes that they are.
#[derive(Default)]
struct Plainly(ProstCodec<(), DiscoveryRequest>);

impl Codec for Plainly {
    type Encode = Bytes;
    type Decode = DiscoveryRequest;
    type Encoder = Bare;
    type Decoder = <ProstCodec<(), DiscoveryRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Bare {
        Bare
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.0.decoder()
    }
}

struct Bare;

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, answer: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(answer);
        Ok(())
    }
}
