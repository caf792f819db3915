//! Every instrument of this plane, one struct a room.
//!
//! Old names (`service_center_…`) keep their labels, so that existing dashboards work; ours start with
//! `muster_`.

mod api;
mod publisher;
mod registry;
mod totals;
pub(crate) mod view;

pub use api::ApiMetrics;
pub use publisher::PublisherMetrics;
pub use registry::RegistryMetrics;
pub use totals::observe_totals;
pub use view::{ViewMetrics, observe_view};
