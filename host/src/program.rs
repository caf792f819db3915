//! The frame of every program: logs, signals, metrics, the admin port, settings that change.
//!
//! In: settings, and a body that starts the rooms. Out: the exit status. A program starts its runtime, its
//! logs and its signals, runs the body, waits until a drain is complete, and sends the rest of its telemetry.
//!
//! SIGHUP, or a change of the configuration file, makes it read its settings again. New values of live
//! settings take effect at once; the log names the others, which need a restart. A configuration with
//! mistakes changes nothing.
//!
//! Besides [`admin`]'s routes the admin port has some for operators only: `GET /config` (the settings in
//! force, without secrets), `GET /known` (the [`inventory`]), `GET /access` (the state of access control) and
//! `POST /drain`. They need the admin token or an account with the right `ops`, or, if there is no admin
//! token, a request from this machine that no page of another site has sent.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware::{Next, from_fn};
use axum::routing::{get, post};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::admin::operators::Operators;
use crate::admin::{self, Readiness};
use crate::audit::{Audit, AuditConfig, WeakAudit};
use crate::files::FileWatch;
use crate::http::{ServerLimits, serve};
use crate::inventory;
use crate::lane::SlowThreads;
use crate::lifecycle::Tasks;
use crate::telemetry::{LogConfig, Metrics, Telemetry};
use settings::{Config, Loaded, Reloader, Secret, Settings};

/// The time that the admin port has for answers in progress when everything else has ended.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// The time that a client of the admin port has for each part of a request.
const ADMIN_PATIENCE: Duration = Duration::from_secs(5);

/// The settings that every program has. A program embeds them in its own.
#[derive(Clone, Debug)]
pub struct ProgramSettings {
    /// The form and filter of the logs.
    pub log: LogConfig,
    /// The time for which a process that was told to leave goes on before its drain begins.
    pub drain_delay: Duration,
    /// The time that a drain may take before it becomes an abort.
    pub grace: Duration,
    /// The token that operators need; `None` admits those on this machine and refuses all others.
    pub admin_token: Option<Secret>,
    /// The audit log.
    pub audit: AuditConfig,
    /// The priority of the slow lane, as a distance from the process's own; 0 is no slow lane.
    pub nicer: u32,
}

impl ProgramSettings {
    /// Declares `admin-token`, `drain-delay`, `grace`, `log.*`, `audit.*` and `fairness.nice`. The delay and the grace
    /// period are `delay` and `grace` unless set, and the latter is at most `longest`: a gateway that spreads the ends
    /// of its watches needs more of it than a control plane.
    pub fn read(
        settings: &mut Settings<'_>,
        delay: &'static str,
        grace: &'static str,
        longest: &'static str,
    ) -> Self {
        Self {
            admin_token: settings.optional(
                "admin-token",
                "Bearer token for /config, /known, /access and /drain, beside tokens of accounts with the right ops. Without \
                 it this machine may use them, too.",
            ),
            drain_delay: settings.within(
                "drain-delay",
                delay,
                "0s"..="5m",
                "Time after SIGTERM or POST /drain for which /ready says no and everything else goes on, so that load \
                 balancers send clients elsewhere before the drain. A gateway that knows of no other one does not wait.",
            ),
            grace: settings.within(
                "grace",
                grace,
                "0s"..=longest,
                "Time that a drain may take before everything left is dropped. Clients that are not done lose their connections \
                 2 s before its end, or a fifth of it before if that is less.",
            ),
            log: LogConfig::read(settings),
            audit: AuditConfig::read(settings),
            nicer: settings.within(
                "fairness.nice",
                "19",
                "0"..="19",
                "How much lower (as nice counts) the priority is at which requests of a tenant are worked on that takes \
                 more than its share of the processors while others send requests, too. 0 is the usual priority.",
            ),
        }
    }
}

/// The settings of a whole program.
pub trait Program: Config + Send + 'static {
    /// The program's name in metrics and traces.
    const SERVICE: &'static str;
    /// The settings that every program has.
    fn program(&self) -> &ProgramSettings;
}

/// Applies the live settings of a configuration that was read again.
type Applier<C> = Box<dyn Fn(&C) + Send>;

