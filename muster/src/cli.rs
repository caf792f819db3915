//! The command line: every command on one screen, and the way from arguments to an exit status.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::command::{
    account, audit, certificate, diff, doctor, drain, find, init, instances, loadgen, login, overrides,
    probe, register, role, services, shift, status, store, timeline, token, top, unregister, watch,
};
use crate::failure::{CommandFailure, STATUSES};
use crate::screen::Screen;
use crate::standalone;

/// A service registry that pushes.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = STATUSES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// List services.
    Services(services::Services),
    /// List the instances of a service.
    Instances(instances::Instances),
    /// Find instances of a provider, as a consumer does.
    Find(find::Find),
    /// Register a service, and an instance of it.
    Register(register::Register),
    /// Remove an instance, or a whole service.
    Unregister(unregister::Unregister),
    /// Show the state of the registry, or show or set the status of an instance.
    Status(status::Status),
    /// Set, list and end overrides: what operators want of instances, beside what these report.
    Override(overrides::Override),
    /// Move traffic from some instances to others by weights, in steps.
    Shift(shift::Shift),
    /// Show the last changes of a service or an instance, with their causes.
    Timeline(timeline::Timeline),
    /// Print changes of instances as they happen.
    Watch(watch::Watch),
    /// Show the activity of each process, refreshed every few seconds.
    Top(top::Top),
    /// Compare the contents of control planes and gateways.
    Diff(diff::Diff),
    /// Check a registry, this machine or running processes for the usual faults, and say what to do.
    Doctor(doctor::Doctor),
    /// Make the keys, passwords and certificates of a site with access control.
    Init(init::Init),
    /// Log in, and keep the token for the other commands.
    Login(login::LogIn),
    /// Log out, and forget the token.
    Logout(login::LogOut),
    /// List, make and change accounts, and end their locks and sessions.
    Account(account::Account),
    /// List, make and change roles.
    Role(role::Role),
    /// Make, list and revoke long-lived tokens for programs.
    Token(token::Token),
    /// Read the audit log: each write and each refusal.
    Audit(audit::Audit),
    /// Make a certificate for a test site, and an authority that signs it.
    Certificate(certificate::Certificate),
    /// Drain a process, and wait until it has ended; or an instance, and wait until all watchers know.
    Drain(drain::Drain),
    /// Load a registry with watchers and changes, and measure how soon each watcher sees each change.
    Loadgen(loadgen::Loadgen),
    /// Succeed if an address answers with status 200; for health checks in containers.
    Probe(probe::Probe),
    /// Check the file of a standalone registry, or save what is whole in a damaged one.
    Store(store::Store),
    /// Print a completion script for a shell.
    Completions {
        /// The shell that will read the script.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// All commands. `standalone` is added by hand, because its flags come from the settings of both planes.
pub(crate) fn command() -> clap::Command {
    Cli::command().subcommand(standalone::command())
}

/// Runs a command other than `standalone`, and returns the exit status.
pub(crate) async fn run(matches: &clap::ArgMatches, mut screen: Screen) -> u8 {
    let result = match Cli::from_arg_matches(matches) {
        Ok(cli) => run_command(cli.command, &mut screen).await,
        Err(e) => Err(CommandFailure::Usage(e.to_string())),
    };
    match result {
        Ok(()) => 0,
        // The reader has closed the pipe because it has read enough, as in `muster services | head`.
        Err(CommandFailure::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            screen.note(&failure.to_string());
            failure.status()
        }
    }
}

async fn run_command(command: CliCommand, screen: &mut Screen) -> Result<(), CommandFailure> {
    match command {
        CliCommand::Services(services) => services.run(screen).await,
        CliCommand::Instances(instances) => instances.run(screen).await,
        CliCommand::Find(find) => find.run(screen).await,
        CliCommand::Register(register) => register.run(screen).await,
        CliCommand::Unregister(unregister) => unregister.run(screen).await,
        CliCommand::Status(status) => status.run(screen).await,
        CliCommand::Override(overrides) => overrides.run(screen).await,
        CliCommand::Shift(shift) => shift.run(screen).await,
        CliCommand::Timeline(timeline) => timeline.run(screen).await,
        CliCommand::Watch(watch) => watch.run(screen).await,
        CliCommand::Top(top) => top.run(screen).await,
        CliCommand::Diff(diff) => diff.run(screen).await,
        CliCommand::Doctor(doctor) => doctor.run(screen).await,
        CliCommand::Init(init) => init.run(screen),
        CliCommand::Login(login) => login.run(screen).await,
        CliCommand::Logout(logout) => logout.run(screen).await,
        CliCommand::Account(account) => account.run(screen).await,
        CliCommand::Role(role) => role.run(screen).await,
        CliCommand::Token(token) => token.run(screen).await,
        CliCommand::Audit(audit) => audit.run(screen).await,
        CliCommand::Certificate(certificate) => certificate.run(screen),
        CliCommand::Drain(drain) => drain.run(screen).await,
        CliCommand::Loadgen(loadgen) => loadgen.run(screen).await,
        CliCommand::Probe(probe) => probe.run().await,
        CliCommand::Store(store) => store.run(screen),
        CliCommand::Completions { shell } => {
            // Written into memory first: the generator panics when its output fails, and a closed pipe is no
            // bug.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(), "muster", &mut script);
            screen.line(String::from_utf8_lossy(&script).trim_end())
        }
        CliCommand::Version => screen.line(concat!("muster ", env!("CARGO_PKG_VERSION"))),
    }
}
