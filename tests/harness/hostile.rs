//! Clients that mean harm, beside the honest ones of a fault case.
//!
//! Each trick once hurt other clients. All of them come from an address and a tenant of their own, so that
//! limits of one client or tenant concern only them. Their number and pace are bounded, and they end with
//! their handle. Their own replies do not matter; the honest clients beside them are judged.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The address that all of them share. It is another one than that of the honest clients.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The longest time that one attempt lasts.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The time for which an attempt holds on to what it has got.
const HOLD: Duration = Duration::from_millis(500);
/// The pause between two attempts of the same trick at the same gateway.
const PAUSE: Duration = Duration::from_millis(250);
/// Streams of one HTTP/2 connection whose answers are not read.
const STREAMS: u32 = 50;

/// A way to hurt others.
#[derive(Clone, Copy, Debug)]
enum Trick {
    /// An upload that breaks off.
    BrokenUpload,
    /// A body that never comes to its end.
    SlowBody,
    /// An instance that no bus could carry, inside another request.
    LargeInstance,
    /// A consumer whose id is longer than a subject may be.
    LongName,
    /// A watch of many services that do not exist.
    UnknownProviders,
    /// One name many times in one request.
    RepeatedQuery,
    /// Heartbeats for instances that do not exist.
    UnknownHeartbeats,
    /// HTTP/2 streams whose answers are not read.
    UnreadAnswers,
    /// A WebSocket frame with an opcode that does not exist.
    BrokenFrame,
}

impl Trick {
    const ALL: [Self; 9] = [
        Self::BrokenUpload,
        Self::SlowBody,
        Self::LargeInstance,
        Self::LongName,
        Self::UnknownProviders,
        Self::RepeatedQuery,
        Self::UnknownHeartbeats,
        Self::UnreadAnswers,
        Self::BrokenFrame,
    ];

    /// Plays the trick on a connection, which is dropped afterwards.
    async fn play(self, stream: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::BrokenUpload => stream.write_all(&post("/microservices", 100_000, r#"{"service":"#)).await,
            Self::SlowBody => {
                stream.write_all(&post("/microservices", 2, "{")).await?;
                hold(stream).await
            }
            Self::LargeInstance => {
                let padding = "x".repeat(1_100_000);
                let body = format!(
                    r#"{{"service":{{"serviceName":"s","version":"1.0.0"}},"instances":[{{"hostName":"h","properties":{{"p":"{padding}"}}}}]}}"#
                );
                stream.write_all(&post("/microservices", body.len(), &body)).await?;
                hold(stream).await
            }
            Self::LongName => {
                let consumer = "c".repeat(4100);
                stream.write_all(&upgrade(&format!("/microservices/{consumer}/watcher"))).await?;
                hold(stream).await
            }
            Self::UnknownProviders => {
                let names: Vec<String> = (0..100).map(|_| format!("{:032x}", fastrand::u128(..))).collect();
                let path = format!("/microservices/c/watcher?rev=0&providers={}", names.join(","));
                stream.write_all(&upgrade(&path)).await?;
                hold(stream).await
            }
            Self::RepeatedQuery => {
                let one = r#"{"service":{"appId":"shop","serviceName":"provider-0","version":"0+"}}"#;
                let body = format!(r#"{{"services":[{}]}}"#, vec![one; 3000].join(","));
                stream.write_all(&post("/instances/action?type=query", body.len(), &body)).await?;
                hold(stream).await
            }
            Self::UnknownHeartbeats => {
                let mut all = Vec::new();
                for number in 0..1000 {
                    all.push(format!(r#"{{"serviceId":"s{number}","instanceId":"i"}}"#));
                }
                let body = format!(r#"{{"instances":[{}]}}"#, all.join(","));
                stream.write_all(&request("PUT", "/heartbeats", body.len(), &body)).await?;
                hold(stream).await
            }
            Self::UnreadAnswers => {
                stream.write_all(&unread_streams()).await?;
                // Neither the answers nor the pings are read.
                tokio::time::sleep(HOLD).await;
                Ok(())
            }
            Self::BrokenFrame => {
                stream.write_all(&upgrade("/microservices/c/watcher")).await?;
                stream.write_all(&[0x83, 0x80, 0, 0, 0, 0]).await?;
                hold(stream).await
            }
        }
    }
}

/// Hostile clients at work. Dropped without [`Hostile::stop`] they end at once.
pub struct Hostile {
    attempts: Arc<[AtomicU64; Trick::ALL.len()]>,
    tasks: JoinSet<()>,
}

impl Hostile {
    /// Starts each trick at each of these gateways.
    pub fn at(gateways: &[SocketAddr]) -> Self {
        let attempts = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for gateway in gateways {
            for (number, trick) in Trick::ALL.into_iter().enumerate() {
                tasks.spawn(repeat(*gateway, trick, number, attempts.clone()));
            }
        }
        Self { attempts, tasks }
    }

    /// Ends all of them, and returns how many attempts they made.
    ///
    /// # Panics
    /// When one of the tricks never reached a gateway, because the case would prove nothing then.
    pub async fn stop(mut self) -> u64 {
        self.tasks.shutdown().await;
        let attempts: Vec<u64> = self.attempts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all = attempts.iter().sum();
        println!("  hostile clients: {all} attempts, {attempts:?} by trick");
        assert!(!attempts.contains(&0), "a trick was never played: {attempts:?} of {:?}", Trick::ALL);
        all
    }
}

async fn repeat(
    gateway: SocketAddr,
    trick: Trick,
    number: usize,
    attempts: Arc<[AtomicU64; Trick::ALL.len()]>,
) {
    loop {
        // A gateway may be down, or close the connection, in the middle of any of this.
        if let Ok(Ok(mut stream)) = timeout(ATTEMPT, connect(gateway)).await {
            attempts[number].fetch_add(1, Ordering::Relaxed);
            _ = timeout(ATTEMPT, trick.play(&mut stream)).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect(gateway: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((ADDRESS, 0)))?;
    socket.connect(gateway).await
}

/// Reads whatever comes, for a while.
async fn hold(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = vec![0; 16 * 1024];
    let reading = async { while let Ok(1..) = stream.read(&mut answer).await {} };
    _ = timeout(HOLD, reading).await;
    Ok(())
}

fn post(path: &str, length: usize, body: &str) -> Vec<u8> {
    request("POST", path, length, body)
}

fn request(method: &str, path: &str, length: usize, body: &str) -> Vec<u8> {
    format!(
        "{method} /v4/default/registry{path} HTTP/1.1\r\nHost: test\r\nX-Domain-Name: hostile\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET /v4/default/registry{path} HTTP/1.1\r\nHost: test\r\nX-Domain-Name: hostile\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// Requests on many streams of a connection that grants no byte of an answer.
fn unread_streams() -> Vec<u8> {
    // Written by hand, because a client library would open the window and answer the pings.
    const INITIAL_WINDOW_SIZE: [u8; 6] = [0, 4, 0, 0, 0, 0];
    let path = b"/v4/default/registry/microservices";
    // `:method GET` and `:scheme http` of the static table, then `:path` and `:authority` as literals.
    let mut head = vec![0x82, 0x86, 0x04, path.len() as u8];
    head.extend_from_slice(path);
    head.extend_from_slice(&[0x01, 4]);
    head.extend_from_slice(b"test");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    put_http2_frame(4, 0, 0, &INITIAL_WINDOW_SIZE, &mut bytes);
    for number in 0..STREAMS {
        // The flags END_STREAM and END_HEADERS.
        put_http2_frame(1, 5, number * 2 + 1, &head, &mut bytes);
    }
    bytes
}

fn put_http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
