//! Follows the control planes' policy: requests it when a bookmark names another one than is held.

use std::sync::Arc;
use std::time::Duration;

use access::Bundle;
use access::bundle::BundleError;
use bus::{Bus, BusError, Message};
use futures_util::StreamExt as _;
use host::admin::Condition;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::backoff::Backoff;
use shared::model::{PolicyVersion, Revision};
use shared::subject;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{DISABLED, PolicyHandle, Standing};
use crate::hedge::Hedge;

/// The first pause between two requests.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two requests.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// The largest policy that is taken, in bytes: some hundred thousand accounts.
const LARGEST: usize = 64 << 20;

/// The task that keeps the policy up to date.
pub(crate) struct Follower {
    pub(crate) handle: PolicyHandle,
    pub(crate) bus: Arc<dyn Bus>,
    /// Sends requests that are not answered soon to all replicas.
    pub(crate) hedge: Hedge,
    /// The longest wait for one part of a reply.
    pub(crate) timeout: Duration,
    /// The condition of readiness, where access control is demanded.
    pub(crate) condition: Option<Condition>,
}

/// The reason for which a request gave no policy.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("the bus did not carry the request or its reply")]
    Bus(#[from] BusError),
    #[error("the reply is incomplete")]
    Incomplete,
    #[error("the reply is too large")]
    TooLarge,
    #[error("the replica declined the request: {0}")]
    Declined(String),
    #[error("the reply cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    #[error("the reply is no policy")]
    Bundle(#[from] BundleError),
    #[error("the replica has another policy than the publisher")]
    Another,
}

impl Follower {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(self) {
        let mut wanted = self.handle.0.wanted.subscribe();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let version = *wanted.borrow_and_update();
            // Where access control is not demanded, a publisher's bookmark must name a policy first: control
            // planes of earlier versions have none.
            let is_needed = version.is_some() || self.handle.0.config.enable;
            if !is_needed || self.handle.satisfies(version) {
                self.show();
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.request(version).await {
                Ok(()) => {
                    backoff.reset();
                    self.show();
                    // It may be a later one than was asked for; then the next bookmark says if it will do.
                    if wanted.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    debug!(%error, "the access policy was not received and will be requested again");
                    self.handle.0.metrics.failed();
                    self.show();
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn request(&self, wanted: Option<PolicyVersion>) -> Result<(), RequestError> {
        let bundle = self.fetch(wanted).await?;
        let policy = bundle.read()?;
        let (enabled, accounts, roles) = (policy.enabled, policy.accounts.len(), policy.roles.len());
        if !self.handle.take(wanted, bundle.version, policy) {
            return Err(RequestError::Another);
        }
        let revision = bundle.version.revision.get();
        info!(revision, enabled, accounts, roles, "the access policy has changed");
        if enabled && !self.handle.0.config.enable {
            warn!(
                "the control planes demand access control and this gateway's settings do not; set rbac.enable here, \
                 too, or after its next start everybody may watch until the policy has arrived"
            );
        }
        if !enabled && self.handle.0.config.enable {
            warn!("{DISABLED}, so it lets nothing in; set rbac.enable there too, or nowhere");
        }
        Ok(())
    }

    async fn fetch(&self, wanted: Option<PolicyVersion>) -> Result<Bundle, RequestError> {
        let min_rev = wanted.map_or(Revision::ZERO, |wanted| wanted.revision).get();
        let request = Message::new(subject::RPC_POLICY, pb::PolicyRequest { min_rev }.encode_to_vec());
        let mut parts = self.hedge.request(&*self.bus, request, self.timeout).await?;
        let mut bundle = Bundle { version: PolicyVersion::default(), json: Vec::new() };
        let mut answer_id = None;
        let mut number = 0;
        loop {
            let message = parts.next().await.ok_or(RequestError::Incomplete)?;
            let part = pb::PolicyReply::decode(&*message.payload)?;
            // Several replicas may reply to a hedged request. The first one to reply is read to its end.
            if *answer_id.get_or_insert(part.answer) != part.answer {
                continue;
            }
            if !part.error.is_empty() {
                return Err(RequestError::Declined(part.error));
            }
            let version = PolicyVersion { revision: Revision::new(part.rev), digest: part.digest };
            if part.part != number || (number > 0 && version != bundle.version) {
                return Err(RequestError::Incomplete);
            }
            if bundle.json.len() + part.policy.len() > LARGEST {
                return Err(RequestError::TooLarge);
            }
            bundle.version = version;
            bundle.json.extend_from_slice(&part.policy);
            if !part.more {
                return Ok(bundle);
            }
            number += 1;
        }
    }

    /// Shows in the readiness whether a policy decides. A policy that becomes stale later changes nothing
    /// there: all gateways become stale together, and none of them could take the others' clients.
    fn show(&self) {
        let Some(condition) = &self.condition else { return };
        match self.handle.standing() {
            Standing::Closed(why, None) => condition.set(false, why),
            Standing::Closed(_, Some(_)) | Standing::Guarded(_) => condition.set(true, "known"),
            // Not possible where access control is demanded, and then not ready.
            Standing::Open => condition.set(false, "access control is off"),
        }
    }
}
