//! The wiring of this plane: the one file that names every room.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use host::admin::Readiness;
use host::lifecycle::Tasks;
use host::telemetry::process::observe_usage;
use opentelemetry::metrics::Meter;
use shared::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::Api;
use crate::api::guard::Guarded;
use crate::config::{Config, host_name};
use crate::dependency_queue;
use crate::election::{self, Role};
use crate::keys::ROOT;
use crate::metrics::{ApiMetrics, PublisherMetrics, RegistryMetrics, ViewMetrics};
use crate::protector;
use crate::publisher::Publisher;
use crate::registry::{Registry, own, totals};
use crate::responder::Responder;
use crate::store::Store;
use crate::store::measured::Measured;
use crate::view::{self, History, View, follow, gauges};

/// A control plane, running among its [`Tasks`] from the moment it is built.
pub struct App {
    /// Answers requests; give it to an HTTP server, or to a gateway in the same process.
    pub service: Guarded,
    /// The registry behind it.
    pub registry: Registry,
    /// Its view.
    pub view: View,
    /// What this replica is.
    pub role: watch::Receiver<Role>,
    /// To be told when no request is left.
    pub rest: Rest,
}

/// How long the end of a drain waits to publish what the store has: for the store, the view and the bus together.
const HANDOVER: Duration = Duration::from_secs(3);

/// The end of a drain: the view is followed, and its changes are published, until no request is left and this
/// node has taken itself out of the registry. A publisher leaves its seat when it has published everything that was
/// committed until then: who takes it may have begun a moment ago, and know nothing of what was before.
pub struct Rest {
    store: Arc<dyn Store>,
    view: View,
    role: watch::Receiver<Role>,
    idle: CancellationToken,
    unregistered: CancellationToken,
    /// Tells the publisher to end, before the others.
    publishing: CancellationToken,
    published: CancellationToken,
}

impl Rest {
    /// Stops the rooms behind the API. To be called when no request is left.
    pub async fn begin(self) {
        tokio::select! { () = self.unregistered.cancelled() => {}, () = self.idle.cancelled() => {} }
        let handover = self.idle.run_until_cancelled(tokio::time::timeout(HANDOVER, self.hand_over()));
        if handover.await.is_some_and(|outcome| outcome.is_err()) {
            warn!("not everything could be published in time; gateways will ask the next publisher");
        }
        self.idle.cancel();
    }

    async fn hand_over(&self) {
        if *self.role.borrow() != Role::Standby
            && let Ok(rev) = self.store.barrier(ROOT).await
        {
            // A view that does not come so far is published as it is.
            let _ = self.view.at(rev, HANDOVER / 2).await;
        }
        self.publishing.cancel();
        self.published.cancelled().await;
    }
}

/// What a control plane is built from.
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The way to the gateways.
    pub bus: Arc<dyn Bus>,
    /// Settings.
    pub config: Config,
    /// The address it listens on: what it advertises unless told otherwise.
    pub listening: SocketAddr,
    /// Where figures go.
    pub meter: Meter,
    /// Where it says that it is ready.
    pub readiness: Readiness,
}

impl App {
    /// Joins the rooms and starts their tasks. Needs a runtime.
    pub fn build(parts: Parts, tasks: &Tasks) -> Self {
        let Parts { store, bus, config, listening, meter, readiness } = parts;
        let clock = Clock::system();
        let (writer, view) = view::empty(History::new(config.history), config.protection, clock.clone());
        let address =
            if config.advertise.is_empty() { listening.to_string() } else { config.advertise.clone() };
        let store: Arc<dyn Store> = Arc::new(Measured::new(store, &meter, &address));
        let registry = Registry::new(store.clone(), view.clone(), clock.clone(), config.registry.clone())
            .reporting(RegistryMetrics::new(&meter, &address));
        gauges::register(&meter, &view);
        totals::register(&meter, &registry, &address);
        observe_usage(&meter, &address);

        let writer = writer.reporting(ViewMetrics::new(&meter, &address));
        let stop = tasks.abort().child_token();
        tasks.spawn_vital("view", follow::follow(store.clone(), writer, stop.clone()));
        let (role_sender, role) = watch::channel(Role::Standby);
        let campaign = election::campaign(
            store.clone(),
            config.name.clone(),
            config.publisher_ttl,
            role_sender,
            stop.clone(),
        );
        tasks.spawn_vital("election", campaign);
        let protector = protector::run(registry.clone(), config.protection_hold, role.clone(), stop.clone());
        tasks.spawn_vital("protector", protector);
        let queue = dependency_queue::run(registry.clone(), config.queue_pause, role.clone(), stop.clone());
        tasks.spawn_vital("dependency_queue", queue);
        let metrics = PublisherMetrics::new(&meter, clock, &address);
        let backlog_view = view.clone();
        metrics.observe_backlog(&meter, move || backlog_view.now().map_or(0, |snapshot| snapshot.revision));
        let publisher = Publisher::new(view.clone(), bus.clone(), config.name, role.clone(), metrics);
        let (publishing, published) = (stop.child_token(), CancellationToken::new());
        let (running, done) = (publisher.run(publishing.clone()), published.clone().drop_guard());
        tasks.spawn_vital("publisher", async move {
            running.await;
            drop(done);
        });
        tasks.spawn_vital("responder", Responder::new(registry.clone(), bus).run(stop.clone()));
        let endpoint = format!("rest://{address}/");
        // Clients are to forget this node as soon as it drains.
        let draining = tasks.drain().clone();
        let unregistered = CancellationToken::new();
        let left = unregistered.clone().drop_guard();
        let own = own::keep_registered(registry.clone(), endpoint, host_name(), draining);
        tasks.spawn(async move {
            own.await;
            drop(left);
        });
        tasks.spawn(report_ready(view.clone(), readiness, stop.clone()));

        let api = Api::new(registry.clone(), config.bodies);
        let service =
            Guarded::new(api.router(), ApiMetrics::new(&meter, &address), registry.alarms().clone());
        let (seen, seat) = (view.clone(), role.clone());
        let rest = Rest { store, view: seen, role: seat, idle: stop, unregistered, publishing, published };
        Self { service, registry, view, role, rest }
    }
}

/// Ready when the first list is in.
async fn report_ready(view: View, readiness: Readiness, stop: CancellationToken) {
    let condition = readiness.condition("view");
    let mut revisions = view.revisions();
    tokio::select! {
        () = stop.cancelled() => return,
        listed = revisions.wait_for(|rev| *rev > 0) => if listed.is_err() { return },
    }
    condition.set(true, "the registry has been read");
    // Held until the end: a condition without an owner does not hold.
    stop.cancelled().await;
}
