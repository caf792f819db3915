//! Questions of how many watchers have been given a change: to which shards and groups each of them goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use follow::tracker::{Reach, ReachedGroups};
use shared::model::{Revision, ServiceRef};
use tokio::sync::oneshot;

use super::Upstream;
use crate::fanout::ToShard;
use crate::fanout::reach::{ReachQuestion, ShardReach};

/// A change, and the watchers that are to be named.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The provider that was changed.
    pub provider: ServiceRef,
    /// A revision before the change, and one that contains it.
    pub after: Revision,
    pub rev: Revision,
    /// The instances that it is about.
    pub instances: Vec<String>,
    /// The time since it was begun to be written.
    pub age: Duration,
    /// The incarnation of the store that it was written to, as far as that is known.
    pub incarnation: Option<u64>,
    /// The most watchers that the answer names.
    pub most: usize,
}

/// The answers of the shards, as they come. `None` while the change may not have arrived here.
pub(crate) type Asked = Option<Vec<oneshot::Receiver<ShardReach>>>;

impl Upstream {
    /// Asks the shards about a change.
    pub(super) async fn ask_shards(&mut self, change: Change) -> Asked {
        // A find that is forwarded from now on is answered by a view that contains the change.
        self.pushed.fetch_max(change.rev.get(), Ordering::Relaxed);
        let known = self.resources.requester.incarnation();
        // Revisions of different histories cannot be compared.
        if known.is_some() && change.incarnation.is_some() && known != change.incarnation {
            return None;
        }
        let ReachedGroups { topic, key, groups, state, incomplete } =
            match self.tracker.reach(&change.provider, change.after, change.rev, &change.instances) {
                Reach::NotYet => return None,
                Reach::Nobody => return Some(Vec::new()),
                Reach::Groups(groups) => groups,
            };
        let question = Arc::new(ReachQuestion {
            after: change.after,
            rev: change.rev,
            age: change.age,
            topic,
            key,
            groups,
            state,
            incomplete,
            most: change.most,
        });
        let mut answers = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (answer, answered) = oneshot::channel();
            // A shard that has ended drops the question, and so does not answer it.
            shard.send(ToShard::Ask { question: question.clone(), answer }).await;
            answers.push(answered);
        }
        Some(answers)
    }
}
