//! A gateway on a port of its own, and watchers.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, LocalBus};
use edge_gateway::forward::{Forward, InProcess};
use edge_gateway::settings::{FanoutConfig, PollsConfig, SessionConfig, UpstreamConfig};
use edge_gateway::{App, Config, Parts};
use futures_util::{SinkExt as _, StreamExt as _};
use host::admin::Readiness;
use host::audit::Audit;
use host::figures::sampler::Sampler;
use host::lane::SlowLane;
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use serde_json::Value;
use shared::event::{Action, InstanceEvent};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::control_plane::ControlPlane;

/// The time after which a test fails that waits for something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) api: SocketAddr,
    pub(crate) dns: Option<SocketAddr>,
    pub(crate) control_plane: ControlPlane,
    pub(crate) tasks: Tasks,
    pub(crate) readiness: Readiness,
    metrics: Metrics,
}

impl Drop for World {
    fn drop(&mut self) {
        // A drain alone spreads the ends of sessions, which would run beside the next test.
        self.tasks.drain().cancel();
        self.tasks.abort().cancel();
    }
}

/// The settings of a test's gateway, unless the test has others: quick repairs, slow pings.
pub(crate) fn config() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        fanout: FanoutConfig { shards: NonZeroUsize::new(2).expect("two"), ..FanoutConfig::default() },
        upstream: UpstreamConfig {
            // The jitter is there to spread many gateways; a test has one.
            resync_jitter: Duration::from_millis(1),
            // A comparison repairs what a lost event broke, and would hide it from the other tests.
            digest_interval: Duration::from_secs(3600),
            ..UpstreamConfig::default()
        },
        session: SessionConfig::default(),
        drain_over: Duration::from_millis(200),
        // Nobody has asked a gateway before that of the test.
        polls: PollsConfig { none_before: true, ..PollsConfig::default() },
        ..Config::default()
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(config()).await
    }

    /// A usual gateway, and a consumer that is interested in these providers.
    pub(crate) async fn with_consumer(consumer: &str, providers: &[&str]) -> Self {
        let world = Self::start().await;
        world.control_plane.consumer(consumer, providers);
        world
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::on_bus(config, LocalBus::new()).await
    }

    pub(crate) async fn on_bus(config: Config, bus: impl Bus) -> Self {
        let forward = InProcess::new(axum::Router::new());
        Self::assemble(config, Arc::new(bus), Arc::new(forward), 0).await
    }

    /// A gateway whose control plane answers no request from the start.
    pub(crate) async fn without_answers(config: Config) -> Self {
        let forward = InProcess::new(axum::Router::new());
        Self::assemble(config, Arc::new(LocalBus::new()), Arc::new(forward), usize::MAX).await
    }

    pub(crate) async fn with_forward(config: Config, forward: Arc<dyn Forward>) -> Self {
        Self::assemble(config, Arc::new(LocalBus::new()), forward, 0).await
    }

    /// A gateway of one thread, and a slow lane beside it.
    pub(crate) async fn with_slow_lane(config: Config, forward: Arc<dyn Forward>, lane: SlowLane) -> Self {
        let bus = Arc::new(LocalBus::new());
        let control_plane = ControlPlane::start(bus.clone()).await;
        let tasks = Tasks::new().with_slow_lane(lane);
        Box::pin(Self::of_tasks(tasks, config, bus, forward, control_plane)).await
    }

    async fn assemble(
        config: Config,
        bus: Arc<dyn Bus>,
        forward: Arc<dyn Forward>,
        declining: usize,
    ) -> Self {
        let control_plane = ControlPlane::start(bus.clone()).await;
        control_plane.decline(declining);
        Self::with_control_plane(config, bus, forward, control_plane).await
    }

    /// A gateway on the bus of a control plane that is there already.
    pub(crate) async fn with_control_plane(
        config: Config,
        bus: Arc<dyn Bus>,
        forward: Arc<dyn Forward>,
        control_plane: ControlPlane,
    ) -> Self {
        // Boxed, as the futures of the tests around it would be large otherwise.
        Box::pin(Self::of_tasks(Tasks::new(), config, bus, forward, control_plane)).await
    }

    async fn of_tasks(
        tasks: Tasks,
        config: Config,
        bus: Arc<dyn Bus>,
        forward: Arc<dyn Forward>,
        control_plane: ControlPlane,
    ) -> Self {
        let metrics = Metrics::new([]).expect("sets up");
        let readiness = Readiness::new(&tasks);
        let parts = Parts {
            config,
            listener: None,
            bus,
            forward,
            meter: metrics.meter("test"),
            readiness: readiness.clone(),
            audit: Audit::without_file(),
            sampler: Sampler::new(metrics.clone()),
        };
        let app = App::build(parts, &tasks).await.expect("starts");
        let api = app.api_addr;
        let dns = app.dns_addr;
        tasks.spawn_vital("app", app.run());
        tokio::time::timeout(PATIENCE, readiness.ready()).await.expect("ready in time");
        Self { api, dns, control_plane, tasks, readiness, metrics }
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

    /// A watcher of `consumer` that shows a token.
    pub(crate) async fn watch_with(&self, consumer: &str, token: &str) -> Watcher {
        self.watch_path_with(&format!("/v4/default/registry/microservices/{consumer}/watcher"), token).await
    }

    pub(crate) async fn watch_path_with(&self, path: &str, token: &str) -> Watcher {
        let url = format!("ws://{}{path}", self.api);
        let mut request = url.into_client_request().expect("a request");
        let value = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert("authorization", value);
        let (stream, answer) = tokio_tungstenite::connect_async(request).await.expect("upgrades");
        assert_eq!(answer.status(), 101);
        Watcher { stream }
    }

    /// Commits and publishes a change, and awaits its event at the watcher.
    pub(crate) async fn change_reaches(
        &self,
        watcher: &mut Watcher,
        provider: &str,
        action: Action,
        id: &str,
    ) {
        let event = self.control_plane.change(provider, action, id).await;
        watcher.expect(&event).await;
    }

    /// The value of a metric as it would be scraped; `line` is its name with all labels.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render();
        let found = text.lines().find_map(|text| text.strip_prefix(line));
        let value = found.unwrap_or_else(|| panic!("`{line}` is missing in\n{text}"));
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

/// A gateway with the consumer `c` of the provider `p`, and one watcher of `c`.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) watcher: Watcher,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::on(World::with(config).await).await
    }

    pub(crate) async fn on(world: World) -> Self {
        world.control_plane.consumer("c", &["p"]);
        let watcher = world.watch("c").await;
        Self { world, watcher }
    }
}

pub(crate) struct Watcher {
    pub(crate) stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Watcher {
    /// The next message; pings of the server are left out.
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

    /// The next event: its action, its instance and its revision.
    pub(crate) async fn event(&mut self) -> (String, String, u64) {
        parse(&self.text().await)
    }

    pub(crate) async fn expect(&mut self, event: &InstanceEvent) {
        let expected =
            (event.action.as_str().to_owned(), event.instance.instance_id.clone(), event.at.rev.get());
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
    let host = text_of(&frame["instance"]["hostName"]);
    let rev = host.strip_prefix("rev-").expect("a revision").parse().expect("a number");
    (text_of(&frame["action"]), text_of(&frame["instance"]["instanceId"]), rev)
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
