//! The edge gateway: holds the watchers, pushes every instance change to them, passes everything else on.
//!
//! ```text
//! bus ──▶ upstream ──▶ hub (shards) ──▶ session ──▶ wire ──▶ watcher
//!            └── asks the control plane for what was missed
//! ```
//!
//! | room | comes in | goes out |
//! | --- | --- | --- |
//! | [`app`] | configuration | the rooms, joined |
//! | `gateway` | requests | upgrades for the shards, requests for `forward` |
//! | `upstream` | events, interest, bookmarks, answers | pushes in order, each once |
//! | `hub` | pushes, sockets | bytes, written once per session whatever is pending |
//! | `session` | frames, time | what to write, when and why to end |
//! | `heartbeat` | pongs | heartbeats for `forward` |
//! | `wire` | bytes | frames, handshakes, refusals |
//! | [`forward`] | requests | answers of a control plane |
//! | `limits` | who wants to watch | a permit, or which limit is met |
//!
//! Rooms never import each other in a circle. Types that several rooms share live in modules of their own:
//! `watch` (groups, tickets, selectors), `push` (changes and their encodings), `close` (reasons to close a
//! session), `timer` (the wheel).

pub mod app;
mod close;
pub mod config;
pub mod forward;
mod gateway;
mod heartbeat;
mod hub;
mod limits;
mod metrics;
#[cfg(feature = "micro")]
pub mod micro;
pub mod process;
mod push;
mod session;
mod timer;
mod trace;
mod upstream;
mod watch;
mod wire;

pub use app::{App, StartError};
pub use config::Config;
