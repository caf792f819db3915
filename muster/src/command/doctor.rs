//! `muster doctor`: looks for the usual faults and says what to do.
//!
//! It has three subjects: a registry, which is tried out from the connection to a push (everything registered
//! for that is removed again); with `--program` this machine, on which the program is to run; with `--admin`
//! processes that run.

use shared::clock::Clock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use futures_util::StreamExt as _;
use host::tls::with_advice;
use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

mod access;
mod advertised;
mod dialects;
mod dns;
mod fleet;
mod machine;
mod servers;

use super::status::text_field;
use crate::client::watch::{self, WatchQuery};
use crate::client::{RegistryClient, ServerStream};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Clocks further apart than this make latencies and leases hard to read.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);
/// A push slower than this deserves attention.
const SLOW_PUSH: Duration = Duration::from_secs(1);

/// Arguments of `muster doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Register nothing. The push is not tried then.
    #[arg(long)]
    read_only: bool,
    /// Instead, check whether this program could run on this machine, with the environment and --config.
    #[arg(long, value_enum, conflicts_with = "admin")]
    program: Option<machine::CheckedProgram>,
    /// Configuration file of the program.
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Instead, check the running processes with these admin addresses.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    admin: Vec<url::Url>,
    /// Admin token of the processes of --admin, if they have one. Without it the token of an account is shown
    /// to them.
    #[arg(long, env = "MUSTER_ADMIN_TOKEN", value_name = "SECRET", hide_env_values = true)]
    admin_token: Option<String>,
    /// Also ask this server of DNS, over UDP and TCP.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["program", "admin"])]
    dns: Option<SocketAddr>,
    /// Zone of the server of DNS.
    #[arg(long, value_name = "ZONE", default_value = "muster.", requires = "dns")]
    dns_domain: String,
    #[command(flatten)]
    target: Target,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Ok,
    Warning,
    Failed,
}

impl CheckState {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// The outcome of a check, with its reason and the advice.
type Outcome = (CheckState, String);

fn ok(detail: impl Into<String>) -> Outcome {
    (CheckState::Ok, detail.into())
}

fn warning(detail: impl Into<String>) -> Outcome {
    (CheckState::Warning, detail.into())
}

fn failed(detail: impl Into<String>) -> Outcome {
    (CheckState::Failed, detail.into())
}

/// A line of the result.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    state: CheckState,
    detail: String,
}

impl Finding {
    fn new(check: impl Into<String>, (state, detail): Outcome) -> Self {
        Self { check: check.into(), state, detail }
    }
}

