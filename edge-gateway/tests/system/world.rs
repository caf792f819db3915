//! A gateway on a port of its own, and watchers.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, LocalBus};
use edge_gateway::forward::{Forward, InProcess};
use edge_gateway::settings::{FanoutConfig, SessionConfig, UpstreamConfig};
use edge_gateway::{App, Config, Parts};
use futures_util::{SinkExt as _, StreamExt as _};
use host::admin::Readiness;
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use serde_json::Value;
use shared::event::InstanceEvent;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::control_plane::ControlPlane;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) api: SocketAddr,
    pub(crate) control_plane: ControlPlane,
    pub(crate) tasks: Tasks,
    pub(crate) readiness: Readiness,
    metrics: Metrics,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.drain().cancel();
        self.tasks.abort().cancel();
    }
}

/// What a test's gateway has, unless it says otherwise: quick repairs, slow pings.
pub(crate) fn config() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        fanout: FanoutConfig { shards: NonZeroUsize::new(2).expect("two"), ..FanoutConfig::default() },
        upstream: UpstreamConfig {
            resync_jitter: Duration::from_millis(1),
            digest_interval: Duration::from_secs(3600),
            ..UpstreamConfig::default()
        },
        session: SessionConfig::default(),
        drain_over: Duration::from_millis(200),
        ..Config::default()
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(config(), LocalBus::new()).await
    }

    pub(crate) async fn with(config: Config, bus: impl Bus) -> Self {
        let router = axum::Router::new();
        Self::with_forward(config, bus, Arc::new(InProcess::new(router))).await
    }

    pub(crate) async fn with_forward(config: Config, bus: impl Bus, forward: Arc<dyn Forward>) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(bus);
        let control_plane = ControlPlane::start(bus.clone()).await;
        let (tasks, metrics) = (Tasks::new(), Metrics::new([]).expect("sets up"));
        let readiness = Readiness::new(&tasks);
        let parts = Parts {
            config,
            listener: None,
            bus,
            forward,
            meter: metrics.meter("test"),
            readiness: readiness.clone(),
        };
        let app = App::build(parts, &tasks).await.expect("starts");
        let api = app.api_addr;
        tasks.spawn_vital("app", app.run());
        tokio::time::timeout(PATIENCE, readiness.ready()).await.expect("ready in time");
        Self { api, control_plane, tasks, readiness, metrics }
    }

    /// A watcher of `consumer`, over the usual path.
    pub(crate) async fn watch(&self, consumer: &str) -> Watcher {
        self.watch_path(&format!("/v4/default/registry/microservices/{consumer}/watcher")).await
    }

    pub(crate) async fn watch_path(&self, path: &str) -> Watcher {
        let url = format!("ws://{}{path}", self.api);
        let (stream, answer) = tokio_tungstenite::connect_async(url).await.expect("upgrades");
        assert_eq!(answer.status(), 101);
        Watcher { stream }
    }

    /// The value of a metric, labels and all, as it would be scraped.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render();
        let found = text.lines().find_map(|it| it.strip_prefix(line));
        let value = found.unwrap_or_else(|| panic!("`{line}` is in\n{text}"));
        value.trim().parse().expect("a number")
    }

    /// Waits until a metric has a value.
    pub(crate) async fn until(&self, line: &str, condition: impl Fn(f64) -> bool) {
        let waiting = async {
            while !condition(self.metric(line)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("`{line}` stays at {}", self.metric(line)));
    }
}

pub(crate) struct Watcher {
    pub(crate) stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Watcher {
    /// The next message, pings of the server apart.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("in time") {
                Some(Ok(Message::Ping(_))) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("a text was expected, not {other:?}"),
        }
    }

    /// The next event: what happened to which instance, and the revision that it shows.
    pub(crate) async fn event(&mut self) -> (String, String, u64) {
        parse(&self.text().await)
    }

    pub(crate) async fn expect(&mut self, event: &InstanceEvent) {
        let expected = (event.action.as_str().to_owned(), event.instance.instance_id.clone(), event.at.rev);
        assert_eq!(self.event().await, expected);
    }

    /// The connection ends without a close frame.
    pub(crate) async fn expect_end(&mut self) {
        match self.next().await {
            None | Some(Err(_)) => {}
            other => panic!("the end was expected, not {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("is sent");
    }
}

pub(crate) fn parse(text: &str) -> (String, String, u64) {
    let frame: Value = serde_json::from_str(text).expect("JSON");
    let words = |value: &Value| value.as_str().expect("text").to_owned();
    let host = words(&frame["instance"]["hostName"]);
    let rev = host.strip_prefix("rev-").expect("a revision").parse().expect("a number");
    (words(&frame["action"]), words(&frame["instance"]["instanceId"]), rev)
}
