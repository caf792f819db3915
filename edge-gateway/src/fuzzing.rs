//! A window into the readers of clients' bytes, for the fuzz targets. It exists only with the feature
//! `fuzzing`, which no program enables.

pub use crate::codec::fuzz::frames;
pub use crate::eureka::fuzz::registrations;
pub use crate::gateway::fuzz::{paths, watches};
pub use crate::xds::fuzz::streams;
