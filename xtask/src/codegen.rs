//! Writes `proto/src/gen` from the `.proto` files, with a compiler in Rust: no `protoc` is needed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost::Message;

const FILES: [&str; 4] = [
    "muster/edge/v1/state.proto",
    "muster/event/v1/event.proto",
    "muster/watch/v1/watch.proto",
    "servicecenter/services.proto",
];

/// The part of Envoy's contract that the gateway speaks. Reflection does not show it: it is not the whole,
/// and its packages are not those of the contract.
const XDS: &str = "envoy/xds.proto";

/// The folder of the checked-in code.
pub fn checked_in() -> PathBuf {
    crate::run::root().join("proto/src/gen")
}

/// Writes the code into a directory; `proto/tests/generated.rs` compares it with what is checked in.
///
/// # Errors
/// When the `.proto` files do not compile, or the directory cannot be written.
pub fn generate(into: &Path) -> Result<()> {
    let root = crate::run::root().join("proto");
    let descriptors = protox::compile(FILES, [&root]).context("the .proto files do not compile")?;
    // gRPC reflection serves these descriptors to clients such as grpcurl.
    std::fs::write(into.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let all = protox::compile(FILES.into_iter().chain([XDS]), [&root])?;
    tonic_prost_build::configure()
        // Hash maps would be encoded in a different order each time. With sorted maps equal messages
        // have equal bytes.
        .btree_map(".")
        .out_dir(into)
        .compile_fds(all)
        .context("code generation failed")
}
