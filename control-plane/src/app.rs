//! The wiring of this plane: the one file that names every room.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use host::admin::Readiness;
use host::audit::Audit;
use host::fairness::FairShares;
use host::figures::sampler::Sampler;
use host::lifecycle::Tasks;
use host::machine::host_name;
use host::telemetry::process::observe_usage;
use liveness::{Desk, ReporterId, Timing};
use opentelemetry::metrics::Meter;
use shared::clock::Clock;
use shared::model::Revision;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::advertise::Advertised;
use crate::api::guard::{Auditing, Guard, Guarded};
use crate::api::permit::Gate;
use crate::api::{self, Api};
use crate::dependency_queue;
use crate::election::{self, Role};
use crate::issuer_keys::KeyFetcher;
use crate::keeper::DeadlineKeeper;
use crate::keys::ROOT;
use crate::metrics::{ApiMetrics, KeeperMetrics, PublisherMetrics, RegistryMetrics, ViewMetrics};
use crate::protector;
use crate::publisher::Publisher;
use crate::registry::account::{AccountConfig, Accounts};
use crate::registry::cohort::Cohorts;
use crate::registry::lease::Reported;
use crate::registry::{Registry, first_accounts, own, totals};
use crate::responder::Responder;
use crate::settings::{Config, LeaseMode};
use crate::standing::{Doubt, Standing};
use crate::steward;
use crate::store::Store;
use crate::store::measured::Measured;
use crate::store::rationed::{Ration, Rationed};
use crate::token_keys::KeyReloader;
use crate::view::{self, History, View, follow, gauges};

/// A control plane. It runs among its [`Tasks`] from the moment it is built.
pub struct App {
    /// Answers requests. Give it to an HTTP server, or to a gateway in the same process.
    pub service: Guarded,
    /// The registry behind the service.
    pub registry: Registry,
    /// The registry's view of the store.
    pub view: View,
    /// The role of this replica: publisher, or standby.
    pub role: watch::Receiver<Role>,
    /// Ends the drain. Call [`DrainHandle::finish`] when the service has no request in flight.
    pub drain: DrainHandle,
}

/// The most heartbeats that wait to be acknowledged by the publisher. Further ones renew leases.
const BEATS_WAITING: usize = 500_000;

/// The time that the end of a drain may take to publish the last changes: store, view and bus together.
const HANDOVER: Duration = Duration::from_secs(3);

/// The end of a drain.
///
/// While requests are in flight, and until this node has unregistered itself, the view is still followed and
/// its changes are published. A publisher then publishes everything that was committed before it leaves its
/// seat, because its successor may have started a moment ago and know nothing about older changes.
pub struct DrainHandle {
    store: Arc<dyn Store>,
    view: View,
    role: watch::Receiver<Role>,
    /// Stops every room. It is cancelled last.
    stop: CancellationToken,
    /// Cancelled when this node has unregistered itself.
    unregistered: CancellationToken,
    /// Stops the publisher, before the other rooms.
    stop_publisher: CancellationToken,
    /// Cancelled when the publisher has stopped.
    published: CancellationToken,
}

impl DrainHandle {
    /// Publishes the last changes and stops the rooms behind the API. Takes `HANDOVER` at most after this
    /// node has unregistered itself.
    pub async fn finish(self) {
        tokio::select! { () = self.unregistered.cancelled() => {}, () = self.stop.cancelled() => {} }
        let handover = tokio::time::timeout(HANDOVER, self.hand_over());
        if let Some(Err(_)) = self.stop.run_until_cancelled(handover).await {
            warn!(
                "not every change could be published in time; gateways get the rest from the next publisher"
            );
        }
        self.stop.cancel();
    }

    async fn hand_over(&self) {
        if *self.role.borrow() != Role::Standby
            && let Ok(rev) = self.store.barrier(ROOT).await
        {
            // A view that does not get this far in time is published as it is.
            let _ = self.view.at(rev, HANDOVER / 2).await;
        }
        self.stop_publisher.cancel();
        self.published.cancelled().await;
    }
}

/// The parts from which a control plane is built.
pub struct Parts {
    /// The store that holds the registry.
    pub store: Arc<dyn Store>,
    /// The bus to the gateways.
    pub bus: Arc<dyn Bus>,
    /// The settings of the plane.
    pub config: Config,
    /// The address on which the plane listens. It is advertised if the settings name no other address.
    pub listening: SocketAddr,
    /// Clients of the listener speak TLS.
    pub secure: bool,
    /// The meter to which figures are reported.
    pub meter: Meter,
    /// The readiness of the process, of which the plane becomes a condition.
    pub readiness: Readiness,
    /// The audit log of the process.
    pub audit: Audit,
    /// Reads the figures of the process.
    pub sampler: Sampler,
}

