//! `muster doctor`: looks for what usually goes wrong and says what to do.
//!
//! Three ways: a registry's address is asked everything from the connection to a push (what it registers for that
//! it removes again); with `--program`, this machine is asked whether that program could run here; with `--admin`,
//! processes that run are asked how they are.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt as _;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

mod fleet;
mod machine;

use super::register::id;
use crate::cli::Target;
use crate::failure::Failure;
use crate::registry::socket::{self, Watched};
use crate::registry::{Registry, Wire};
use crate::screen::{Format, Screen};

/// Clocks further apart than this make latencies and leases hard to read.
const SKEW: Duration = Duration::from_secs(2);

/// A push slower than this is worth a look.
const SLOW: Duration = Duration::from_secs(1);

/// Arguments of `muster doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Only look; register nothing, so the push is not tried.
    #[arg(long)]
    read_only: bool,
    /// Check instead whether this program could run here, with its environment and --config.
    #[arg(long, value_enum, conflicts_with = "admin")]
    program: Option<machine::Program>,
    /// The program's configuration file.
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check instead the processes with these admin addresses.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    admin: Vec<url::Url>,
    #[command(flatten)]
    target: Target,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

/// A check, its result and what to do.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    state: State,
    detail: String,
}

impl Doctor {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let findings = match self.program {
            Some(program) => machine::check(program, self.config.as_deref(), self.target.timeout).await,
            None if !self.admin.is_empty() => fleet::check(&self.admin, &self.target).await?,
            None => self.registry().await?,
        };
        self.show(&findings, screen)
    }

    /// From the address to a push.
    async fn registry(&self) -> Result<Vec<Finding>, Failure> {
        let registry = Registry::new(&self.target)?;
        let mut findings = Vec::new();
        let mut note = |check: &str, (state, detail): (State, String)| {
            findings.push(Finding { check: check.to_owned(), state, detail });
        };
        let reached = self.reach(&registry).await;
        let is_there = reached.0 != State::Failed;
        note("address", reached);
        // The rest would only say the same again.
        if is_there {
            note("version", version(&registry).await);
            note("readiness", readiness(&registry).await);
            note("clock", clock(&registry).await);
            note("header case", self.header_case(&registry).await);
            if !self.read_only {
                note("push", self.push(&registry).await);
            }
        }
        Ok(findings)
    }

    fn show(&self, findings: &[Finding], screen: &mut Screen) -> Result<(), Failure> {
        match self.target.output {
            Format::Json => screen.json(&findings)?,
            Format::Table => {
                let state = |state| match state {
                    State::Ok => "ok",
                    State::Warning => "warning",
                    State::Failed => "failed",
                };
                let rows: Vec<_> = findings
                    .iter()
                    .map(|it| vec![it.check.clone(), state(it.state).to_owned(), it.detail.clone()])
                    .collect();
                screen.table(&["CHECK", "STATE", "DETAIL"], &rows)?;
            }
        }
        match findings.iter().filter(|it| it.state == State::Failed).count() {
            0 => Ok(()),
            failed => Err(Failure::Unwell(format!("{failed} of {} checks failed", findings.len()))),
        }
    }

    async fn connect(&self, registry: &Registry) -> Result<Wire, String> {
        let (host, port) = registry.address();
        match timeout(self.target.timeout, registry.open()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) => Err(format!("{host}:{port}: {e}")),
            Err(_) => Err(format!("{host}:{port}: no answer in time; a firewall?")),
        }
    }

    async fn reach(&self, registry: &Registry) -> (State, String) {
        let begun = Instant::now();
        match self.connect(registry).await {
            Ok(_) => (State::Ok, format!("{} connects in {}", registry.server(), shown(begun.elapsed()))),
            Err(problem) => (State::Failed, problem),
        }
    }

    /// Old Java clients look up one header by its exact case, and proxies like to change it.
    async fn header_case(&self, registry: &Registry) -> (State, String) {
        match self.raw_find(registry).await {
            Err(problem) => (State::Warning, problem),
            Ok(answer) if answer.contains("X-Resource-Revision:") => {
                (State::Ok, "X-Resource-Revision comes in the case that Java clients need".to_owned())
            }
            Ok(answer) if answer.to_ascii_lowercase().contains("x-resource-revision:") => (
                State::Failed,
                "a proxy on the way changes the case of header names: Java clients will find again and again"
                    .to_owned(),
            ),
            Ok(_) => (State::Warning, "the find was not answered with a revision; cannot tell".to_owned()),
        }
    }

    async fn raw_find(&self, registry: &Registry) -> Result<String, String> {
        let mut url = registry.url(["registry", "instances"]);
        url.query_pairs_mut()
            .append_pair("appId", "default")
            .append_pair("serviceName", "SERVICECENTER")
            .append_pair("version", "0+")
            .append_pair("env", "production");
        let (host, port) = registry.address();
        let target = &url[url::Position::BeforePath..];
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nX-Domain-Name: default\r\nConnection: close\r\n\r\n"
        );
        let mut stream = self.connect(registry).await?;
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // The head is what counts; a list may be long.
            (&mut stream).take(64 * 1024).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        match timeout(self.target.timeout, exchange).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// A registration, a watch and a change, all the way round.
    async fn push(&self, registry: &Registry) -> (State, String) {
        let mut registered = Vec::new();
        let result = timeout(self.target.timeout, self.round(registry, &mut registered)).await;
        for service in registered {
            let call = registry.call(Method::DELETE, &["registry", "microservices", &service]);
            // What cannot be removed now has no heartbeat and no consumer.
            let _ = call.query("force", "true").send().await;
        }
        match result {
            Ok(Ok(took)) if took > SLOW => {
                (State::Warning, format!("a change took {} to arrive", shown(took)))
            }
            Ok(Ok(took)) => (State::Ok, format!("a change arrived after {}", shown(took))),
            Ok(Err(failure)) => (State::Failed, failure.to_string()),
            Err(_) => (
                State::Failed,
                "a change did not arrive in time: look at the gateways' link to the bus".to_owned(),
            ),
        }
    }

    async fn round(&self, registry: &Registry, registered: &mut Vec<String>) -> Result<Duration, Failure> {
        let app = format!("doctor-{:08x}", fastrand::u32(..));
        for name in ["provider", "consumer"] {
            let body =
                json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "status": "UP"}});
            let answer =
                registry.call(Method::POST, &["registry", "microservices"]).body(body).send().await?;
            registered.push(id(&answer, "serviceId", registry)?);
        }
        let (provider, consumer) = (&registered[0], &registered[1]);
        let find = registry
            .get(&["registry", "instances"])
            .query("appId", &app)
            .query("serviceName", "provider")
            .query("env", "")
            .query("version", "0+");
        find.consumer(Some(consumer)).send().await?;
        let mut watch =
            socket::connect(registry, Watched::Consumer(consumer), None, self.target.timeout).await?;
        let begun = Instant::now();
        let instance =
            json!({"instance": {"endpoints": ["rest://192.0.2.1:1"], "hostName": "doctor", "status": "UP"}});
        let call = registry.call(Method::POST, &["registry", "microservices", provider, "instances"]);
        call.body(instance).send().await?;
        while let Some(message) = watch.next().await {
            let lost = |problem: String| Failure::Unreachable { server: registry.server(), problem };
            let message = message.map_err(|e| lost(e.to_string()))?;
            if message.is_text() && message.to_text().is_ok_and(|text| text.contains(&**provider)) {
                return Ok(begun.elapsed());
            }
        }
        Err(Failure::Unreachable { server: registry.server(), problem: "the watch was ended".to_owned() })
    }
}

