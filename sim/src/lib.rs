//! Simulators: the production logic of both planes, driven through losses, delays and fail-overs by dice.
//!
//! A simulation replaces only what is not logic: the network, the clock and the store's consensus. Everything
//! that decides is the code that runs in production. The gateway's side is the crate `follow`; the control
//! plane's side is its view, its publisher's term and its responder's replies, which travel as the same
//! bytes.
//!
//! | simulator | real | simulated |
//! | --- | --- | --- |
//! | [`lossy_bus`] | tracker | publisher, replicas, and a bus that loses messages |
//! | [`crowd`] | tracker with many groups, resuming | publisher, replicas, and a bus that loses messages; clients that break off |
//! | [`failover`] | tracker, resuming, views, terms, replies | store, seat, a bus that loses and reorders |
//! | [`liveness`] | reporters and keepers of heartbeats | instances, leases, seat, clocks, a bus that loses and reorders |
//!
//! A seed decides everything that happens, so a failure is repeated by its seed.

mod chain;
pub mod crowd;
pub mod failover;
pub mod liveness;
pub mod lossy_bus;
mod subscription;
