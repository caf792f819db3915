//! Heartbeats over a WebSocket: the server pings, each pong is one heartbeat of the instance.
//!
//! In: an upgraded connection. Out: a `PUT …/heartbeat` for each pong, in the client's name, one at a time; pongs
//! that come meanwhile are one more. An instance that does not exist is told with code 4001; any other
//! failure ends the connection, so that the client connects again elsewhere. When the connection ends nothing
//! else happens: the lease runs out by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use shared::http::Stream;
use shared::lifecycle::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use crate::forward::Forward;
use crate::hub::wheel::{TICK, Tick};
use crate::metrics::SessionMetrics;
use crate::session::close::Reason;
use crate::session::{Input, Machine, Pace, Phase, SessionConfig};
use crate::wire::frame::{Decoder, Incoming};

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

/// Whose heartbeats, and how they are passed on.
pub(crate) struct Beats {
    pub(crate) forward: Arc<dyn Forward>,
    /// The path of the upgrade, which is that of the heartbeat.
    pub(crate) path: String,
    /// What the client said about itself.
    pub(crate) headers: HeaderMap,
}

/// The control plane's code for an instance that does not exist.
const NO_INSTANCE: &str = "400017";
/// Bytes of a refusal at most.
const REFUSAL_BYTES: usize = 64 * 1024;
/// Bytes read at a time: nothing but pongs is expected.
const SCRATCH: usize = 512;

impl Beats {
    /// Passes one heartbeat on; why the connection must end, if it must.
    async fn beat(&self, metrics: &SessionMetrics) -> Option<Reason> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::PUT;
        let Ok(uri) = self.path.parse() else { return Some(Reason::HeartbeatFailed) };
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        let (outcome, end) = match self.forward.forward(request).await {
            Ok(answer) if answer.status().is_success() => ("ok", None),
            Ok(answer) => match says_no_instance(answer).await {
                true => ("no_instance", Some(Reason::NoInstance)),
                false => ("failed", Some(Reason::HeartbeatFailed)),
            },
            Err(_) => ("failed", Some(Reason::HeartbeatFailed)),
        };
        metrics.heartbeat(outcome);
        end
    }
}

/// Whether a refusal says that the instance does not exist. Any other may be gone on another replica.
async fn says_no_instance(answer: Response<Body>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refusal {
        error_code: String,
    }
    if answer.status() != StatusCode::BAD_REQUEST {
        return false;
    }
    let Ok(body) = Limited::new(answer.into_body(), REFUSAL_BYTES).collect().await else { return false };
    let refusal: Result<Refusal, _> = serde_json::from_slice(&body.to_bytes());
    refusal.is_ok_and(|it| it.error_code == NO_INSTANCE)
}

/// Carries heartbeats until the connection ends.
pub(crate) async fn carry(
    mut stream: Stream,
    read: &[u8],
    beats: Beats,
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
    let mut beating: Option<Pin<Box<dyn Future<Output = Option<Reason>> + Send + '_>>> = None;
    loop {
        if beating.is_none() && std::mem::take(&mut session.pongs) {
            beating = Some(Box::pin(beats.beat(metrics)));
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
            end = poll_some(&mut beating) => {
                beating = None;
                if let Some(reason) = end {
                    session.on(Input::End(reason));
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