async fn version(registry: &Registry) -> (State, String) {
    let begun = Instant::now();
    match registry.get(&["registry", "version"]).send().await {
        Ok(answer) => {
            let text = |name: &str| answer.body.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
            let took = shown(begun.elapsed());
            (State::Ok, format!("{}, API {}, answered in {took}", text("version"), text("apiVersion")))
        }
        Err(failure) => (State::Failed, failure.to_string()),
    }
}

async fn readiness(registry: &Registry) -> (State, String) {
    match registry.root("/ready").await.map(|answer| (answer.status().as_u16(), answer.into_body())) {
        Ok((200, _)) => (State::Ok, "ready".to_owned()),
        Ok((404, _)) => (State::Ok, "not told at this address (see the admin port)".to_owned()),
        Ok((_, body)) => {
            let report: Value = serde_json::from_str(&body).unwrap_or_default();
            let conditions = report.get("conditions").and_then(Value::as_object);
            let unmet = conditions.into_iter().flatten().filter(|(_, it)| it["met"] != true);
            let reasons: Vec<_> = unmet.map(|(name, it)| format!("{name}: {}", it["reason"])).collect();
            (State::Failed, format!("not ready; {}", reasons.join(", ")))
        }
        Err(failure) => (State::Failed, failure.to_string()),
    }
}

async fn clock(registry: &Registry) -> (State, String) {
    let answer = match registry.root("/version").await {
        Ok(answer) => answer,
        Err(failure) => return (State::Failed, failure.to_string()),
    };
    let date = answer.headers().get(http::header::DATE).and_then(|it| it.to_str().ok());
    let Some(theirs) = date.and_then(|it| httpdate::parse_http_date(it).ok()) else {
        return (State::Warning, "the answer has no date; cannot tell".to_owned());
    };
    let ours = std::time::SystemTime::now();
    let apart = ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default();
    if apart > SKEW {
        (State::Warning, format!("our clocks are {} apart", shown(apart)))
    } else {
        (State::Ok, "our clocks agree".to_owned())
    }
}

/// Milliseconds with one digit, or seconds.
fn shown(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}
