//! The way to the upstream for other rooms: opening a watch, and reading its progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use answer::Shown;
use follow::read::Changes;
use follow::resume::ResumePoint;
use follow::tracker::Contents;
use host::inventory::Inventory;
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::debug;

use super::asking::{Asked, Change};
use super::holds::Following;
use super::inventory;
use super::requester::Requester;
use super::written::Written;
use crate::fanout::ShardHandle;
use crate::fanout::reach::ShardReach;
use crate::policy::Right;
use crate::push::Encoding;
use crate::reads::{Lease, Reads};
use crate::watch::{Full, Selector, Ticket};

/// The time in which a replica has to say what has changed. It does so in milliseconds, and a control plane can be asked
/// instead.
const CONFIRMING: Duration = Duration::from_secs(1);

/// A session's reservation.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The shard that will own the session.
    pub shard: ShardHandle,
    /// The reservation in that shard.
    pub ticket: Ticket,
}

/// The form and the part of changes that a session receives.
#[derive(Debug)]
pub(crate) struct Receives {
    /// The bytes.
    pub encoding: Encoding,
    /// The client's right, which may leave providers out.
    pub right: Option<Box<Right>>,
}

/// The channel on which a session that wants to begin is admitted or refused.
pub(crate) type Admission = oneshot::Sender<Result<Joined, Full>>;

/// A command to the upstream's task.
#[derive(Debug)]
pub(crate) enum Command {
    /// A session begins. From now on it misses nothing.
    Join {
        /// The service that watches; its id is empty when the client names none.
        watcher: ServiceRef,
        selector: Selector,
        receives: Receives,
        /// The point from which the client resumes. What it lacks is sent first.
        resumes: Option<ResumePoint>,
        admission: Admission,
    },
    /// A consumer is followed for its finds from now on.
    Hold { consumer: ServiceRef, lease: Arc<Lease> },
    /// A tenant is followed as a whole from now on.
    HoldTenant { tenant: Tenant, reader: Following },
    /// Someone wants to know how many watchers have been given a change.
    Ask { change: Change, asked: oneshot::Sender<Asked> },
    /// Someone wants to compare the gateway's contents with those of other processes.
    Contents(oneshot::Sender<Contents>),
}

/// A handle to the upstream's task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct UpstreamHandle {
    pub(super) requester: Requester,
    pub(super) reads: Reads,
    // When the channel is full, opening a watch waits. That is the back-pressure on clients that connect.
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) pushed: Arc<AtomicU64>,
    pub(super) written: Arc<Written>,
    pub(super) joined: watch::Receiver<bool>,
    pub(super) open_timeout: Duration,
}

impl UpstreamHandle {
    /// Reserves a session, and waits until its group has opened. Everything that is committed after the
    /// return will be sent to the session; if it resumes, also everything that its client lacks.
    ///
    /// Cancel-safe: a reservation that nobody waits for is released.
    ///
    /// # Errors
    /// `Some` when a limit on followed providers or on names is reached. `None` when no control plane replies
    /// within the configured time, or the gateway ends.
    pub(crate) async fn join(
        &self,
        watcher: ServiceRef,
        selector: Selector,
        receives: Receives,
        resumes: Option<ResumePoint>,
    ) -> Result<Joined, Option<Full>> {
        let joining = async {
            let (admission, joined) = oneshot::channel();
            self.commands
                .send(Command::Join { watcher, selector, receives, resumes, admission })
                .await
                .ok()?;
            joined.await.ok()
        };
        let joined = tokio::time::timeout(self.open_timeout, joining).await.ok().flatten();
        joined.ok_or(None)?.map_err(Some)
    }

    /// The inventory of the providers that are followed. `None` when the upstream has ended or does not reply
    /// in time.
    pub(crate) async fn known(&self) -> Option<Inventory> {
        let reading = async {
            let (sender, contents) = oneshot::channel();
            self.commands.send(Command::Contents(sender)).await.ok()?;
            contents.await.ok()
        };
        tokio::time::timeout(self.open_timeout, reading).await.ok()?.map(inventory::describe)
    }

    /// The watchers here that have been given a change. `None` when this gateway has not followed the store
    /// that far, or is too busy.
    pub(crate) async fn reach(&self, change: Change) -> Option<ShardReach> {
        let most = change.most;
        let (sender, asked) = oneshot::channel();
        self.commands.send(Command::Ask { change, asked: sender }).await.ok()?;
        let mut all = ShardReach::default();
        for answer in asked.await.ok()?? {
            let mut of_shard = answer.await.ok()?;
            all.watchers += of_shard.watchers;
            all.reached += of_shard.reached;
            all.moving += of_shard.moving;
            all.waiting.append(&mut of_shard.waiting);
        }
        all.waiting.truncate(most);
        Some(all)
    }

