//! The store on etcd, for production.
//!
//! In: the calls of [`Store`]. Out: etcd's responses, in the types of the store. Creating the store never
//! fails. While etcd is away, calls fail at once with the reason, and the connection is tried again. Every
//! call has a deadline.
//!
//! | room | holds |
//! | --- | --- |
//! | `connection` | the connection to one member, replaced when it is lost |
//! | `watching` | one watch: whole revisions, and the check that it lives |
//! | `keep_alive` | one stream for the renewals of all leases |
//! | `caller` | a call: on the present connection, within the deadline, its error translated |
//! | `group` | transactions of one moment go as one |
//! | `pace` | the moment at which a group leaves |
//! | `calls` | calls that go on when their callers leave |
//! | `revisions` | questions for the store's revision, of which some tell watches as well |
//! | `barrier` | calls that wait together share a round trip |
//! | `version` | the versions of etcd with reliable progress responses |
//! | `convert`, `fault` | translation of types and of errors |

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, LeaseGrantOptions, LeaseGrantResponse};
use host::lane::in_usual;
use host::lifecycle::Tasks;
use shared::model::Revision;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    GroupFigures, LeaseId, LeaseTime, RangeReply, RangeRequest, Store, StoreError, StoreSpace, Txn, TxnReply,
    WatchItem, WatchStream,
};

mod barrier;
mod caller;
mod calls;
mod connection;
mod convert;
mod fault;
mod group;
mod keep_alive;
mod pace;
mod revisions;
mod version;
mod watching;

use caller::EtcdCaller;
use calls::Calls;
use connection::Connector;
use group::Group;
use keep_alive::{KeepAlives, Renewer};
use revisions::Revisions;
use watching::Liveness;

/// Ids that are tried before a long lease is given up.
const LONG_LEASE_TRIES: usize = 8;
/// The most bytes of one response. gRPC's own limit of 4 MB is less than a page of large values.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// The connection to etcd.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members, as `host:port` or URL. One is used at a time.
    pub endpoints: Vec<String>,
    /// Deadline of a call.
    pub request_timeout: Duration,
    /// Deadline of connecting, and of the check whether a silent member is alive.
    pub connect_timeout: Duration,
    /// Interval at which a watch requests progress, as a sign of life.
    pub watch_probe: Duration,
    /// A watch breaks when a progress request has no response for this long.
    pub watch_idle_timeout: Duration,
    /// The quota of a member in bytes, for versions that do not tell theirs (before 3.6).
    pub quota: u64,
    /// TLS settings; without them the connection is plain text.
    pub tls: Option<EtcdTls>,
    /// The user name and the password.
    pub user: Option<(String, String)>,
}

/// The member that is used when no endpoint is configured.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![DEFAULT_ENDPOINT.into()],
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            watch_probe: Duration::from_secs(3),
            watch_idle_timeout: Duration::from_secs(8),
            // etcd's own default.
            quota: 2 << 30,
            tls: None,
            user: None,
        }
    }
}

/// TLS towards etcd. Everything is in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// Certificates of the trusted authorities.
    pub ca_pem: Option<Vec<u8>>,
    /// The client certificate and its key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, if it differs from the host name.
    pub server_name: Option<String>,
}

/// A store on etcd. Its tasks end when the last handle is dropped.
pub struct EtcdStore {
    config: EtcdConfig,
    caller: EtcdCaller,
    keep_alives: KeepAlives,
    group: Group,
    revisions: Arc<Revisions>,
    _closed: DropGuard,
}

impl EtcdStore {
    /// Starts to connect, with tasks among `tasks`. They go on while `tasks` drain, because others still
    /// write then. Needs a runtime.
    pub fn connect(config: EtcdConfig, tasks: &Tasks) -> Arc<Self> {
        let closed = CancellationToken::new();
        let (connector, link) = Connector::new(config.clone());
        tasks.spawn_named("etcd_connector", connector.run(closed.clone(), tasks.abort().clone()));
        let (renewer, keep_alives) = Renewer::new(link.clone(), config.request_timeout);
        tasks.spawn_named("lease_renewer", renewer.run(closed.clone(), tasks.abort().clone()));
        let calls = Arc::new(Calls::new(tasks.clone(), config.request_timeout));
        let caller = EtcdCaller { link, calls, timeout: config.request_timeout };
        let (group, committer) = Group::new(caller.clone());
        tasks.spawn_named("group_commit", committer.run(closed.clone(), tasks.abort().clone()));
        let revisions = Arc::new(Revisions::new(caller.clone()));
        Arc::new(Self { config, caller, keep_alives, group, revisions, _closed: closed.drop_guard() })
    }

    /// The version of the member that this store is connected to.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn version(&self) -> Result<String, StoreError> {
        Ok(self.caller.within(self.caller.link.connection()).await?.version.clone())
    }

    /// Finds the compacted revision, which etcd leaves out of its errors: a watch from the beginning receives
    /// it.
    async fn with_compacted_revision<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let Err(StoreError::Compacted(Revision::ZERO)) = result else { return result };
        let mut watch = self.watch("", Revision::new(1)).await?;
        let told = async {
            match futures_util::StreamExt::next(&mut watch).await {
                Some(Err(error)) => Err(error),
                Some(Ok(WatchItem::Events(_) | WatchItem::Progress(_))) | None => result,
            }
        };
        self.caller.within(told).await
    }
}

