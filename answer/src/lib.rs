//! The answer to a find, byte by byte, as both planes give it.
//!
//! ```text
//! instances of a service ──▶ FindBody (plain, gzip) ─┐
//! digests of the services ─▶ revision_of ────────────┼─▶ reply: 200 or 304 with its headers
//! query of the request ───▶ FindQuery ───────────────┘
//! many finds in one request ▶ Batch, an Outcome for each ─▶ BatchReply
//! ```
//!
//! A control plane answers from its view and a gateway from what it follows. Both call the functions of this
//! crate, so bodies, revisions and headers cannot differ. A [`Resolution`] is the part that only a control
//! plane knows: the services that answer.
//!
//! Everything here is pure.

pub mod batch;
pub mod beats;
pub mod body;
pub mod gzip;
pub mod pieces;
pub mod query;
pub mod reply;
pub mod resolution;
pub mod revision;
pub mod shown;
pub mod stale;
pub mod tag;
pub mod target;

pub use body::FindBody;
pub use resolution::Resolution;
pub use revision::{instance_revision, is_current, revision_of};
pub use shown::Shown;
