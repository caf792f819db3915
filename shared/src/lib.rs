//! The words both planes of Muster speak.
//!
//! | room | holds |
//! | --- | --- |
//! | [`model`] | services, instances, keys, revisions, as clients and the store spell them |
//! | [`event`] | a change of an instance, its place in the order, its bytes on the bus and in a frame |
//! | [`subject`] | the grammar of bus subjects: built and parsed here, nowhere else |
//! | [`clock`], [`backoff`] | time as a parameter; waiting longer after each failure |
//!
//! A thing that only one plane uses lives in that plane.

pub mod backoff;
pub mod clock;
pub mod event;
pub mod model;
pub mod subject;
