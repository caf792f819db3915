//! What every program of ours has around its rooms: logs, signals, figures, the admin port, settings that change.
//!
//! In: settings, and a body that starts the rooms. Out: the exit status. Order: settings → logs → runtime → signals →
//! body → until the drain has ended → the rest of the telemetry. SIGHUP, or a change of the configuration file, reads the settings again: what is
//! live counts from then on, what is not is named, and a configuration with mistakes changes nothing.
//!
//! The admin port has, besides [`admin`]'s routes, some for operators only: `GET /config` (the settings in force, without
//! secrets), `GET /known` (what its planes know of the registry) and `POST /drain`. They are granted to this machine, and to who knows the admin token.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, FORWARDED};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::admin::{self, Readiness};
use crate::http::{ServerLimits, serve};
use crate::inventory;
use crate::lifecycle::Tasks;
use crate::telemetry::{LogConfig, Metrics, Telemetry};
use settings::{Config, Loaded, Reloader, Secret};

/// Between two looks at the configuration file.
const FILE_PACE: Duration = Duration::from_secs(2);

/// What the admin port may still take for answers under way, when all else has ended.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// Settings of a whole program.
pub trait Program: Config + Send + 'static {
    /// Its name in metrics and traces.
    const SERVICE: &'static str;
    /// Its logs.
    fn log(&self) -> &LogConfig;
    /// How long a drain may take.
    fn grace(&self) -> Duration;
    /// What proves from afar that an operator asks.
    fn admin_token(&self) -> Option<&Secret>;
}

/// A configuration that was read again is given to each of these.
type Applier<C> = Box<dyn Fn(&C) + Send>;

/// What a program's rooms are started among.
pub struct Host<C> {
    /// Its tasks.
    pub tasks: Tasks,
    /// Its figures.
    pub metrics: Metrics,
    /// Whether it may be given work.
    pub readiness: Readiness,
    /// What its planes know, for who compares.
    pub known: inventory::Sources,
    reloader: Reloader,
    /// The admin port outlives the others' drain, so that it can be watched.
    last: Tasks,
    token: Option<Secret>,
    appliers: Vec<Applier<C>>,
}

/// Runs a program to its end. `failure` is the exit status when it cannot run or does not end in time.
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("this program cannot run: {e}");
            return ExitCode::from(failure);
        }
    };
    let in_time = runtime.block_on(async {
        let cannot = |e: &dyn Display| error!(reason = format!("{e:#}"), "this program cannot run");
        let telemetry = match Telemetry::start(C::SERVICE, config.log()) {
            Ok(telemetry) => telemetry,
            Err(e) => {
                cannot(&e);
                if !tracing::dispatcher::has_been_set() {
                    eprintln!("this program cannot run: {e}");
                }
                return false;
            }
        };
        notes.iter().for_each(|note| warn!("{note}"));
        let ended = rooms(config, reloader, &telemetry, body).await;
        telemetry.finish().await;
        ended.unwrap_or_else(|e| {
            cannot(&e);
            false
        })
    });
    if in_time { ExitCode::SUCCESS } else { ExitCode::from(failure) }
}

/// Starts the rooms and waits for their end; whether it came in time.
async fn rooms<C, E>(
    config: C,
    reloader: Reloader,
    telemetry: &Telemetry,
    body: impl AsyncFnOnce(C, &mut Host<C>) -> Result<(), E>,
) -> Result<bool, String>
where
    C: Program,
    E: Display,
{
    let told = |e: &dyn Display| format!("{e:#}");
    let tasks = Tasks::new();
    tasks.listen_for_signals().map_err(|e| told(&e))?;
    let (grace, token) = (config.grace(), config.admin_token().cloned());
    let (metrics, readiness) = (telemetry.metrics().clone(), Readiness::new(&tasks));
    let (last, known) = (Tasks::new(), inventory::Sources::default());
    let mut host =
        Host { tasks, metrics, readiness, known, reloader, last: last.clone(), token, appliers: Vec::new() };
    body(config, &mut host).await.map_err(|e| told(&e))?;
    let (tasks, level) = (host.tasks.clone(), telemetry.level().clone());
    host.appliers.push(Box::new(move |config| level.set(config.log())));
    host.keep_current().map_err(|e| told(&e))?;
    let in_time = tasks.finish(grace).await;
    last.drain().cancel();
    Ok(in_time & last.finish(LAST_GRACE).await)
}

impl<C: Program> Host<C> {
    /// Has the live settings of a configuration that was read again applied.
    pub fn on_change(&mut self, apply: impl Fn(&C) + Send + 'static) {
        self.appliers.push(Box::new(apply));
    }

