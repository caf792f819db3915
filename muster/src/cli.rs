//! The command line: every command and flag on one screen.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::command::{
    diff, doctor, drain, find, instances, loadgen, probe, register, services, status, top, unregister, watch,
};
use crate::failure::{Failure, STATUSES};
use crate::screen::{Format, Screen};
use crate::standalone;

/// A service registry that pushes.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = STATUSES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List services.
    Services(services::Services),
    /// List the instances of a service.
    Instances(instances::Instances),
    /// Find instances by name as a consumer does.
    Find(find::Find),
    /// Register a service and an instance of it.
    Register(register::Register),
    /// Remove an instance, or a service.
    Unregister(unregister::Unregister),
    /// Show how the registry is, or show and set how an instance is.
    Status(status::Status),
    /// Follow the changes of a service's providers.
    Watch(watch::Watch),
    /// Show what each process is doing.
    Top(top::Top),
    /// Compare what control planes and gateways know of the registry.
    Diff(diff::Diff),
    /// Look for what usually goes wrong, from the address to a push.
    Doctor(doctor::Doctor),
    /// Tell a process to drain, and wait until it has ended.
    Drain(drain::Drain),
    /// Put watchers and changes on a registry and measure how soon each watcher sees each change.
    Loadgen(loadgen::Loadgen),
    /// Ask an address once; for health checks in containers.
    Probe(probe::Probe),
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// Whom to ask, and how to show the answer.
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
    /// How to write the result.
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// How long to wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// Whom to trust at `https://` addresses, and who to say that we are.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct Trust {
    /// PEM file with the authorities to trust at https:// addresses. Default: the system's.
    #[arg(long, env = "MUSTER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file with our certificate, for servers that ask for one.
    #[arg(long, env = "MUSTER_CERTIFICATE", value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// PEM file with the key of our certificate.
    #[arg(long, env = "MUSTER_KEY", value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
}

impl Target {
    /// A server that is asked about itself, not about a tenant's services.
    pub(crate) fn process(server: url::Url, timeout: Duration, trust: Trust) -> Self {
        Self {
            server,
            domain: String::new(),
            project: String::new(),
            output: Format::default(),
            timeout,
            trust,
        }
    }
}

/// Parses `30s`, `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// All commands.
pub(crate) fn command() -> clap::Command {
    Cli::command().subcommand(standalone::command())
}

/// Carries out a command other than `standalone`, and returns the exit status.
pub(crate) async fn run(matches: &clap::ArgMatches, mut screen: Screen) -> u8 {
    let result = match Cli::from_arg_matches(matches) {
        Ok(cli) => carry_out(cli.command, &mut screen).await,
        Err(e) => Err(Failure::Usage(e.to_string())),
    };
    match result {
        Ok(()) => 0,
        // Whoever read the result has seen enough: `muster services | head`.
        Err(Failure::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            screen.note(&failure.to_string());
            failure.status()
        }
    }
}

async fn carry_out(command: Command, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Command::Services(it) => it.run(screen).await,
        Command::Instances(it) => it.run(screen).await,
        Command::Find(it) => it.run(screen).await,
        Command::Register(it) => it.run(screen).await,
        Command::Unregister(it) => it.run(screen).await,
        Command::Status(it) => it.run(screen).await,
        Command::Watch(it) => it.run(screen).await,
        Command::Top(it) => it.run(screen).await,
        Command::Diff(it) => it.run(screen).await,
        Command::Doctor(it) => it.run(screen).await,
        Command::Drain(it) => it.run(screen).await,
        Command::Loadgen(it) => it.run(screen).await,
        Command::Probe(it) => it.run().await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(), "muster", &mut script);
            screen.line(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Version => screen.line(concat!("muster ", env!("CARGO_PKG_VERSION"))),
    }
}
