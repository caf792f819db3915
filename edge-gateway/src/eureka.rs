//! The registry as Eureka's clients know it: their model and codecs, the two worlds translated, and what each
//! of them is told.
//!
//! ```text
//! catalogue ──▶ feed (one task for each tenant) ──▶ book ──▶ pages ──▶ bodies, each made once
//! registration ──▶ json ──▶ record ──▶ a service and an instance of the registry
//! ```
//!
//! Only `feed` does something by itself; the rest is pure. The HTTP side is in the gateway, which also sends
//! the writes to a control plane.

mod apps;
mod bodies;
mod book;
mod feed;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod json;
mod model;
mod path;
mod record;
mod xml;

#[cfg(test)]
mod tests;

pub(crate) use apps::{
    Application, Applications, Listed, Member, application_of, earlier_of, hash, is_found_by, listed,
};
pub(crate) use bodies::{Amount, Form, Format, body};
pub(crate) use book::Page;
pub(crate) use feed::Feeds;
pub(crate) use json::{Detail, read};
pub(crate) use model::{ActionType, Info, Status};
pub(crate) use path::{Asked, Operation, Place, is_eureka, is_renewal};
pub(crate) use record::{
    RECORD, properties_with, record_of, registry_id, service_name, service_version, status_after, to_instance,
};
