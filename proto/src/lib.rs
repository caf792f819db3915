//! The wire contracts of Muster, generated from the `.proto` files of this folder by `cargo xtask codegen`.
//!
//! The generated code is checked in, so a build needs no protocol compiler. A test generates it again and
//! fails if the checked-in code is stale. This crate has no logic of its own.

/// Messages on the bus between control planes and edge gateways.
pub mod event {
    /// Version 1.
    pub mod v1 {
        #![allow(
            missing_docs,
            nonstandard_style,
            clippy::all,
            clippy::allow_attributes_without_reason,
            unreachable_pub,
            reason = "generated from a .proto file"
        )]
        include!("gen/muster.event.v1.rs");
    }
}

/// The state that a gateway keeps on disk.
pub mod edge {
    /// Version 1.
    pub mod v1 {
        #![allow(
            missing_docs,
            nonstandard_style,
            clippy::all,
            clippy::allow_attributes_without_reason,
            unreachable_pub,
            reason = "generated from a .proto file"
        )]
        include!("gen/muster.edge.v1.rs");
    }
}

/// The resumable watch.
pub mod watch {
    /// Version 1.
    pub mod v1 {
        #![allow(
            missing_docs,
            nonstandard_style,
            clippy::all,
            clippy::allow_attributes_without_reason,
            unreachable_pub,
            reason = "generated from a .proto file"
        )]
        include!("gen/muster.watch.v1.rs");
    }
}

/// Service-Center's historical gRPC watch.
pub mod servicecenter {
    #![allow(
        missing_docs,
        nonstandard_style,
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated from a .proto file"
    )]
    include!("gen/proto.rs");
}

/// The part of xDS v3 that the gateway speaks.
pub mod envoy {
    #![allow(
        missing_docs,
        nonstandard_style,
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated from a .proto file"
    )]
    include!("gen/envoy.rs");
}

// Checked in like the code, because reflection must describe exactly the messages that this build encodes.
/// The encoded file descriptors of all services in this crate, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
