//! Another group beside the one under test.

use std::sync::Arc;

use follow::{GroupId, Push, Selector, Tracker};
use shared::model::{Revision, Scope, Tenant};

use super::Sim;

/// A watch of the whole tenant.
pub(super) struct Beside {
    pub(super) group: GroupId,
    pub(super) selector: Selector,
    /// The revision of the first reply about its interest.
    pub(super) opened: Option<Revision>,
    pub(super) delivered: Vec<Arc<Push>>,
}

impl Beside {
    pub(super) fn join(tracker: &mut Tracker) -> Self {
        let selector = Selector::Scope(Scope::all(Tenant::default()));
        let (group, _) = tracker.join(&selector);
        Self { group, selector, opened: None, delivered: Vec::new() }
    }
}

impl Sim {
    /// The selector of a group.
    pub(super) fn selector_of(&self, group: GroupId) -> &Selector {
        match &self.beside {
            Some(beside) if beside.group == group => &beside.selector,
            _ => &self.selector,
        }
    }

    pub(super) fn judge_beside(&self) -> Result<(), String> {
        let Some(beside) = &self.beside else { return Ok(()) };
        let opened = beside.opened.ok_or("the other group never opened")?;
        self.judge_order(&beside.delivered, opened, !self.merged)
    }
}
