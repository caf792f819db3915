//! The arguments that most commands share: the registry to talk to, the tenant, the output and the trust in
//! TLS.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::credentials::Access;
use crate::failure::CommandFailure;
use crate::screen::OutputFormat;

/// The registry that a command talks to, and the form of the result.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Registry and output")]
pub(crate) struct Target {
    /// Address of a gateway or a control plane.
    #[arg(long, env = "MUSTER_SERVER", value_name = "URL", default_value = "http://127.0.0.1:30100")]
    pub(crate) server: url::Url,
    /// Domain of the services.
    #[arg(long, env = "MUSTER_DOMAIN", default_value = "default")]
    pub(crate) domain: String,
    /// Project of the services.
    #[arg(long, env = "MUSTER_PROJECT", default_value = "default")]
    pub(crate) project: String,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: OutputFormat,
    /// Time to wait for a reply.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// The tokens for the routes of operators at admin ports.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct OperatorAccess {
    /// Admin token of the processes, if they have one. Without it the token of an account is shown.
    #[arg(long = "token", env = "MUSTER_ADMIN_TOKEN", value_name = "SECRET", hide_env_values = true)]
    token: Option<String>,
    /// Address of the registry whose `muster login` counts at the admin ports, which are no addresses to log
    /// in at.
    #[arg(long, env = "MUSTER_SERVER", value_name = "URL", default_value = "http://127.0.0.1:30100")]
    server: url::Url,
    #[command(flatten)]
    account: Access,
}

impl OperatorAccess {
    /// The token for the routes of operators.
    pub(crate) fn token(&self) -> Result<Option<String>, CommandFailure> {
        match &self.token {
            Some(token) => Ok(Some(token.clone())),
            None => self.account.token(&self.server),
        }
    }
}

/// The authorities to trust at `https://` addresses, and the client's own certificate.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct Trust {
    /// PEM file with the authorities to trust at https:// addresses. Default: those of the system.
    #[arg(long, env = "MUSTER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file with the client certificate, for servers that require one.
    #[arg(long, env = "MUSTER_CERTIFICATE", value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// PEM file with the key of the client certificate.
    #[arg(long, env = "MUSTER_KEY", value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
}

impl Target {
    /// True when no other machine can reach the address of the server.
    pub(crate) fn is_this_machine(&self) -> bool {
        match self.server.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
    }

    /// A process that is asked about itself, not about the services of a tenant. Requests to the routes of
    /// operators name their token themselves, so that no other request shows one.
    pub(crate) fn process(server: url::Url, timeout: Duration, trust: Trust) -> Self {
        Self {
            server,
            // Routes of the admin port lie outside of any tenant.
            domain: String::new(),
            project: String::new(),
            output: OutputFormat::default(),
            timeout,
            access: Access::none(),
            trust,
        }
    }
}

/// Parses `30s`, `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
