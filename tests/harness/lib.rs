//! What system tests are made of: real processes, links that can be cut, one deadline.
//!
//! | room | holds |
//! | --- | --- |
//! | [`process`] | a child process: its log, its signals, its end |
//! | [`etcd`], [`nats`] | the two servers we depend on, on ports and directories of their own |
//! | [`prometheus`] | who scrapes our programs, and answers queries |
//! | [`collector`] | who takes what they export |
//! | [`link`] | a TCP link that can be cut, frozen and slowed |
//! | [`world`] | a whole system of our programs |
//! | [`client`], [`watcher`] | who uses it |
//! | [`oracle`] | what was true, what watchers were told, and whether the two agree |
//! | [`load`] | random writers, bursts, and readers that are not to be lied to |
//! | [`certificates`] | an authority of a moment and what it signs |
//! | [`eventually()`] | waiting for something, never for a time |
//!
//! Everything started here is ended, by its process id, when it is dropped. When a test fails, the logs of its
//! processes are printed.

pub mod certificates;
pub mod client;
pub mod collector;
pub mod etcd;
pub mod eventually;
pub mod link;
pub mod load;
pub mod nats;
pub mod oracle;
pub mod port;
pub mod process;
pub mod prometheus;
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
