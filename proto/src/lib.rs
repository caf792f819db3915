//! The wire contracts of Muster, generated from the `.proto` files of this folder by `cargo xtask codegen`.
//!
//! The code is checked in, so that building needs no protocol compiler; a test regenerates it and fails when
//! it is stale. Nothing here has logic.

/// What travels over the bus between the planes.
pub mod event {
    /// Version 1.
    pub mod v1 {
        #![allow(
            missing_docs,
            nonstandard_style,
            clippy::all,
            unreachable_pub,
            reason = "generated from a .proto file"
        )]
        include!("gen/muster.event.v1.rs");
    }
}

/// The resumable watch of new clients.
pub mod watch {
    /// Version 1.
    pub mod v1 {
        #![allow(
            missing_docs,
            nonstandard_style,
            clippy::all,
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
        unreachable_pub,
        reason = "generated from a .proto file"
    )]
    include!("gen/proto.rs");
}

/// The encoded descriptors of all services here, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
