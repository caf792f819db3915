//! A provider whose instances come and go: each is a server of HTTP on a port of its own, kept registered by
//! `muster register --keep-alive`, which leaves the registry on SIGTERM before the server stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Process, eventually};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The time that the work of a call takes, so that some are under way at any moment.
const WORK: Duration = Duration::from_millis(3);
/// A gateway that has just started waits a minute for clients that poll; everything else is over long before.
const LONGEST_END: Duration = Duration::from_secs(90);

/// The way in which an instance leaves the registry before its server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stopped {
    Drained,
    Unregistered,
}

impl Stopped {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Drained => "restarts with a drain",
            Self::Unregistered => "restarts that only unregister",
        }
    }
}

type Calls = Arc<Mutex<BTreeMap<String, u64>>>;

pub(super) struct Provider {
    service: &'static str,
    gateway: SocketAddr,
    instances: VecDeque<Instance>,
    /// Answered calls by caller, of all instances that there were.
    calls: Calls,
}

struct Instance {
    port: u16,
    how: Stopped,
    registration: Process,
    callers: Arc<Mutex<BTreeSet<String>>>,
    stop: CancellationToken,
}

impl Provider {
    pub(super) fn new(service: &'static str, gateway: SocketAddr) -> Self {
        Self { service, gateway, instances: VecDeque::new(), calls: Calls::default() }
    }

    /// Starts a server, and registers it. It will leave in this way.
    pub(super) async fn start(&mut self, how: Stopped) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let callers = Arc::<Mutex<BTreeSet<String>>>::default();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, self.calls.clone(), callers.clone(), stop.clone()));
        let longest = match how {
            Stopped::Drained => "80s",
            Stopped::Unregistered => "0s",
        };
        let registration = Process::ours("muster")
            .args(["register", "--name", self.service, "--keep-alive", "--drain", longest])
            .args(["--server", &format!("http://{}", self.gateway)])
            .args(["--endpoint", &format!("rest://127.0.0.1:{port}")]);
        registration.start();
        eventually("the instance is registered", || async {
            assert!(registration.is_running(), "{}", registration.log());
            registration.log().contains("INSTANCE ID").then_some(())
        })
        .await;
        self.instances.push_back(Instance { port, how, registration, callers, stop });
    }

    /// Ends the oldest instance as a program ends on SIGTERM: it leaves the registry, and its server stops.
    /// Gives its port, the way in which it left, and the time from the signal to the stop.
    pub(super) async fn stop_oldest(&mut self) -> (u16, Stopped, Duration) {
        let Instance { port, how, registration, stop, .. } = self.instances.pop_front().expect("an instance");
        let began = Instant::now();
        registration.begin_to_terminate();
        // A longer pause would keep the server up for callers that have not been told.
        while registration.is_running() {
            assert!(began.elapsed() < LONGEST_END, "{}", registration.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
        let took = began.elapsed();
        let log = registration.log();
        assert!(log.contains("unregistered the instance"), "{log}");
        (port, how, took)
    }

    pub(super) fn callers_of_newest(&self) -> usize {
        self.instances.back().map_or(0, |instance| instance.callers.lock().len())
    }

    pub(super) fn calls(&self) -> BTreeMap<String, u64> {
        self.calls.lock().clone()
    }
}

/// Answers calls until it is to stop; then the calls that are under way get their answers, and no others.
async fn serve(
    listener: TcpListener,
    calls: Calls,
    callers: Arc<Mutex<BTreeSet<String>>>,
    stop: CancellationToken,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = stream else { continue };
        tokio::spawn(connection(stream, calls.clone(), callers.clone(), stop.clone()));
    }
}

async fn connection(
    stream: TcpStream,
    calls: Calls,
    callers: Arc<Mutex<BTreeSet<String>>>,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let caller = request.headers().get("x-caller").and_then(|value| value.to_str().ok());
        if let Some(caller) = caller {
            callers.lock().insert(caller.to_owned());
            *calls.lock().entry(caller.to_owned()).or_default() += 1;
        }
        async {
            tokio::time::sleep(WORK).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A connection that breaks is the business of its caller.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    _ = connection.await;
}
