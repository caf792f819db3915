//! The control plane: registry API, truth in the store, one watch, each event published once.
//!
//! ```text
//! api ──▶ registry ──txn──▶ store ──watch──▶ view ──▶ history ──▶ publisher ──▶ bus
//!            └───────reads──────────────────▶ │ ◀──────── responder ◀──questions── bus
//! ```
//!
//! Data flows one way; only [`app`] knows both ends of an arrow.

pub mod advertise;
mod api;
pub mod app;
pub mod carriage;
mod dependency_queue;
mod election;
pub mod inventory;
mod issuer_keys;
mod keeper;
pub mod keys;
mod metrics;
mod protector;
pub mod publisher;
pub mod record;
pub mod registry;
pub mod responder;
pub mod settings;
pub(crate) mod standing;
mod steward;
pub mod store;
mod token_keys;
mod trail;
pub use shared::version;
pub mod view;
