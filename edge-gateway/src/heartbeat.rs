//! Heartbeats over a WebSocket: the server pings, each pong is one heartbeat of the instance.
//!
//! In: an upgraded connection. Out: a heartbeat for each pong, in the client's name, one at a time; pongs that come
//! meanwhile are one more. [`batch`] sends those of many connections together. An instance that does not exist is
//! told with code 4001; any other failure ends the connection, so that the client connects again elsewhere. When
//! the connection ends nothing else happens: the lease runs out by itself.

use std::pin::Pin;
use std::time::Duration;

use host::http::Stream;
use host::lifecycle::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use crate::close::Reason;
use crate::metrics::SessionMetrics;
use crate::session::{Input, Machine, Pace, Phase, SessionConfig};
use crate::timer::{TICK, Tick};
use crate::wire::frame::{Decoder, Incoming};

mod batch;

pub(crate) use batch::{Batches, Beat};

use batch::Outcome;

/// How connections that carry heartbeats live.
#[derive(Clone, Debug)]
pub struct HeartbeatConfig {
    /// Pings and deadlines; the pace of pings is that of heartbeats.
    pub session: SessionConfig,
    /// Over what time these connections end in a drain.
    pub drain_over: Duration,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self { session: SessionConfig::default(), drain_over: Duration::from_secs(15) }
    }
}

/// Bytes read at a time: nothing but pongs is expected.
const SCRATCH: usize = 512;

/// Carries heartbeats until the connection ends.
pub(crate) async fn carry(
    mut stream: Stream,
    read: &[u8],
    (beat, batches): (Beat, &Batches),
    config: &HeartbeatConfig,
    metrics: &SessionMetrics,
    tasks: &Tasks,
) {
    let pace = Pace::from(&config.session);
    let mut session = Session {
        machine: Machine::new(0, &pace),
        decoder: Decoder::default(),
        began: Instant::now(),
        pace,
        pongs: false,
    };
    metrics.heartbeat_session(1);
    session.decode(read);
    let drain = async {
        tasks.drain().cancelled().await;
        tokio::time::sleep(config.drain_over.mul_f64(fastrand::f64())).await;
    };
    let mut drain = std::pin::pin!(drain);
    let mut drained = false;
    let mut scratch = [0; SCRATCH];
    let mut beating: Option<Pin<Box<dyn Future<Output = Outcome> + Send + '_>>> = None;
    loop {
        if beating.is_none() && std::mem::take(&mut session.pongs) {
            beating = Some(Box::pin(batches.beat(&beat)));
        }
        if session.machine.wants_to_write() {
            let mut out = Vec::new();
            session.machine.put(&mut out);
            let written = timeout(config.session.write_timeout, stream.write_all(&out)).await;
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
            if let Phase::Closing(_) = session.machine.phase()
                && stream.shutdown().await.is_err()
            {
                break;
            }
        }
        if let Phase::Over(_) = session.machine.phase() {
            break;
        }
        let deadline = session.began + TICK * session.machine.deadline(&session.pace);
        tokio::select! {
            biased;
            () = tasks.abort().cancelled() => break,
            () = &mut drain, if !drained => {
                drained = true;
                session.on(Input::End(Reason::Drained));
            }
            read = stream.read(&mut scratch) => session.read(read, &scratch),
            outcome = poll_some(&mut beating) => {
                beating = None;
                match outcome {
                    Outcome::Lives => {}
                    Outcome::NoInstance => session.on(Input::End(Reason::NoInstance)),
                    Outcome::Failed => session.on(Input::End(Reason::HeartbeatFailed)),
                }
            }
            () = sleep_until(deadline) => session.on(Input::Timer),
        }
    }
    metrics.heartbeat_session(-1);
}

async fn poll_some<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

struct Session {
    machine: Machine,
    decoder: Decoder,
    began: Instant,
    pace: Pace,
    /// Pongs have come that are not passed on yet.
    pongs: bool,
}

impl Session {
    fn now(&self) -> Tick {
        (self.began.elapsed().as_millis() / TICK.as_millis()) as Tick
    }

    fn on(&mut self, input: Input<'_>) {
        self.machine.on(input, self.now(), &self.pace);
    }

    fn read(&mut self, read: std::io::Result<usize>, scratch: &[u8]) {
        match read {
            Ok(0) => self.on(Input::Ended),
            Ok(read) => self.decode(scratch.get(..read).unwrap_or_default()),
            Err(_) => self.on(Input::Broken),
        }
    }

    fn decode(&mut self, bytes: &[u8]) {
        let (now, pace) = (self.now(), self.pace);
        if self.machine.phase() != Phase::Open {
            return;
        }
        let (machine, pongs) = (&mut self.machine, &mut self.pongs);
        let result = self.decoder.read(bytes, |frame| {
            *pongs |= frame == Incoming::Pong;
            machine.on(Input::Frame(frame), now, &pace);
            machine.phase() == Phase::Open
        });
        if let Err(violation) = result {
            self.on(Input::Violation(violation));
        }
    }
}
