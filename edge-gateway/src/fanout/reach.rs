//! The question of how many watchers have been given a change, and a shard's answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shared::model::{Revision, ServiceKey, ServiceRef};
use tokio::sync::oneshot;

use crate::push::Push;
use crate::watch::GroupId;

/// A question to a shard. The change was appended before for each group that it concerns.
#[derive(Debug)]
pub(crate) struct ReachQuestion {
    /// A revision before the change, and one that contains it.
    pub after: Revision,
    pub rev: Revision,
    /// Sessions that have left in this time may be on their way to another gateway.
    pub age: Duration,
    /// The provider.
    pub topic: u32,
    pub key: Arc<ServiceKey>,
    /// The groups that the change concerns, and for each whether the change came before its interest.
    pub groups: Vec<(GroupId, bool)>,
    /// The present state of what was changed, for sessions that began after the change.
    pub state: Vec<Arc<Push>>,
    /// Something that was changed is not there any more, so `state` does not tell all.
    pub incomplete: bool,
    /// The most sessions that the answer names.
    pub most: usize,
}

impl ReachQuestion {
    /// False for a question about what has been written so far, and about no change in particular. Nobody is
    /// told anything for it, and what is proven counts for this question alone.
    pub(crate) fn has_change(&self) -> bool {
        self.after < self.rev
    }
}

/// The way of a shard's answer.
pub(crate) type ReachAnswer = oneshot::Sender<ShardReach>;

/// A shard's answer.
#[derive(Debug, Default)]
pub(crate) struct ShardReach {
    /// The sessions that the change concerns.
    pub watchers: u64,
    /// The sessions among them that have acknowledged it, or something after it.
    pub reached: u64,
    /// The groups from which a session has left a moment ago before it had acknowledged the change.
    pub moving: u64,
    /// The first sessions that have not acknowledged it.
    pub waiting: Vec<WaitingWatcher>,
}

/// A session that has not acknowledged a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitingWatcher {
    /// The service that watches; its id is empty when the client named none. `None` until the connection is
    /// attached.
    pub consumer: Option<ServiceRef>,
    pub transport: &'static str,
    pub peer: Option<SocketAddr>,
    pub state: WaitingState,
    /// The time since the shard first looked for the acknowledgement.
    pub since: Duration,
}

/// The reason for which a session counts as one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitingState {
    /// Its connection has not been attached yet.
    Connecting,
    /// Bytes are pending that its client does not take.
    Unwritten,
    /// Its client has not answered the ping after the change, or its connection has not taken the bytes.
    Unanswered,
    /// It began after the change and knows no state, and has not been sent one yet.
    Untold,
    /// It is ending.
    Closing,
}

impl WaitingState {
    /// The word for the state, as operators read it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Unwritten => "unwritten",
            Self::Unanswered => "unanswered",
            Self::Untold => "untold",
            Self::Closing => "closing",
        }
    }
}
