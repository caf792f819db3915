//! Types and rules that both planes of Muster share.
//!
//! | room | holds |
//! | --- | --- |
//! | [`model`] | services, instances, keys and revisions, in the form that clients and the store use |
//! | [`endpoint`] | addresses that instances are registered with, read |
//! | [`event`] | a change of an instance, its position in the order, its bytes on the bus |
//! | [`subject`] | the grammar of bus subjects: built and parsed here, nowhere else |
//! | [`clock`], [`backoff`] | time as a parameter; longer pauses after each failure |
//! | [`maybe`] | futures that may be absent |
//! | [`version`] | versions of services, and the rules that choose among them |
//!
//! Code that only one plane uses belongs to that plane.

pub mod backoff;
pub mod clock;
pub mod endpoint;
pub mod event;
pub mod maybe;
pub mod model;
pub mod subject;
pub mod version;
