//! The way to the upstream: opening a watch, and what others may know of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host::inventory::Known;
use shared::model::Revision;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Selector, Standing};
use crate::fanout::ShardHandle;
use crate::push::Encoding;
use crate::watch::Full;
use crate::watch::Ticket;

/// Where a session that is being upgraded belongs.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Its shard.
    pub shard: ShardHandle,
    /// Its place there.
    pub ticket: Ticket,
}

/// Where a session that wants to begin hears whether it may.
pub(crate) type Admission = oneshot::Sender<Result<Joined, Full>>;

/// What the upstream is asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// A session begins: from now on nothing it should see is missed.
    Join {
        selector: Selector,
        encoding: Encoding,
        /// What the client has already; the rest is told first.
        since: Option<Revision>,
        done: Admission,
    },
    /// Someone compares what is known here with what others know.
    Tell(oneshot::Sender<Standing>),
}

/// What others may know of the upstream.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamHandle {
    // Full: who opens a watch waits.
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) pushed: Arc<AtomicU64>,
    pub(super) joined: watch::Receiver<bool>,
    pub(super) open_timeout: Duration,
}

impl UpstreamHandle {
    /// Reserves a place for a session, and waits until its view has begun: what is committed after the return is
    /// told to the session, and with `since` also what was committed after that revision.
    ///
    /// # Errors
    /// `Some` when the node follows as many providers as it may; `None` when the control plane cannot be asked
    /// in time, or the gateway ends.
    pub(crate) async fn join(
        &self,
        selector: Selector,
        encoding: Encoding,
        since: Option<Revision>,
    ) -> Result<Joined, Option<Full>> {
        let joining = async {
            let (done, joined) = oneshot::channel();
            self.commands.send(Command::Join { selector, encoding, since, done }).await.ok()?;
            joined.await.ok()
        };
        let joined = tokio::time::timeout(self.open_timeout, joining).await.ok().flatten();
        joined.ok_or(None)?.map_err(Some)
    }

    /// What is known of the providers that are followed. `None` when the upstream has ended or does not answer in time.
    pub(crate) async fn known(&self) -> Option<Known> {
        let asking = async {
            let (told, standing) = oneshot::channel();
            self.commands.send(Command::Tell(told)).await.ok()?;
            standing.await.ok()
        };
        tokio::time::timeout(self.open_timeout, asking).await.ok()?.map(Standing::into_known)
    }

    /// The highest revision that any watcher was told of, or from which on one is.
    pub(crate) fn pushed(&self) -> Revision {
        self.pushed.load(Ordering::Relaxed)
    }

    /// Whether the bus is joined, and its changes.
    pub(crate) fn bus_joined(&self) -> watch::Receiver<bool> {
        self.joined.clone()
    }
}
