//! The fuzz targets: one function for everything that reads bytes from outside.
//!
//! | module | targets |
//! | --- | --- |
//! | `heads` | bytes on a connection of a listener |
//! | `gateway` (in edge-gateway) | frames, paths and gRPC requests of watches |
//! | `xds`, `eureka` (in edge-gateway) | streams of xDS; Eureka's paths and registrations |
//! | `registry` | requests of every kind, values in the store, version rules |
//! | `bus` | messages and subjects |
//! | `dns` | packets of DNS |
//! | `access` | tokens, records, keys |
//!
//! Each target runs in two ways. `cargo test -p muster-fuzz` gives it the corpus and some thousand edits of
//! it, on any machine; `MUSTER_FUZZ_TIMES=1000000` gives it more. `cargo xtask fuzz` runs it for as long as
//! wanted, guided by coverage, and adds to the corpus whatever reached new code.

mod access;
mod bus;
mod corpus;
mod dns;
mod heads;
// The control plane's own tests use it as well.
#[path = "../../control-plane/tests/plane/probe/mod.rs"]
mod probe;
mod registry;

pub use corpus::Corpus;

/// Something that reads input from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name, also that of its corpus.
    pub name: &'static str,
    /// Reads an input. A panic is a finding.
    pub run: fn(&[u8]),
    /// The edits that a plain test tries.
    pub times: u32,
}

/// All targets, by name.
pub const TARGETS: [Target; 14] = [
    Target { name: "bodies", run: registry::bodies, times: 500 },
    Target { name: "events", run: bus::events, times: 10_000 },
    Target { name: "frames", run: edge_gateway::fuzzing::frames, times: 10_000 },
    Target { name: "heads", run: heads::heads, times: 500 },
    Target { name: "paths", run: edge_gateway::fuzzing::paths, times: 10_000 },
    Target { name: "questions", run: dns::questions, times: 10_000 },
    Target { name: "records", run: access::records, times: 5_000 },
    Target { name: "registrations", run: edge_gateway::fuzzing::registrations, times: 10_000 },
    Target { name: "stored", run: registry::stored, times: 2_000 },
    Target { name: "streams", run: edge_gateway::fuzzing::streams, times: 10_000 },
    Target { name: "subjects", run: bus::subjects, times: 10_000 },
    Target { name: "tokens", run: access::tokens, times: 1_000 },
    Target { name: "versions", run: registry::versions, times: 10_000 },
    Target { name: "watches", run: edge_gateway::fuzzing::watches, times: 10_000 },
];

/// The target with this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
