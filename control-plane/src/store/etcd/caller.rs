//! A call to etcd: on the present connection, within the deadline, and with the error translated.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error};

use super::calls::Calls;
use super::connection::{MemberConnection, MemberLink};
use super::fault;
use crate::store::StoreError;

/// Makes calls to etcd. Cheap to clone; clones share the connection and the bound of calls under way.
#[derive(Clone)]
pub(super) struct EtcdCaller {
    pub(super) link: MemberLink,
    pub(super) calls: Arc<Calls>,
    pub(super) timeout: Duration,
}

impl EtcdCaller {
    /// Makes a call on the current connection, within the deadline.
    pub(super) async fn call<T, F>(&self, call: impl FnOnce(&Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        // Only the very first connection is waited for, and that wait has the deadline as well.
        let connection = self.within(self.link.connection()).await?;
        self.call_on(&connection, call).await
    }

    pub(super) async fn call_on<T, F>(
        &self,
        connection: &MemberConnection,
        call: impl FnOnce(&Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        // Boxed, because the client library's futures have tens of kilobytes and would grow every caller's
        // future.
        let called = Box::pin(call(&connection.client));
        let result = self.calls.run(async { called.await.map_err(fault::translate) }).await;
        Self::judged(connection, result)
    }

    /// Makes a call on the current connection. If the caller has left when it ends, the result is undone.
    pub(super) async fn call_or_undo<T, F, U>(
        &self,
        call: impl FnOnce(&Client) -> F,
        undo: impl FnOnce(Client, T) -> U + Send + 'static,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
        U: Future<Output = ()> + Send,
    {
        let connection = self.within(self.link.connection()).await?;
        let called = Box::pin(call(&connection.client));
        let client = connection.client.clone();
        let called = async { called.await.map_err(fault::translate) };
        // Boxed, because the undoing is such a future, too.
        let running = self.calls.run_or_undo(called, |result| Box::pin(undo(client, result)));
        let result = Box::pin(running).await;
        Self::judged(&connection, result)
    }

    fn judged<T>(connection: &MemberConnection, result: Result<T, StoreError>) -> Result<T, StoreError> {
        // Only unavailability speaks against the member. A refusal is an answer.
        if matches!(result, Err(StoreError::Unavailable(_))) {
            connection.suspect();
        }
        result
    }

    pub(super) async fn within<T>(
        &self,
        future: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(self.timeout, future).await;
        answer.unwrap_or_else(|_| Err(self.calls.timed_out()))
    }
}
