//! The parts of system tests: real processes, links that can be cut, one deadline.
//!
//! | room | holds |
//! | --- | --- |
//! | [`process`] | a child process: its log, its signals, its end |
//! | [`etcd`], [`nats`] | the two servers we depend on, on ports and directories of their own |
//! | [`prometheus`] | a Prometheus that scrapes our programs and answers queries |
//! | [`collector`] | a collector of their exports |
//! | [`link`] | a TCP link that can be cut, frozen and slowed |
//! | [`world`] | a whole system of our programs |
//! | [`client`], [`watcher`] | a client of the API, and a watcher |
//! | [`oracle`] | the truth, the receipts of watchers, and their comparison |
//! | [`readers`] | readers of the dialects, whose answers the oracle judges |
//! | [`load`] | random writers, bursts, and readers that check replies |
//! | [`hostile`] | clients that mean harm |
//! | [`probes`] | what orchestrators and Prometheus ask admin ports |
//! | [`certificates`] | a short-lived authority and its certificates |
//! | `reason` | the message of a failed test, repeated below the logs |
//! | [`eventually()`] | waiting for a condition, never for a time |
//!
//! Every process started here is ended, by its process id, when its handle is dropped. When a test fails, the
//! logs of its processes are printed.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

pub mod certificates;
pub mod client;
pub mod collector;
pub mod etcd;
pub mod eventually;
pub mod hostile;
pub mod link;
pub mod load;
pub mod nats;
pub mod oracle;
pub mod port;
pub mod probes;
pub mod process;
pub mod prometheus;
pub mod readers;
mod reason;
pub mod watcher;
pub mod world;

pub use certificates::{Authority, Identity};
pub use client::{Answer, Client};
pub use collector::Collector;
pub use etcd::Etcd;
pub use eventually::{deadline, eventually};
pub use link::{Direction, Link};
pub use nats::Nats;
pub use process::Process;
pub use prometheus::Prometheus;
pub use watcher::{Seen, Watcher};
pub use world::{Node, Pair, Plan, World};