impl Doctor {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let findings = match self.program {
            Some(program) => machine::check(program, self.config.as_deref(), self.target.timeout).await,
            None if !self.admin.is_empty() => {
                let token = match &self.admin_token {
                    Some(token) => Some(token.clone()),
                    None => self.target.access.token(&self.target.server)?,
                };
                fleet::check(&self.admin, token.as_deref(), &self.target).await?
            }
            None => self.check_registry().await?,
        };
        self.show(&findings, screen)
    }

    /// Tries the registry out, from the connection to a push.
    async fn check_registry(&self) -> Result<Vec<Finding>, CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let address = self.address(&registry).await;
        let is_reachable = address.0 != CheckState::Failed;
        let mut findings = vec![Finding::new("address", address)];
        // Without a connection the other checks would only repeat the same failure.
        if is_reachable {
            findings.push(Finding::new("version", version(&registry).await));
            findings.push(Finding::new("readiness", readiness(&registry).await));
            findings.push(Finding::new("clock", clock(&registry).await));
            findings.push(Finding::new("access", access::check(&self.target).await));
            let told = advertised::check(&registry, self.target.timeout).await;
            findings.push(Finding::new("advertised", told));
            findings.push(Finding::new("header case", self.header_case(&registry).await));
            findings.extend(dialects::check(&registry).await);
            if !self.read_only {
                findings.push(Finding::new("push", self.push(&registry).await));
            }
        }
        if let Some(server) = self.dns {
            let told = dns::check(server, &self.dns_domain, self.target.timeout).await;
            findings.push(Finding::new("dns", told));
        }
        Ok(findings)
    }

    fn show(&self, findings: &[Finding], screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.target.output {
            OutputFormat::Json => screen.json(&findings)?,
            OutputFormat::Table => {
                let mut rows = Vec::with_capacity(findings.len());
                for Finding { check, state, detail } in findings {
                    rows.push(vec![check.clone(), state.name().to_owned(), detail.clone()]);
                }
                screen.table(&["CHECK", "STATE", "DETAIL"], &rows)?;
            }
        }
        match findings.iter().filter(|finding| finding.state == CheckState::Failed).count() {
            0 => Ok(()),
            failed => Err(CommandFailure::Unwell(format!("{failed} of {} checks failed", findings.len()))),
        }
    }

    async fn connect(&self, registry: &RegistryClient) -> Result<ServerStream, String> {
        let authority = registry.authority();
        match timeout(self.target.timeout, registry.open(None)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) => {
                let told = with_advice(format!("{authority}: {e}"));
                // Advice about a certificate says more than this question.
                if told.contains(';') {
                    Err(told)
                } else {
                    Err(format!("{told}; is --server right, and does the registry run?"))
                }
            }
            Err(_) => Err(format!("{authority}: no answer in time; is there a firewall in between?")),
        }
    }

    async fn address(&self, registry: &RegistryClient) -> Outcome {
        let begun = Instant::now();
        match self.connect(registry).await {
            Ok(_) => ok(format!("{} connects in {}", registry.server(), shown(begun.elapsed()))),
            Err(problem) => failed(problem),
        }
    }

    /// Checks the case of a header's name. Old Java clients look it up by its exact case, and proxies like to
    /// change it.
    async fn header_case(&self, registry: &RegistryClient) -> Outcome {
        let reply = match self.raw_find(registry).await {
            Ok(reply) => reply,
            Err(problem) => return warning(problem),
        };
        if reply.contains("X-Resource-Revision:") {
            ok("X-Resource-Revision comes in the case that Java clients need")
        } else if reply.to_ascii_lowercase().contains("x-resource-revision:") {
            failed(
                "a proxy in between changes the case of header names, so Java clients repeat every find: \
                 configure it to keep them",
            )
        } else {
            warning("the reply to a find has no revision, so its case is not known")
        }
    }

    /// The head of a reply to a find, as its bytes came. HTTP libraries hide the case of header names.
    async fn raw_find(&self, registry: &RegistryClient) -> Result<String, String> {
        let mut url = registry.url(["registry", "instances"]);
        // This service is in every registry: the registry's own.
        url.query_pairs_mut()
            .append_pair("appId", "default")
            .append_pair("serviceName", "SERVICECENTER")
            .append_pair("version", "0+")
            .append_pair("env", "production");
        let authority = registry.authority();
        let target = &url[url::Position::BeforePath..];
        let token = registry.authorization().and_then(|value| value.to_str().ok());
        let token = token.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nX-Domain-Name: default\r\nConnection: close\r\n{token}\r\n"
        );
        let mut stream = self.connect(registry).await?;
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            let mut reply = Vec::new();
            // Only the head counts, and the list behind it may be long.
            (&mut stream).take(64 * 1024).read_to_end(&mut reply).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&reply).into_owned())
        };
        match timeout(self.target.timeout, exchange).await {
            Ok(reply) => reply.map_err(|e| e.to_string()),
            Err(_) => Err("no reply in time".to_owned()),
        }
    }

    /// Measures one change all the way round: registration, watch, change, push.
    async fn push(&self, registry: &RegistryClient) -> Outcome {
        let mut registered = Vec::new();
        let result = timeout(self.target.timeout, round_trip(registry, &mut registered)).await;
        // Also after a failure: a check must not leave services behind.
        for service in registered {
            let request = registry.request(Method::DELETE, &["registry", "microservices", &service]);
            // A service that cannot be removed now has an instance that soon expires, and nobody uses it.
            let _ = request.query("force", "true").send().await;
        }
        match result {
            Ok(Ok(took)) if took > SLOW_PUSH => warning(format!("a change took {} to arrive", shown(took))),
            Ok(Ok(took)) => ok(format!("a change arrived after {}", shown(took))),
            // Everything before the watch is answered by control planes, too.
            Ok(Err(failure)) if failure.is_unknown_path() => {
                ok("not served at this address: this is no gateway")
            }
            Ok(Err(failure)) => failed(failure.to_string()),
            Err(_) => failed("a change did not arrive in time: look at the gateways' link to the bus"),
        }
    }
}