impl EtcdStore {
    /// Grants a lease. One that nobody waits for any more is revoked: without keys no quota counts it, and
    /// clients that register and leave at once would fill the store with them.
    async fn grant_with(
        &self,
        ttl: i64,
        options: Option<LeaseGrantOptions>,
    ) -> Result<LeaseGrantResponse, StoreError> {
        let grant = |client: &Client| {
            let mut leases = client.lease_client();
            async move { leases.grant(ttl, options).await }
        };
        let revoke = |client: Client, granted: LeaseGrantResponse| async move {
            // If that fails it ends by itself.
            let _ = client.lease_client().revoke(granted.id()).await;
        };
        self.caller.call_or_undo(grant, revoke).await
    }

    /// Grants a lease whose id is made from a number by chance.
    async fn grant_as(&self, ttl: i64, id_of: fn(u32) -> LeaseId) -> Result<LeaseId, StoreError> {
        let ttl = ttl.max(1);
        let mut tries = 0;
        loop {
            let id = id_of(fastrand::u32(..));
            let options = LeaseGrantOptions::new().with_id(id.get());
            match self.grant_with(ttl, Some(options)).await {
                Ok(_) => return Ok(id),
                // Among a million, one new id in four thousand exists already.
                Err(StoreError::Refused(_)) if tries < LONG_LEASE_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        let options = convert::get_options(&request);
        let key = match &request.end {
            Some(_) => convert::start(&request.start),
            None => request.start.into_bytes(),
        };
        let result = self
            .caller
            .call(|client| {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
                async move { kv.get(key, Some(options)).await }
            })
            .await;
        let mut reply = self.with_compacted_revision(result).await?;
        Ok(RangeReply {
            more: reply.more(),
            revision: convert::header_revision(reply.header()),
            items: reply.take_kvs().into_iter().map(|kv| convert::key_value(kv.0)).collect(),
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        // Checked before the call: such a transaction would fail on every member.
        txn.check_length()?;
        // The deadline also covers the wait for the group.
        self.caller.within(self.group.commit(txn, &self.caller)).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        let granted = self.grant_with(ttl.max(1), None).await?.id();
        // etcd never grants 0, which means "no lease" in its protocol.
        LeaseId::new(granted).ok_or_else(|| StoreError::Unavailable("etcd granted the lease 0".into()))
    }

    async fn grant_long(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.grant_as(ttl, LeaseId::long).await
    }

    async fn grant_shared(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.grant_as(ttl, LeaseId::shared).await
    }

    async fn lease_time(&self, lease: LeaseId) -> Result<LeaseTime, StoreError> {
        let asked = self.caller.call(|client| {
            let mut leases = client.lease_client();
            async move { leases.time_to_live(lease.get(), None).await }
        });
        let told = asked.await?;
        // etcd tells of a lease that does not exist as one with a negative time.
        if told.ttl() < 0 {
            return Err(StoreError::LeaseNotFound);
        }
        let seconds = |time: i64| Duration::from_secs(time.max(0).unsigned_abs());
        Ok(LeaseTime { granted: seconds(told.granted_ttl()), remaining: seconds(told.ttl()) })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // The deadline is set here, because it also has to cover the wait for room in the queue.
        self.caller.within(self.keep_alives.renew(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.caller
            .call(|client| {
                let mut leases = client.lease_client();
                async move { leases.revoke(lease.get()).await }
            })
            .await
            .map(drop)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        let connection = self.caller.within(self.caller.link.connection()).await?;
        let liveness =
            Liveness { probe: self.config.watch_probe, idle_timeout: self.config.watch_idle_timeout };
        let open = watching::open(connection.clone(), prefix, from, self.revisions.wanted(), liveness);
        let result = self.caller.within(open).await;
        if matches!(result, Err(StoreError::Unavailable(_))) {
            connection.suspect();
        }
        result
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        let (revisions, prefix) = (self.revisions.clone(), prefix.to_owned());
        in_usual(Box::pin(async move { revisions.barrier(&prefix).await })).await
    }

    async fn newest(&self, prefix: &str) -> Result<Revision, StoreError> {
        let (revisions, prefix) = (self.revisions.clone(), prefix.to_owned());
        in_usual(Box::pin(async move { revisions.newest(&prefix).await })).await
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        let rev = convert::number(rev);
        let result = self
            .caller
            .call(|client| {
                let mut kv = client.kv_client();
                async move { kv.compact(rev, None).await }
            })
            .await;
        self.with_compacted_revision(result.map(drop)).await
    }

    async fn space(&self) -> Result<Option<StoreSpace>, StoreError> {
        let status = self.caller.call(|client| {
            let mut client = client.clone();
            async move { client.status().await }
        });
        let status = match status.await {
            // From 3.6 on only administrators may ask. Nothing is known then, which is no failure.
            Err(StoreError::Refused(_)) => return Ok(None),
            status => status?,
        };
        // Not the bytes in use: etcd compares the size of its file, which only a defragmentation reduces.
        let used = u64::try_from(status.db_size()).unwrap_or(0);
        let told = u64::try_from(status.db_size_quota()).unwrap_or(0);
        let quota = if told > 0 { told } else { self.config.quota };
        let full = status.errors().iter().any(|error| error.contains("NOSPACE"));
        Ok(Some(StoreSpace { used, quota, full }))
    }

    fn group_figures(&self) -> GroupFigures {
        self.group.figures()
    }

    fn endpoints(&self) -> Vec<String> {
        self.config.endpoints.clone()
    }
}
