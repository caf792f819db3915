//! Heartbeats over a WebSocket: the server pings, and each pong is one heartbeat of the instance.
//!
//! In: an upgraded connection. Out: heartbeats in the client's name, one at a time; pongs that arrive while
//! one is on its way count as one more. [`batch`] sends the heartbeats of many connections together.
//!
//! If the instance does not exist the connection closes with code 4001. After any other failure it ends
//! without a close frame, so that the client connects again, perhaps to another gateway. The end of a
//! connection unregisters nothing: the instance's lease runs out by itself.

use std::pin::Pin;
use std::time::Duration;

use host::http::Stream;
use host::lifecycle::Tasks;
use shared::backoff::jitter;
use shared::maybe::or_pending;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use crate::close::{Farewell, Reason};
use crate::codec::websocket::{Decoder, Incoming};
use crate::metrics::SessionMetrics;
use crate::session::{Input, Pace, Phase, Protocol, SessionConfig};
use crate::timer::{TICK, Tick};

mod batch;

pub(crate) use batch::{Batches, Heartbeat};

use batch::Outcome;

/// The settings of connections that carry heartbeats.
#[derive(Clone, Debug)]
pub struct HeartbeatConfig {
    /// Pings and deadlines. The interval of pings is the interval of heartbeats.
    pub session: SessionConfig,
    /// The time over which these connections end in a drain.
    pub drain_over: Duration,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        // Within the thirty seconds that orchestrators usually grant, with some to spare.
        Self { session: SessionConfig::default(), drain_over: Duration::from_secs(15) }
    }
}

/// Bytes read at a time. Nothing but pongs is expected.
const READ_BUFFER: usize = 512;

/// Carries heartbeats until the connection ends. `read` is what the listener has already read from it.
pub(crate) async fn carry(
    mut stream: Stream,
    read: &[u8],
    heartbeat: &Heartbeat,
    batches: &Batches,
    config: &HeartbeatConfig,
    metrics: &SessionMetrics,
    tasks: &Tasks,
) {
    let mut carrier = Carrier::new(Pace::from(&config.session));
    metrics.heartbeat_session(1);
    carrier.decode(read);
    // Each connection ends at a moment of its own, so that the clients do not reach another gateway all at
    // once.
    let mut drain = std::pin::pin!(async {
        tasks.drain().cancelled().await;
        tokio::time::sleep(jitter(config.drain_over, 0.0..=1.0)).await;
    });
    let mut drained = false;
    let mut buffer = [0; READ_BUFFER];
    // Boxed: a connection that is idle, as most are at any moment, keeps a pointer and not a whole request.
    let mut sending: Option<Pin<Box<dyn Future<Output = Outcome> + Send + '_>>> = None;
    loop {
        if sending.is_none() && std::mem::take(&mut carrier.pong_received) {
            sending = Some(Box::pin(batches.send(heartbeat)));
        }
        // Not within the select: a write that is cancelled halfway would break a frame.
        if carrier.write(&mut stream, config.session.write_timeout).await.is_err() {
            break;
        }
        if let Phase::Over(_) = carrier.protocol.phase() {
            break;
        }
        tokio::select! {
            biased;
            // In this order: a client that never stops sending must not delay the end.
            () = tasks.cut().cancelled() => break,
            () = &mut drain, if !drained => {
                drained = true;
                carrier.on(Input::End(Reason::Drained));
            }
            read = stream.read(&mut buffer) => carrier.on_read(read, &buffer),
            outcome = or_pending(sending.as_mut()) => {
                sending = None;
                match outcome {
                    Outcome::Alive => {}
                    Outcome::NoInstance => carrier.on(Input::End(Reason::NoInstance)),
                    Outcome::Failed => carrier.on(Input::End(Reason::HeartbeatFailed)),
                }
            }
            () = sleep_until(carrier.deadline()) => carrier.on(Input::Timer),
        }
    }
    metrics.heartbeat_session(-1);
}

/// The protocol of one connection, in its own time.
struct Carrier {
    protocol: Protocol,
    decoder: Decoder,
    began: Instant,
    pace: Pace,
    /// A pong has arrived since the last heartbeat was sent.
    pong_received: bool,
}

impl Carrier {
    fn new(pace: Pace) -> Self {
        Self {
            protocol: Protocol::new(0, &pace, Farewell::Silence),
            decoder: Decoder::default(),
            began: Instant::now(),
            pace,
            pong_received: false,
        }
    }

    fn now(&self) -> Tick {
        (self.began.elapsed().as_millis() / TICK.as_millis()) as Tick
    }

    fn deadline(&self) -> Instant {
        self.began + TICK * self.protocol.deadline(&self.pace)
    }

    fn on(&mut self, input: Input<'_>) {
        self.protocol.on(input, self.now(), &self.pace);
    }

    fn on_read(&mut self, read: std::io::Result<usize>, buffer: &[u8]) {
        match read {
            Ok(0) => self.on(Input::Ended),
            Ok(read) => self.decode(buffer.get(..read).unwrap_or_default()),
            Err(_) => self.on(Input::Broken),
        }
    }

    fn decode(&mut self, bytes: &[u8]) {
        // A closing connection is read only to find its end.
        if self.protocol.phase() != Phase::Open {
            return;
        }
        let now = self.now();
        let result = self.decoder.read(bytes, |frame| {
            self.pong_received |= matches!(frame, Incoming::Pong(_));
            self.protocol.on(Input::Frame(frame), now, &self.pace);
            self.protocol.phase() == Phase::Open
        });
        if let Err(violation) = result {
            self.on(Input::Violation(violation));
        }
    }

    /// Writes pings, pongs and the close frame when they are due; after the last frame, shuts the sending
    /// side.
    async fn write(&mut self, stream: &mut Stream, write_timeout: Duration) -> std::io::Result<()> {
        if !self.protocol.wants_to_write() {
            return Ok(());
        }
        let mut out = Vec::new();
        self.protocol.put(&mut out);
        timeout(write_timeout, stream.write_all(&out)).await??;
        if let Phase::Closing(_) = self.protocol.phase() {
            stream.shutdown().await?;
        }
        Ok(())
    }
}