/// Registers a provider and a consumer, watches, registers an instance, and returns the time until its push.
/// `registered` receives the services to remove, also when a later step fails or the deadline cuts this off.
async fn round_trip(
    registry: &RegistryClient,
    registered: &mut Vec<String>,
) -> Result<Duration, CommandFailure> {
    // An application of its own keeps two doctors apart.
    let app = format!("doctor-{:08x}", fastrand::u32(..));
    for name in ["provider", "consumer"] {
        let body =
            json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "status": "UP"}});
        let request = registry.request(Method::POST, &["registry", "microservices"]).body(body);
        registered.push(request.send().await?.id("serviceId", registry)?);
    }
    let provider = &registered[0];
    let consumer = &registered[1];
    // The find makes the consumer one, before the watch begins and before there is something to push.
    let find = registry
        .get(&["registry", "instances"])
        .query("appId", &app)
        .query("serviceName", "provider")
        .query("env", "")
        .query("version", "0+");
    find.consumer(Some(consumer)).send().await?;
    let mut watch = watch::open(registry, WatchQuery::Consumer(consumer), None, None).await?;
    let begun = Instant::now();
    // 192.0.2.1 is reserved for documentation, so that nobody calls this instance.
    let instance =
        json!({"instance": {"endpoints": ["rest://192.0.2.1:1"], "hostName": "doctor", "status": "UP"}});
    let request = registry.request(Method::POST, &["registry", "microservices", provider, "instances"]);
    request.body(instance).send().await?;
    let mut problem = "the server ended the watch".to_owned();
    while let Some(message) = watch.next().await {
        match message {
            Ok(message) if message.to_text().is_ok_and(|text| text.contains(&**provider)) => {
                return Ok(begun.elapsed());
            }
            Ok(_) => {}
            Err(e) => {
                problem = e.to_string();
                break;
            }
        }
    }
    Err(CommandFailure::Unreachable { server: registry.server(), problem })
}

async fn version(registry: &RegistryClient) -> Outcome {
    let begun = Instant::now();
    match registry.get(&["registry", "version"]).send().await {
        Ok(reply) => {
            let version = text_field(&reply.body, "version");
            let api = text_field(&reply.body, "apiVersion");
            ok(format!("{version}, API {api}, answered in {}", shown(begun.elapsed())))
        }
        Err(failure) => failed(failure.to_string()),
    }
}

async fn readiness(registry: &RegistryClient) -> Outcome {
    let reply = match registry.get_root("/ready").await {
        Ok(reply) => reply,
        Err(failure) => return failed(failure.to_string()),
    };
    readiness_of(reply.status().as_u16(), reply.body())
}

/// The outcome of `/ready` on the port of the API.
fn readiness_of(status: u16, body: &str) -> Outcome {
    match status {
        200 => ok("ready"),
        // Only a standalone has the path here. With access control a gateway does not tell strangers which
        // paths there are.
        401 | 403 | 404 => ok("not served at this address; the admin port has it"),
        _ => {
            let unmet: Vec<_> = unmet_conditions(body)
                .into_iter()
                .map(|(name, reason)| format!("{name}: {reason}"))
                .collect();
            failed(format!("not ready; {}", unmet.join(", ")))
        }
    }
}

/// Name and reason of each condition of a readiness report that does not hold.
fn unmet_conditions(body: &str) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(body).unwrap_or_default();
    let mut unmet = Vec::new();
    for (name, condition) in report["conditions"].as_object().into_iter().flatten() {
        if condition["met"] != true {
            unmet.push((name.clone(), condition["reason"].as_str().unwrap_or("?").to_owned()));
        }
    }
    unmet
}

async fn clock(registry: &RegistryClient) -> Outcome {
    let reply = match registry.get_root("/version").await {
        Ok(reply) => reply,
        Err(failure) => return failed(failure.to_string()),
    };
    // The header has whole seconds, which is fine enough for the limit.
    let Some(theirs) = date(reply.headers()) else {
        return warning("the reply has no date, so the clocks cannot be compared");
    };
    let ours = Clock::system().now();
    let apart = ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default();
    if apart > MAX_CLOCK_SKEW {
        warning(format!("the clocks of this machine and the server are {} apart", shown(apart)))
    } else {
        ok("the clocks of this machine and the server agree")
    }
}

/// The server's clock, from the header `Date`.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let date = headers.get(http::header::DATE)?.to_str().ok()?;
    httpdate::parse_http_date(date).ok()
}

/// Milliseconds with one digit, or seconds.
fn shown(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_hides_its_paths_counts_as_ready() {
        let hidden = readiness_of(404, "404 page not found\n");
        for status in [401, 403] {
            assert_eq!(readiness_of(status, r#"{"errorCode":"401204"}"#), hidden);
        }
        let body = r#"{"conditions":{"bus":{"met":false,"reason":"no connection"}}}"#;
        assert_ne!(readiness_of(503, body), hidden);
    }
}
