//! The frames of a watcher with a changing interest.
//!
//! Such a watcher is told of an instance that becomes visible as created, however old it is, and of one that
//! is hidden as deleted although it is there. So a frame stands for a written state and not for a commit.
//! States come in their order; one that was told as deleted may be told as created again, and a delete may
//! come again.

use super::{ChangeKind, Commit, Findings, Walk};
use crate::oracle::{Ledger, Sight};

impl Walk<'_> {
    /// Checks a frame. Delays do not count: when an instance becomes visible is not known here.
    pub(super) fn see_visible(&mut self, ledger: &Ledger, sight: &Sight, out: &mut Findings) {
        let start = self.here.unwrap_or(0);
        let is_deleted = sight.kind == ChangeKind::Delete;
        let from = if is_deleted || self.hidden { start.saturating_sub(1) } else { start };
        let is_told = |commit: &Commit| commit.stamp == Some(sight.stamp);
        let place = self.commits.iter().position(is_told);
        let name = || ledger.name(sight.key);
        match place {
            None => {
                out.invented += 1;
                out.say(sight.key, || format!("{}: not committed: {:?} {}", name(), sight.kind, sight.stamp));
                return;
            }
            Some(place) if place < from => {
                let is_repeated = place + 1 == start;
                *(if is_repeated { &mut out.repeated } else { &mut out.reordered }) += 1;
                out.say(sight.key, || {
                    format!("{}: {:?} {} ({place}) after {start}", name(), sight.kind, sight.stamp)
                });
                return;
            }
            Some(place) => {
                if place >= self.known.max(self.base) {
                    out.delivered += 1;
                }
                self.here = Some(place + 1);
                self.known = self.known.max(place + 1);
                self.hidden = is_deleted;
            }
        }
        if sight.stamp != 0 && ledger.given(sight.stamp).is_none_or(|at| at > sight.at) {
            out.invented += 1;
            out.say(sight.key, || format!("{}: told before it was written: {}", name(), sight.stamp));
        }
    }
}
