//! The commands, a file each: arguments in, requests to the registry, lines on the screen.

pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod find;
pub(crate) mod instances;
pub(crate) mod loadgen;
pub(crate) mod probe;
mod processes;
pub(crate) mod register;
pub(crate) mod services;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod unregister;
pub(crate) mod watch;
