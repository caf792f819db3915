//! The words both planes of Muster speak.
//!
//! | room | holds |
//! | --- | --- |
//! | [`model`] | services, instances, keys, revisions, as clients and the store spell them |
//! | [`event`] | a change of an instance, its place in the order, its bytes on the bus and in a frame |
//! | [`subject`] | the grammar of bus subjects: built and parsed here, nowhere else |
//! | [`bus`] | the trait [`bus::Bus`], NATS and in-process |
//! | [`lifecycle`] | owned tasks, drain, abort, signals |
//! | [`http`] | serves HTTP on a listener: bounded, drained, in the header case of old clients |
//! | [`telemetry`] | logs and metrics: the only room that names a subscriber or an exporter |
//! | [`admin`] | `/live`, `/ready`, `/metrics` |
//! | [`config`] | settings: declared once; flags, environment, file, help; read again while running |
//! | [`frame`] | what every program has around its rooms: logs, signals, the admin port, settings that change |
//! | [`known`] | what a process knows of the registry, for comparison with others |
//! | [`tls`] | certificates for listeners, read again when they change, and for those who connect |
//! | [`clock`], [`backoff`] | time as a parameter; waiting longer after each failure |
//!
//! A thing that only one plane uses lives in that plane.

pub mod admin;
pub mod backoff;
pub mod bus;
pub mod clock;
pub mod config;
pub mod event;
pub mod frame;
pub mod http;
pub mod known;
pub mod lifecycle;
pub mod model;
pub mod subject;
pub mod telemetry;
pub mod tls;
