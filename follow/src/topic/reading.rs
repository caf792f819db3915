//! A topic's instances as finds read them: in the order of a reply, and shared with every reader.
//!
//! Kept beside the topic's own table, which is quicker to change, and only while a find may be answered from
//! it.

use std::sync::Arc;

use shared::model::{Instance, Revision};

use super::Topic;
use crate::read::{Body, Instances, size_of};

/// The instances of a topic that finds read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) instances: Instances,
    /// The size of all that, and of the bodies that are made of it, about.
    pub(crate) bytes: usize,
    /// A new cell for each state.
    pub(crate) body: Body,
}

impl Reading {
    pub(super) fn put(&mut self, instance: &Arc<Instance>, mod_rev: Revision) {
        self.take(&instance.instance_id);
        self.bytes += size_of(instance);
        self.instances.insert_mut(instance.instance_id.clone(), (instance.clone(), mod_rev));
        // A new cell, not a cleared one: readers of older states share the old cell and its body.
        self.body = Body::default();
    }

    pub(super) fn take(&mut self, id: &str) {
        if let Some((instance, _)) = self.instances.get(id) {
            self.bytes = self.bytes.saturating_sub(size_of(instance));
            self.instances.remove_mut(id);
            self.body = Body::default();
        }
    }
}

impl Topic {
    /// Keeps the instances for finds from now on.
    pub(crate) fn start_reading(&mut self) {
        if self.read.is_none() {
            let mut read = Reading::default();
            for (instance, mod_rev) in self.instances() {
                read.put(instance, mod_rev);
            }
            self.read = Some(Box::new(read));
        }
    }

    /// Does not keep them any more.
    pub(crate) fn stop_reading(&mut self) {
        self.read = None;
    }
}
