//! Writes `proto/src/gen` from the `.proto` files, with a compiler in Rust: no `protoc` is needed.

use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;

const FILES: [&str; 3] =
    ["muster/event/v1/event.proto", "muster/watch/v1/watch.proto", "servicecenter/services.proto"];

/// Regenerates the checked-in code; `proto/tests/generated.rs` fails when it is stale.
pub(crate) fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let descriptors = protox::compile(FILES, [&root]).context("the .proto files do not compile")?;
    let out = root.join("src/gen");
    // What gRPC reflection tells clients about the services.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .out_dir(&out)
        .compile_fds(descriptors)
        .context("code generation failed")
}
