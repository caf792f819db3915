//! The instruments of this plane, one struct for each room that reports. This room knows no other room: the
//! rooms call it with plain numbers. Gauges that read a room are made in that room.
//!
//! Names of Service-Center (`service_center_…`) keep their labels, so that existing dashboards work. Our own
//! names start with `muster_`.

mod api;
mod keeper;
mod publisher;
mod registry;
pub(crate) mod view;

pub(crate) use api::ApiMetrics;
pub(crate) use keeper::KeeperMetrics;
pub(crate) use publisher::{PublishedBatch, PublisherMetrics};
pub(crate) use registry::RegistryMetrics;
pub(crate) use view::ViewMetrics;
