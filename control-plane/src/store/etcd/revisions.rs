//! The store's revision, as it is now. Calls that wait together share one question, which always runs in the
//! usual lane: otherwise calls of the usual lane would wait for a thread of the slow one.

use etcd_client::GetOptions;
use shared::model::Revision;
use tokio::sync::watch;

use super::barrier::Barrier;
use super::caller::EtcdCaller;
use super::connection::MemberConnection;
use super::convert;
use crate::store::StoreError;

/// The questions for the store's revision.
pub(super) struct Revisions {
    caller: EtcdCaller,
    barrier: Barrier,
    newest: Barrier,
    /// The highest revision of a barrier. Watches request progress when it rises.
    wanted: watch::Sender<Revision>,
}

impl Revisions {
    pub(super) fn new(caller: EtcdCaller) -> Self {
        let wanted = watch::Sender::new(Revision::ZERO);
        Self { caller, barrier: Barrier::default(), newest: Barrier::default(), wanted }
    }

    /// The revision up to which watches have to come by themselves.
    pub(super) fn wanted(&self) -> watch::Receiver<Revision> {
        self.wanted.subscribe()
    }

    /// A revision that covers everything before this call, and that watches reach by themselves.
    pub(super) async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.caller.within(self.barrier.pass(prefix, || self.round_trip(prefix))).await
    }

    /// A revision that covers everything before this call.
    pub(super) async fn newest(&self, prefix: &str) -> Result<Revision, StoreError> {
        let read = || async {
            let connection = self.caller.within(self.caller.link.connection()).await?;
            if connection.progress_is_in_order {
                // Its barrier is such a read.
                return self.round_trip(prefix).await;
            }
            self.read_revision(&connection, prefix).await
        };
        self.caller.within(self.newest.pass(prefix, read)).await
    }

    /// One round trip of a barrier.
    async fn round_trip(&self, prefix: &str) -> Result<Revision, StoreError> {
        let connection = self.caller.within(self.caller.link.connection()).await?;
        if !connection.progress_is_in_order {
            // These versions may report progress before the events it covers. Only an event of our own proves
            // that the earlier ones have come.
            let key = format!("{prefix}muster/barrier");
            let put = self.caller.call_on(&connection, |client| {
                let mut kv = client.kv_client();
                async move { kv.put(key, "", None).await }
            });
            return Ok(convert::header_revision(put.await?.header()));
        }
        let revision = self.read_revision(&connection, prefix).await?;
        // Only a higher revision wakes the watches, since each wake-up costs a progress request.
        self.wanted.send_if_modified(|wanted| {
            let higher = *wanted < revision;
            *wanted = revision.max(*wanted);
            higher
        });
        Ok(revision)
    }

    /// The store's revision, by a linearizable read.
    async fn read_revision(
        &self,
        connection: &MemberConnection,
        prefix: &str,
    ) -> Result<Revision, StoreError> {
        let options = GetOptions::new().with_limit(1).with_keys_only();
        let key = convert::start(prefix);
        let get = self.caller.call_on(connection, |client| {
            let mut kv = client.kv_client();
            async move { kv.get(key, Some(options)).await }
        });
        Ok(convert::header_revision(get.await?.header()))
    }
}