impl App {
    /// Builds the rooms and starts their tasks. Needs a runtime.
    pub fn build(parts: Parts, tasks: &Tasks) -> Self {
        let Parts { store, bus, config, listening, secure, meter, readiness, audit, sampler } = parts;
        let clock = Clock::system();
        let history = History::new(config.history).within(config.history_bytes);
        let (writer, view) = view::empty(history, config.protection, clock.clone());
        view.timeline().limit(config.timeline, config.timeline_bytes);
        let advertised = Advertised::new(config.advertise.as_ref(), listening, secure);
        let address = advertised.address;
        if advertised.is_guessed {
            warn!(
                %listening,
                advertised = address,
                "`listen` means every address of this machine, so clients are told one of them; \
                 set `advertise` if they reach the registry under another one, as behind gateways"
            );
        }
        // Wrapped before any room gets it, so that every call is counted.
        let ration = Arc::new(Ration::new(&meter));
        let store: Arc<dyn Store> = Arc::new(Rationed::new(store, ration.clone()));
        let store: Arc<dyn Store> = Arc::new(Measured::new(store, &meter, &address));
        let registry = Registry::new(store.clone(), view.clone(), clock.clone(), config.registry.clone())
            .reporting(RegistryMetrics::new(&meter, &address));
        let desk = (config.leases.mode == LeaseMode::Reported).then(|| {
            let id = ReporterId(Uuid::new_v4().as_u128());
            Arc::new(Desk::new(id, Timing::default(), BEATS_WAITING))
        });
        let registry = match &desk {
            Some(desk) => registry.with_long_leases(Reported {
                desk: desk.clone(),
                long: config.leases.long,
                cohorts: config.leases.shared.then(Arc::<Cohorts>::default),
            }),
            None => registry,
        };
        gauges::register(&meter, &view);
        totals::register(&meter, &registry, &address);
        observe_usage(&meter, &address);

        let mut writer = writer
            .sharing(config.registry.shared.clone())
            .guarding(config.rbac.policy())
            .reporting(ViewMetrics::new(&meter, &address));
        let keys = config.rbac.keys.as_ref().filter(|_| config.rbac.enabled);
        let key_reloader = keys.map(|keys| KeyReloader::new(keys, &meter));
        if let Some(reloader) = &key_reloader {
            writer = writer.following_keys(reloader.public());
        }
        // Not the token of the drain: the rooms go on until `DrainHandle::finish` has handed over.
        let stop = tasks.abort().child_token();
        tasks.spawn_vital("view", follow::follow(store.clone(), writer, stop.clone()));
        let (role_sender, role) = watch::channel(Role::Standby);
        let (held, held_until) = watch::channel(Instant::now());
        let campaign = election::campaign(
            store.clone(),
            config.name.clone(),
            config.publisher_ttl,
            role_sender,
            held,
            stop.clone(),
        );
        tasks.spawn_vital("election", campaign);
        let protector = protector::run(registry.clone(), config.protection_hold, role.clone(), stop.clone());
        tasks.spawn_vital("protector", protector);
        let steward = steward::run(registry.clone(), clock.clone(), role.clone(), stop.clone());
        tasks.spawn_vital("steward", steward);
        // In each mode: instances with long leases may be left over from another one.
        let keeper = DeadlineKeeper {
            registry: registry.clone(),
            bus: bus.clone(),
            role: role.clone(),
            held_until,
            takes_reports: desk.is_some(),
            renew_after: config.leases.long / 2,
            metrics: KeeperMetrics::new(&meter),
        };
        tasks.spawn_vital("keeper", keeper.run(stop.clone()));
        if let Some(desk) = desk {
            tasks.spawn_vital("beats", desk.run(bus.clone(), stop.clone()));
        }
        let queue = dependency_queue::run(registry.clone(), config.queue_pause, role.clone(), stop.clone());
        tasks.spawn_vital("dependency_queue", queue);

        let metrics = PublisherMetrics::new(&meter, clock.clone(), &address);
        let backlog_view = view.clone();
        metrics.observe_backlog(&meter, move || {
            backlog_view.now().map_or(Revision::ZERO, |snapshot| snapshot.revision)
        });
        let link = bus.link();
        let publisher = Publisher::new(view.clone(), bus.clone(), config.name, role.clone(), metrics);
        let stop_publisher = stop.child_token();
        let published = CancellationToken::new();
        tasks.spawn_vital("publisher", and_then_cancel(publisher.run(stop_publisher.clone()), &published));
        tasks.spawn_vital("responder", Responder::new(registry.clone(), bus).run(stop.clone()));

        // This one ends with the beginning of the drain: clients should forget this node as early as
        // possible.
        let endpoint = advertised.endpoint;
        let own = own::keep_registered(registry.clone(), endpoint, host_name(), tasks.drain().clone());
        let unregistered = CancellationToken::new();
        // Not vital, because it ends with the drain while the process goes on.
        tasks.spawn_named("registration", and_then_cancel(own, &unregistered));
        if let Some(issuer) = config.rbac.issuer.clone().filter(|_| config.rbac.enabled) {
            let fetcher = KeyFetcher { config: issuer, registry: registry.clone(), role: role.clone() };
            tasks.spawn_named("issuer_keys", fetcher.run(stop.clone()));
        }
        if config.rbac.enabled {
            let first = first_accounts::write(
                registry.clone(),
                config.rbac.root_password.clone(),
                config.rbac.password_hash,
                stop.clone(),
            );
            tasks.spawn_named("first_accounts", first);
        }
        let doubt = Doubt::none();
        let standing = Standing {
            store: store.clone(),
            view: view.clone(),
            ration,
            alarms: registry.alarms().clone(),
            grace: config.store_grace,
            doubt: doubt.clone(),
        };
        tasks.spawn_named("standing", standing.run(readiness.condition("store"), stop.clone()));
        tasks.spawn_named("readiness", report_ready(view.clone(), readiness.clone(), stop.clone()));

        let (shares, measuring) = FairShares::new(config.tenant_requests, &meter, "control_plane");
        tasks.spawn_named("fairness", measuring.run(stop.clone()));
        let mut api = Api::new(registry.clone(), config.bodies, shares, readiness, link)
            .with_audit(audit.clone())
            .with_figures(sampler, address.clone());
        if let Some(reloader) = key_reloader {
            let account_config = AccountConfig {
                hash: config.rbac.password_hash,
                release_lock_after: config.rbac.release_lock_after,
                retain_failures_for: config.rbac.retain_lock_history_for,
            };
            let accounts = Accounts::new(registry.clone(), reloader.issuer(), account_config);
            tasks.spawn_named("token_keys", reloader.run(view.clone(), stop.clone()));
            api = api.with_accounts(accounts, config.rbac.trusted_proxies.clone());
        }
        let router = api::router(api);
        let gate = Gate::new(config.rbac.enabled, config.rbac.certificates.clone(), view.clone(), clock);
        let api_metrics = ApiMetrics::new(&meter, &address);
        let auditing = Auditing { log: audit, proxies: config.rbac.trusted_proxies };
        let alarms = registry.alarms().clone();
        let service = Guarded::new(Guard {
            router,
            metrics: api_metrics,
            alarms,
            view: view.clone(),
            doubt,
            gate,
            auditing,
            console: config.console,
        });
        let drain = DrainHandle {
            store,
            view: view.clone(),
            role: role.clone(),
            stop,
            unregistered,
            stop_publisher,
            published,
        };
        Self { service, registry, view, role, drain }
    }
}

/// Runs a task and cancels `done` when it ends, also when it panics or is dropped.
fn and_then_cancel<F>(task: F, done: &CancellationToken) -> impl Future<Output = ()> + use<F>
where
    F: Future<Output = ()>,
{
    // Taken before the task runs: a task that is dropped without ever being polled counts as ended too.
    let guard = done.clone().drop_guard();
    async move {
        task.await;
        drop(guard);
    }
}

/// Reports that the plane is ready once the registry has been read for the first time.
async fn report_ready(view: View, readiness: Readiness, stop: CancellationToken) {
    let condition = readiness.condition("view");
    let mut revisions = view.revisions();
    tokio::select! {
        () = stop.cancelled() => return,
        listed = revisions.wait_for(|rev| *rev > Revision::ZERO) => if listed.is_err() { return },
    }
    condition.set(true, "the registry has been read");
    // A condition that has no owner any more counts as not met.
    stop.cancelled().await;
}
