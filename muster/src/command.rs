//! The commands, one file each: arguments come in, requests go to the registry, lines go to the screen.

pub(crate) mod account;
pub(crate) mod audit;
pub(crate) mod certificate;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod find;
pub(crate) mod init;
pub(crate) mod instances;
pub(crate) mod loadgen;
pub(crate) mod login;
pub(crate) mod overrides;
pub(crate) mod probe;
pub(crate) mod register;
pub(crate) mod role;
pub(crate) mod services;
pub(crate) mod shift;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod timeline;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod unregister;
pub(crate) mod watch;

use crate::failure::CommandFailure;

/// Waits for SIGINT or SIGTERM. From the first poll on, the signals no longer end the process by themselves,
/// also after the future has been dropped; so a command keeps the future for its whole life.
async fn interrupted() -> Result<(), CommandFailure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = term.recv() => {}
    }
    Ok(())
}