/// The surroundings in which the body of a program starts its rooms.
pub struct Host<C> {
    /// The tasks of the process.
    pub tasks: Tasks,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// The conditions under which the process is ready for work.
    pub readiness: Readiness,
    /// The inventories of its planes, for `GET /known`.
    pub known: inventory::Sources,
    /// The access control of its planes, for the routes of operators and for `GET /access`.
    pub access: admin::access::Planes,
    /// The log in which requests to the routes of operators are recorded. Set before the routes are made.
    audit: WeakAudit,
    reloader: Reloader,
    /// The tasks of the admin port. They outlive the drain of the others, so that operators can watch it.
    admin_tasks: Tasks,
    token: Option<Secret>,
    appliers: Vec<Applier<C>>,
}

/// Runs a program to its end, and returns the exit status: 0 after a drain, `failure` when the program cannot
/// run or does not end in time, that of `loaded` when this is an error.
pub fn run<C, E>(
    loaded: Result<Loaded<C>, ExitCode>,
    failure: u8,
    body: impl AsyncFnOnce(C, &mut Host<C>) -> Result<(), E>,
) -> ExitCode
where
    C: Program,
    E: Display,
{
    let Loaded { config, notes, reloader } = match loaded {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let nicer = config.program().nicer;
    let started = runtime.and_then(|runtime| {
        let slow = if nicer > 0 { Some(SlowThreads::start(nicer, runtime.handle())?) } else { None };
        Ok((runtime, slow))
    });
    let (runtime, slow) = match started {
        Ok(runtimes) => runtimes,
        Err(e) => {
            eprintln!("this program cannot run: {e}");
            return ExitCode::from(failure);
        }
    };
    let tasks = match &slow {
        Some(slow) => Tasks::new().with_slow_lane(slow.lane()),
        None => Tasks::new(),
    };
    let in_time = runtime.block_on(async {
        let telemetry = match Telemetry::start(C::SERVICE, &config.program().log) {
            Ok(telemetry) => telemetry,
            Err(e) => {
                log_failure(&e);
                // Without logs the line above is lost, and a program must not end without a word.
                if !tracing::dispatcher::has_been_set() {
                    eprintln!("this program cannot run: {e}");
                }
                return false;
            }
        };
        for note in &notes {
            warn!("{note}");
        }
        let ended = run_rooms(config, reloader, &telemetry, tasks, body).await;
        let in_time = ended.unwrap_or_else(|e| {
            log_failure(&e);
            false
        });
        // Last, so that the failure above reaches the collector too.
        telemetry.finish().await;
        in_time
    });
    if in_time { ExitCode::SUCCESS } else { ExitCode::from(failure) }
}

fn log_failure(e: &dyn Display) {
    error!(reason = format!("{e:#}"), "this program cannot run");
}

/// Starts the rooms and waits for their end. True when they ended in time.
async fn run_rooms<C, E>(
    config: C,
    reloader: Reloader,
    telemetry: &Telemetry,
    tasks: Tasks,
    body: impl AsyncFnOnce(C, &mut Host<C>) -> Result<(), E>,
) -> Result<bool, String>
where
    C: Program,
    E: Display,
{
    let admin_tasks = Tasks::new();
    // Before the body: a signal during a slow start must drain, too.
    tasks.listen_for_signals().map_err(|e| e.to_string())?;
    let grace = config.program().grace;
    let mut host = Host {
        metrics: telemetry.metrics().clone(),
        readiness: Readiness::new(&tasks),
        known: inventory::Sources::default(),
        access: admin::access::Planes::default(),
        audit: WeakAudit::default(),
        reloader,
        admin_tasks: admin_tasks.clone(),
        token: config.program().admin_token.clone(),
        appliers: Vec::new(),
        tasks: tasks.clone(),
    };
    // The alternate form prints an error with its causes.
    body(config, &mut host).await.map_err(|e| format!("{e:#}"))?;
    let level = telemetry.level().clone();
    host.appliers.push(Box::new(move |config| level.set(&config.program().log)));
    host.keep_current().map_err(|e| e.to_string())?;
    let in_time = tasks.finish(grace).await;
    admin_tasks.drain().cancel();
    // `&` and not `&&`: the admin port must end in any case.
    Ok(in_time & admin_tasks.finish(ADMIN_GRACE).await)
}

impl<C: Program> Host<C> {
    /// Registers a function that applies the live settings whenever the configuration has been read again.
    pub fn on_change(&mut self, apply: impl Fn(&C) + Send + 'static) {
        self.appliers.push(Box::new(apply));
    }

    /// Records requests to the routes of operators in this log, if the routes are made later.
    pub fn record_in(&mut self, audit: &Audit) {
        self.audit = audit.downgrade();
    }

    /// The routes of the admin port.
    pub fn admin_routes(&self) -> Router {
        let shown = self.reloader.shown();
        let tasks = self.tasks.clone();
        let known = self.known.clone();
        let access = self.access.clone();
        let operators = Operators::new(self.token.clone(), self.access.clone(), self.audit.clone());
        let routes = Router::new()
            .route(
                "/config",
                get(async move || {
                    let head = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
                    (head, shown.load().as_str().to_owned())
                }),
            )
            .route(inventory::PATH, get(async move || known.report().await))
            .route(admin::access::PATH, get(async move || access.report()))
            .route(
                "/drain",
                post(async move || {
                    if !tasks.is_leaving() {
                        info!("received POST /drain on the admin port");
                        tasks.leave();
                    }
                    (StatusCode::ACCEPTED, "draining")
                }),
            )
            // On these routes only: orchestrators and Prometheus come from other machines and have no token.
            .route_layer(from_fn(move |request: Request, next: Next| operators.clone().guard(request, next)));
        admin::router(self.readiness.clone(), self.metrics.clone(), routes)
    }

    /// Serves [`Host::admin_routes`] on `listener`.
    pub fn serve_admin(&self, listener: TcpListener) {
        let routes = self.admin_routes();
        let tasks = self.admin_tasks.clone();
        let drain = self.tasks.drain().clone();
        let limits = ServerLimits {
            name: "admin",
            connections: 256,
            // Short, so that slow clients cannot keep all connections busy while a probe waits.
            header_timeout: ADMIN_PATIENCE,
            body_timeout: ADMIN_PATIENCE,
            write_timeout: ADMIN_PATIENCE,
            ..ServerLimits::default()
        };
        self.admin_tasks.spawn_named("admin", async move {
            // When this task ends early or panics, the process drains: one that nobody can look into
            // must be replaced.
            let _drain = drain.drop_guard();
            serve(listener, routes, limits, &tasks).await;
        });
    }

    /// Reads the settings again on SIGHUP and when the file changes, until the drain.
    fn keep_current(self) -> std::io::Result<()> {
        let Self { tasks, metrics, mut reloader, appliers, .. } = self;
        let mut hangup = signal(SignalKind::hangup())?;
        let reloads: Counter<u64> = metrics
            .meter("config")
            .u64_counter("muster_config_reloads_total")
            .with_description("Times that the configuration was read again after the start, by result.")
            .build();
        for result in ["applied", "refused"] {
            reloads.add(0, &[KeyValue::new("result", result)]);
        }
        let drain = tasks.drain().clone();
        let mut file = FileWatch::new(reloader.path().into_iter().collect());
        tasks.spawn_named("settings", async move {
            loop {
                tokio::select! {
                    biased;
                    () = drain.cancelled() => return,
                    _ = hangup.recv() => {}
                    () = file.changed() => {
                        // While the file is being replaced it may be absent. It is read when it is there
                        // again.
                        if !file.all_present() {
                            continue;
                        }
                    }
                }
                let result = reread(&mut reloader, &appliers);
                reloads.add(1, &[KeyValue::new("result", result)]);
            }
        });
        Ok(())
    }
}

fn reread<C: Program>(reloader: &mut Reloader, appliers: &[Applier<C>]) -> &'static str {
    match reloader.read::<C>() {
        Ok(change) => {
            for apply in appliers {
                apply(&change.config);
            }
            info!(changed = change.live.join(","), "the configuration was read again");
            if !change.later.is_empty() {
                warn!(
                    settings = change.later.join(","),
                    "some changed settings take effect only after a restart"
                );
            }
            "applied"
        }
        Err(mistakes) => {
            error!("the new configuration cannot be used; the old one stays in force: {mistakes}");
            "refused"
        }
    }
}
