//! The inner rooms as the micro-benches see them. Only with the feature `micro`; no program uses it.

use std::sync::Arc;

use shared::event::InstanceEvent;

use crate::fanout::merge::Merged;
use crate::push::{Encoding, Push};

pub use crate::fanout::shard::micro::Dispatch;
pub use crate::upstream::micro::Lookup;

/// An event as a WebSocket frame of the old kind; its bytes.
pub fn websocket_frame(event: &InstanceEvent) -> usize {
    Push::of(0, event).frame(Encoding::Plain).len()
}

/// An event as a message of `muster.watch.v1`; its bytes.
pub fn grpc_message(event: &InstanceEvent) -> usize {
    Push::of(0, event).frame(Encoding::Grpc).len()
}

/// The pending changes of a watcher that is behind.
#[derive(Default)]
pub struct Merging(Merged);

impl Merging {
    /// Adds a change; true if it was merged into one that was pending.
    pub fn add(&mut self, event: &InstanceEvent) -> bool {
        self.0.add(&Arc::new(Push::of(0, event)))
    }
}
