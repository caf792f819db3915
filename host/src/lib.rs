//! What surrounds the rooms of every Muster program.
//!
//! | room | holds |
//! | --- | --- |
//! | [`program`] | starts and stops a program: logs, signals, the admin port, settings that change |
//! | [`lifecycle`] | owned tasks; drain, abort and signals |
//! | [`http`] | serves HTTP on a listener: bounded, drained, in the header case that old clients need |
//! | [`tls`] | certificates of listeners and clients, read again when they change |
//! | [`telemetry`] | logs, metrics and traces: the only room that names a subscriber or an exporter |
//! | [`admin`] | the admin port's `/live`, `/ready` and `/metrics` |
//! | [`inventory`] | what this process knows of the registry, reported for comparison with other processes |
//!
//! Nothing here knows services or instances, except the inventory's names.

pub mod admin;
pub mod http;
pub mod inventory;
pub mod lifecycle;
pub mod program;
pub mod telemetry;
pub mod tls;
