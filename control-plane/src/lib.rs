//! The control plane: registry API, truth in the store, one watch, each event published once.

pub mod access;
pub mod api;
pub mod failure;
pub mod keys;
pub mod record;
pub mod registry;
pub mod store;
pub mod version;
pub mod view;
