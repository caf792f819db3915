//! xDS v3: the services of a tenant in the form that Envoy and gRPC read.
//!
//! ```text
//! catalogue ──▶ hub (one task for each tenant) ──State──▶ streams ──▶ bytes
//!                │  └──▶ interest: wakes the streams that a change concerns
//!                groups ──resource──▶ encoded once, shared by all streams
//! ```
//!
//! In: the states of a tenant, and the messages of clients. Out: the bytes that each stream sends next.
//! `state` and `resource` know nothing of streams; [`stream`] knows nothing of services: it decides from
//! names and versions alone; `hub` ties a tenant's states to their readers; `readers` says which of their
//! clients have acknowledged a change.

mod address;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod hub;
mod interest;
mod kind;
mod name;
mod names;
mod readers;
mod resource;
mod state;
pub(crate) mod stream;
mod version;
pub(crate) mod wire;

pub(crate) use hub::{Discovery, Subscription};
pub(crate) use interest::News;
pub(crate) use kind::Method;
pub(crate) use readers::WaitingStream;
pub(crate) use state::Seen;
pub(crate) use version::Point;
