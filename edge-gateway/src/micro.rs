//! The inner rooms, opened for the micro-benches. Only with the feature `micro`, which no program uses.

use std::sync::Arc;

use shared::event::InstanceEvent;

use crate::fanout::merge::Merged;
use crate::push::{Encoding, Push};

pub use crate::fanout::shard::micro::Dispatch;
pub use crate::upstream::micro::Lookup;

/// Encodes an event as a plain WebSocket frame; returns the number of bytes.
pub fn websocket_frame(event: &InstanceEvent) -> usize {
    Push::of(0, event).frame(Encoding::Plain).len()
}

/// Encodes an event as a message of `muster.watch.v1`; returns the number of bytes.
pub fn grpc_message(event: &InstanceEvent) -> usize {
    Push::of(0, event).frame(Encoding::Grpc).len()
}

/// The merged pushes of a watcher that is behind.
#[derive(Default)]
pub struct Merging(Merged);

impl Merging {
    /// Adds a push; true if it was merged into one that was pending.
    pub fn add(&mut self, event: &InstanceEvent) -> bool {
        self.0.add(&Arc::new(Push::of(0, event)))
    }
}