    /// The highest revision that is known here.
    pub(crate) fn seen(&self) -> Revision {
        self.requester.seen()
    }

    /// The incarnation of the store, as far as it is known here.
    pub(crate) fn incarnation(&self) -> Option<u64> {
        self.requester.incarnation()
    }

    /// The revision that an answer to a read must contain: the highest that a watcher has been sent, or from
    /// which one begins, and that of the tenant's last write through this gateway.
    pub(crate) fn required_of(&self, tenant: Option<&Tenant>) -> Revision {
        let pushed = Revision::new(self.pushed.load(Ordering::Relaxed));
        tenant.map_or(pushed, |tenant| pushed.max(self.written.of(tenant)))
    }

    /// The same for a read that a control plane answers, which must also contain what earlier ones of the tenant have
    /// shown. What the gateway answers from its own state is not held to that.
    pub(crate) fn required_of_read(&self, tenant: Option<&Tenant>) -> Revision {
        let required = self.required_of(tenant);
        tenant.map_or(required, |tenant| required.max(self.written.shown_to(tenant)))
    }

    /// A control plane has answered a request of the tenant: a write at the revision `written`, or a read.
    /// `instances_of` names the one service whose instances the write is about. `None` for what an older control
    /// plane does not say.
    pub(crate) fn note_answer(
        &self,
        tenant: &Tenant,
        instances_of: Option<&ServiceRef>,
        written: Option<Revision>,
        shown: Option<Shown>,
    ) {
        if let Some(shown) = shown {
            let known = self.requester.incarnation();
            // A replica that has not noticed a restore yet counts revisions that the store may not reach for long.
            if known.is_some_and(|known| known != shown.incarnation.get()) {
                return;
            }
            // The gateway may have noted revisions before it heard of any incarnation, or of this one.
            self.written.belong_to(shown.incarnation);
        }
        match (written, shown) {
            (Some(rev), _) => self.written.note(tenant, instances_of, rev),
            (None, Some(shown)) => self.written.note_shown(tenant, shown.rev),
            (None, None) => {}
        }
    }

    /// The revision that contains the tenant's writes through this gateway, but for those of instances of one
    /// service.
    pub(crate) fn written_records(&self, tenant: &Tenant) -> Revision {
        self.written.records_of(tenant)
    }

    /// The revision that contains the writes of a service's instances through this gateway.
    pub(crate) fn written_to(&self, service: &ServiceRef) -> Revision {
        self.written.instances_of(service)
    }

    /// The gateway's own answers to finds.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Follows a consumer for its finds. Nothing happens while the upstream is busy: the next find tries
    /// again.
    pub(crate) fn hold(&self, consumer: ServiceRef, lease: Arc<Lease>) {
        let _ = self.commands.try_send(Command::Hold { consumer, lease });
    }

    /// Follows a tenant as a whole; it ends when nobody reads it for a while. Returns when its services are
    /// known. Cancel-safe.
    ///
    /// # Errors
    /// `Some` when a limit of this node is reached, `None` when the gateway ends.
    pub(crate) async fn hold_tenant(&self, tenant: &Tenant) -> Result<(), Option<Full>> {
        let (reader, followed) = oneshot::channel();
        let command = Command::HoldTenant { tenant: tenant.clone(), reader };
        self.commands.send(command).await.map_err(|_| None)?;
        followed.await.map_err(|_| None)?.map_err(Some)
    }

    /// The time for which a client waits for a state that is not known yet.
    pub(crate) fn patience(&self) -> Duration {
        self.open_timeout
    }

    /// Everything that changed since the last bookmark, up to a moment after the call. `None` when no replica
    /// can say it.
    pub(crate) async fn changes(&self) -> Option<Changes> {
        let since = self.reads.view().read.bookmark;
        if since == Revision::ZERO {
            return None;
        }
        match timeout(CONFIRMING, self.requester.try_changes(since)).await {
            Ok(Ok(changes)) => Some(changes),
            Err(_) => {
                debug!("no replica has said in time what has changed; asking a control plane for each find");
                None
            }
            Ok(Err(error)) => {
                debug!(%error, "no replica could say what has changed; asking a control plane for each find");
                None
            }
        }
    }

    /// True while the bus is joined, and a way to wait for a change of that.
    pub(crate) fn bus_joined(&self) -> watch::Receiver<bool> {
        self.joined.clone()
    }
}
