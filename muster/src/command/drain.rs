//! `muster drain`: drains a gateway or a control plane by its admin port, and waits until it has ended; or an
//! instance, or all of a service, and gives it back.

use std::time::Duration;

use clap::{Args, Subcommand};
use host::telemetry::scrape::Scrape;
use http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::client::RegistryClient;
use crate::failure::{CommandFailure, RegistryRefusal};
use crate::screen::{OutputFormat, Screen};
use crate::target::{OperatorAccess, Target, Trust, duration};

/// Pause between two requests that show whether the process is still there.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Deadline of one request. The process is near and busy with draining at most; `--timeout` bounds the whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) mod instance;

/// Arguments of `muster drain`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Drain {
    #[command(subcommand)]
    of_registry: Option<DrainCommand>,
    /// Admin address of the process, such as http://127.0.0.1:30101.
    #[arg(required = true)]
    admin: Option<url::Url>,
    /// Begin the drain, and do not wait for the end of the process.
    #[arg(long)]
    no_wait: bool,
    /// Time to wait for the end of the process.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    access: OperatorAccess,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Debug, Subcommand)]
enum DrainCommand {
    /// Take an instance out of the traffic, and wait until everybody who reads the service is known to have been
    /// told.
    Instance(Box<instance::DrainInstance>),
    /// The same for all instances of a service.
    Service(Box<instance::DrainService>),
    /// Give an instance back that a drain keeps out of the traffic.
    GiveBack(Box<instance::GiveBack>),
}

impl Drain {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match (self.of_registry, self.admin) {
            (Some(DrainCommand::Instance(drain)), _) => drain.run(screen).await,
            (Some(DrainCommand::Service(drain)), _) => drain.run(screen).await,
            (Some(DrainCommand::GiveBack(back)), _) => back.run(screen).await,
            (None, Some(admin)) => {
                Self { of_registry: None, admin: None, ..self }.process(admin, screen).await
            }
            // The parser has demanded one of them.
            (None, None) => Err(CommandFailure::Usage("name a process, an instance or a service".to_owned())),
        }
    }

    async fn process(self, admin: url::Url, screen: &mut Screen) -> Result<(), CommandFailure> {
        let target = Target::process(admin, REQUEST_TIMEOUT, self.trust.clone());
        let process = RegistryClient::new(&target)?;
        let reply = process.request_root(Method::POST, "/drain", self.access.token()?.as_deref()).await?;
        if reply.status() != http::StatusCode::ACCEPTED {
            return Err(CommandFailure::Refused(RegistryRefusal::from_text(&reply)));
        }
        let began = Instant::now();
        if !self.no_wait {
            self.wait_for_end(&process, screen).await?;
        }
        let server = process.server();
        let seconds = began.elapsed().as_secs_f64();
        match self.output {
            OutputFormat::Json => {
                screen.json(&json!({"process": server, "ended": !self.no_wait, "seconds": seconds}))
            }
            OutputFormat::Table if self.no_wait => screen.line(&format!("{server} is draining")),
            OutputFormat::Table => screen.line(&format!("{server} has drained after {seconds:.1} s")),
        }
    }

    /// Returns when the process no longer answers, and reports the number of its watchers meanwhile.
    async fn wait_for_end(
        &self,
        process: &RegistryClient,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        let deadline = Instant::now() + self.timeout;
        let mut reported = None;
        loop {
            // The admin port is the last to close, so its silence means that the process has ended.
            match process.get_root("/metrics").await {
                Err(CommandFailure::Unreachable { .. }) => return Ok(()),
                Err(failure) => return Err(failure),
                Ok(reply) => {
                    let watchers = Scrape::parse(reply.body()).sum("muster_edge_sessions", "");
                    // A control plane has no such figure. An unchanged number is not worth another line.
                    if watchers.is_some() && watchers != reported {
                        screen.note(&format!("{} watchers remain", watchers.unwrap_or_default()));
                        reported = watchers;
                    }
                }
            }
            if Instant::now() > deadline {
                let timeout = humantime::format_duration(self.timeout);
                return Err(CommandFailure::Unwell(format!(
                    "{} has not ended within {timeout}; it is still draining, --timeout allows more time",
                    process.server()
                )));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
