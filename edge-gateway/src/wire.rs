//! What goes over the wire between the gateway and its clients: frames, handshakes, refusals.

use std::sync::Arc;

use serde::Serialize;
use shared::model::{Instance, Revision, ServiceKey};

pub(crate) mod frame;
#[cfg(test)]
mod fuzz;
pub(crate) mod grpc;
pub(crate) mod refusal;
pub(crate) mod route;
mod text;
pub(crate) mod ws;

#[derive(Serialize)]
struct Bookmark {
    action: &'static str,
    rev: Revision,
}

#[derive(Serialize)]
struct Reset<'a> {
    action: &'static str,
    key: &'a ServiceKey,
    instances: &'a [Arc<Instance>],
    rev: Revision,
    since: Revision,
}

/// The text that tells a resumable client that it has everything up to `rev`.
pub(crate) fn bookmark_json(rev: Revision) -> Vec<u8> {
    serde_json::to_vec(&Bookmark { action: "BOOKMARK", rev }).expect("plain fields always serialise")
}

/// The text that tells a resumable client the complete state of a provider at `rev`; of the others it has
/// everything up to `since`.
pub(crate) fn reset_json(
    key: &ServiceKey,
    instances: &[Arc<Instance>],
    rev: Revision,
    since: Revision,
) -> Vec<u8> {
    serde_json::to_vec(&Reset { action: "RESET", key, instances, rev, since })
        .expect("maps with text keys and plain fields always serialise")
}
