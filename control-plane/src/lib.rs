//! The control plane: registry API, truth in the store, one watch, each event published once.

pub mod store;