    /// The admin port's routes.
    pub fn admin_routes(&self) -> Router {
        let (shown, drain, token) = (self.reloader.shown(), self.tasks.drain().clone(), self.token.clone());
        let (token, known) = (Arc::new(token), self.known.clone());
        let operators = Router::new()
            .route(
                "/config",
                get(async move || {
                    let head = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
                    (head, shown.load().as_str().to_owned())
                }),
            )
            .route(inventory::PATH, get(async move || known.tell().await))
            .route(
                "/drain",
                post(async move || {
                    if !drain.is_cancelled() {
                        info!("told to drain by the admin port");
                        drain.cancel();
                    }
                    (StatusCode::ACCEPTED, "draining")
                }),
            )
            .route_layer(from_fn(move |request: Request, next: Next| {
                let token = token.clone();
                async move {
                    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip());
                    match may_operate(peer, request.headers(), token.as_ref().as_ref()) {
                        true => next.run(request).await,
                        false => refusal(),
                    }
                }
            }));
        admin::router(self.readiness.clone(), self.metrics.clone(), operators)
    }

    /// Serves [`Host::admin_routes`] on `listener`.
    pub fn serve_admin(&self, listener: TcpListener) {
        let (routes, last) = (self.admin_routes(), self.last.clone());
        let drain = self.tasks.drain().clone();
        let limits = ServerLimits { name: "admin", connections: 256, ..ServerLimits::default() };
        self.last.spawn(async move {
            // Early, or by a panic: a process that nobody can look into is to be replaced.
            let _drain = drain.drop_guard();
            serve(listener, routes, limits, &last).await;
        });
    }

    /// Reads the settings again when told to, until the drain.
    fn keep_current(self) -> std::io::Result<()> {
        let Self { tasks, metrics, mut reloader, appliers, .. } = self;
        let mut hangup = signal(SignalKind::hangup())?;
        let reloads: Counter<u64> = metrics
            .meter("config")
            .u64_counter("muster_config_reloads_total")
            .with_description("Readings of the configuration after the start, by what came of them.")
            .build();
        for result in ["applied", "refused"] {
            reloads.add(0, &[KeyValue::new("result", result)]);
        }
        let drain = tasks.drain().clone();
        let mut seen = reloader.file();
        tasks.spawn(async move {
            let mut pace = tokio::time::interval(FILE_PACE);
            loop {
                tokio::select! {
                    biased;
                    () = drain.cancelled() => return,
                    _ = hangup.recv() => {}
                    _ = pace.tick() => {
                        let now = reloader.file();
                        // A file that is just being replaced is looked at once it is there again.
                        if now == seen || now.as_ref().is_some_and(|(_, changed)| changed.is_none()) {
                            continue;
                        }
                        seen = now;
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
            appliers.iter().for_each(|apply| apply(&change.config));
            info!(changed = change.live.join(","), "the configuration was read again");
            if !change.later.is_empty() {
                warn!(
                    settings = change.later.join(","),
                    "some changed settings count from the next start on"
                );
            }
            "applied"
        }
        Err(mistakes) => {
            error!("the configuration stays as it was: {mistakes}");
            "refused"
        }
    }
}

/// This machine itself may, unless it speaks for someone else; others need the token.
fn may_operate(peer: Option<IpAddr>, headers: &HeaderMap, token: Option<&Secret>) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok()?.strip_prefix("Bearer "));
    if let (Some(given), Some(token)) = (given, token) {
        return same(given.as_bytes(), token.expose().as_bytes());
    }
    let passed_on = headers.contains_key("x-forwarded-for") || headers.contains_key(FORWARDED);
    !passed_on && peer.is_some_and(|it| it.to_canonical().is_loopback())
}

/// Takes as long whatever the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

fn refusal() -> Response {
    (
        StatusCode::FORBIDDEN,
        "only by the admin port (`admin-listen`) from this machine, or with the admin token (`admin-token`)",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting as _;

    #[test]
    fn operators_are_known_by_machine_or_token() {
        let local = "127.0.0.1".parse().ok();
        let mapped = "::ffff:127.0.0.1".parse().ok();
        let remote = "10.0.0.9".parse().ok();
        let token = Secret::parse("hunter2");
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(
                axum::http::HeaderName::from_static(name),
                value.parse().expect("a value"),
            )])
        };
        let nothing = HeaderMap::new();
        assert!(may_operate(local, &nothing, None) && may_operate(mapped, &nothing, token.as_ref()));
        assert!(!may_operate(remote, &nothing, None) && !may_operate(None, &nothing, None));
        assert!(!may_operate(local, &with("x-forwarded-for", "10.0.0.9"), None), "a proxy on this machine");
        assert!(may_operate(remote, &with("authorization", "Bearer hunter2"), token.as_ref()));
        assert!(!may_operate(remote, &with("authorization", "Bearer hunter3"), token.as_ref()));
        assert!(!may_operate(remote, &with("authorization", "Bearer "), None));
    }
}
