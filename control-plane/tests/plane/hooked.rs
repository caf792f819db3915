//! A store whose transactions a test can hold back.

use std::sync::Arc;

use async_trait::async_trait;
use control_plane::store::{
    LeaseId, RangeReply, RangeRequest, Store, StoreError, Txn, TxnReply, WatchStream,
};
use futures_util::future::BoxFuture;
use shared::model::Revision;

type Reply = BoxFuture<'static, Result<TxnReply, StoreError>>;

/// A store that leaves its transactions to a hook.
pub(crate) struct Hooked<H> {
    store: Arc<dyn Store>,
    hook: H,
}

impl<H: Fn(Arc<dyn Store>, Txn) -> Reply + Send + Sync + 'static> Hooked<H> {
    /// `hook` has each transaction, and the store to which it may give it.
    pub(crate) fn around(store: Arc<dyn Store>, hook: H) -> Arc<dyn Store> {
        Arc::new(Self { store, hook })
    }
}

#[async_trait]
impl<H: Fn(Arc<dyn Store>, Txn) -> Reply + Send + Sync + 'static> Store for Hooked<H> {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        self.store.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        (self.hook)(self.store.clone(), txn).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(prefix, from).await
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.store.barrier(prefix).await
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.store.compact(rev).await
    }

    fn endpoints(&self) -> Vec<String> {
        self.store.endpoints()
    }
}
