//! The calls to the store: leases that are renewed and asked, and instances that are ended.

use std::time::Duration;

use liveness::{Key, Moment};
use shared::model::Revision;
use tracing::{debug, info};

use super::{RETRY, Renewal, Term};
use crate::keys;
use crate::store::{Compare, LeaseId, LeaseTime, Op, StoreError, Txn};

/// The remaining time of a lease is told in whole seconds, rounded down.
const ROUNDING: Duration = Duration::from_secs(1);
/// Renewals at once. They share one stream to the store.
const RENEWALS_AT_ONCE: usize = 512;

/// The result of a call to the store.
pub(super) enum Done {
    Asked {
        key: Key,
        lease: LeaseId,
        asked: Moment,
        outcome: Result<LeaseTime, StoreError>,
    },
    /// Where instances share a lease: the revision that wrote the lease key last.
    Seen {
        key: Key,
        lease: LeaseId,
        asked: Moment,
        outcome: Result<Revision, StoreError>,
    },
    Ended {
        key: Key,
        lease: LeaseId,
        /// The revision of the record that was to be ended. On a shared lease the instance may have registered
        /// again meanwhile.
        written_at: Revision,
        outcome: Result<bool, StoreError>,
    },
    Renewed {
        key: Key,
        lease: LeaseId,
        outcome: Result<(), StoreError>,
    },
}

impl Term<'_> {
    /// Renews the leases that are due, as many at once as is good for the store.
    pub(super) fn renew(&mut self) {
        while self.renewals.len() < RENEWALS_AT_ONCE
            && let Some((key, lease)) = self.due.pop()
        {
            // A shared lease is renewed for the others, too.
            if !lease.is_shared() && !self.is_of(key, lease) {
                continue;
            }
            let store = self.of.registry.store().clone();
            self.renewals.push(Box::pin(async move {
                Done::Renewed { key, lease, outcome: store.keep_alive(lease).await }
            }));
        }
    }

    /// A call to the store has ended.
    pub(super) fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Asked { key, lease, asked, outcome } if self.is_of(key, lease) => {
                self.asked(key, lease, asked, outcome);
            }
            Done::Seen { key, lease, asked, outcome } if self.is_of(key, lease) => {
                self.seen(key, lease, asked, outcome);
            }
            Done::Ended { key, lease, written_at, outcome: Ok(true) } => {
                self.of.metrics.ended();
                self.ended.push(key);
                // Unless the view has told it already.
                if self.keeper.get(key).is_some_and(|of| of.lease == lease && of.written_at == written_at)
                    && let Some(of) = self.keeper.forget(key)
                {
                    debug!(
                        instance.id = of.id,
                        service.id = of.service.id,
                        "the time of an instance is over"
                    );
                } else if self.is_of(key, lease) {
                    self.keeper.judge_again(key, now + RETRY);
                }
            }
            // Changed meanwhile, or not reached: the view or the next attempt tells.
            Done::Ended { key, lease, outcome: Ok(false) | Err(_), .. } if self.is_of(key, lease) => {
                self.keeper.judge_again(key, now + RETRY);
            }
            Done::Renewed { key, lease, outcome } => {
                self.of.metrics.renewed(outcome.is_ok());
                let is_renewed = outcome.is_ok();
                let after = if is_renewed { self.of.renew_after } else { RETRY * 5 };
                let next = Renewal { at: now + after, is_under_way: false };
                if lease.is_shared() {
                    // It says nothing of a single instance.
                    self.shared.insert(lease, next);
                } else if let Some(of) = self.keeper.get_mut(key).filter(|of| of.lease == lease) {
                    of.renewal = next;
                    if is_renewed {
                        self.keeper.renewed(key, now);
                    }
                }
            }
            // About a lease that the instance does not have any more.
            Done::Asked { .. } | Done::Seen { .. } | Done::Ended { .. } => {}
        }
    }

    /// True while the instance has this lease.
    pub(super) fn is_of(&self, key: Key, lease: LeaseId) -> bool {
        self.keeper.get(key).is_some_and(|of| of.lease == lease)
    }

    fn asked(&mut self, key: Key, lease: LeaseId, asked: Moment, outcome: Result<LeaseTime, StoreError>) {
        match outcome {
            Ok(time) => {
                // By the time of the question, so that a renewal is not taken for older than it is.
                let idle = time.granted.saturating_sub(time.remaining + ROUNDING);
                if self.keeper.settle(key, asked.saturating_sub(idle), asked) {
                    self.end(key, lease, None);
                }
            }
            // Its keys went with it. The view is about to tell.
            Err(StoreError::LeaseNotFound) => {
                self.ended.push(key);
                self.keeper.forget(key);
            }
            Err(error) => self.not_asked(key, &error),
        }
    }

    /// An instance that shares its lease was alive if its lease key has been written since it was looked at.
    fn seen(&mut self, key: Key, lease: LeaseId, asked: Moment, outcome: Result<Revision, StoreError>) {
        match outcome {
            Ok(rev) => {
                let Some(of) = self.keeper.get_mut(key) else { return };
                let has_beaten = rev > of.beat_at;
                of.beat_at = of.beat_at.max(rev);
                // When it has beaten is not known, so it may have been just before the question.
                let alive_at = if has_beaten { asked } else { Moment::ZERO };
                if self.keeper.settle(key, alive_at, asked) {
                    self.end(key, lease, Some(rev));
                }
            }
            Err(error) => self.not_asked(key, &error),
        }
    }

    fn not_asked(&mut self, key: Key, error: &StoreError) {
        let now = self.now();
        // Heartbeats that the store is told of may not have reached it either.
        self.keeper.begin_anew(now);
        self.keeper.judge_again(key, now + RETRY);
        info!(%error, "a lease could not be asked; every instance has its full time again");
    }

    /// Ends an instance, unless its lease key has been written after `noted`.
    pub(super) fn end(&mut self, key: Key, lease: LeaseId, noted: Option<Revision>) {
        let Some(of) = self.keeper.get(key) else { return };
        let instance = keys::instance(&of.service, &of.id);
        let mut compare = vec![
            // A publisher that has lost its seat ends nothing.
            Compare::ModRev(keys::PUBLISHER.into(), self.epoch),
            Compare::ModRev(instance.clone(), of.written_at),
        ];
        if let Some(noted) = noted {
            // Nor is an instance ended whose heartbeat has reached the store meanwhile.
            compare.push(Compare::ModRev(keys::lease(&of.service, &of.id), noted));
        }
        let txn = Txn {
            compare,
            // By themselves and not with a record of the size, as when a lease ends: so it is an expiry.
            then: vec![Op::Delete(instance), Op::Delete(keys::lease(&of.service, &of.id))],
            ..Txn::default()
        };
        let written_at = of.written_at;
        let store = self.of.registry.store().clone();
        self.calls.push(Box::pin(async move {
            let outcome = store.txn(txn).await.map(|reply| reply.succeeded);
            if matches!(outcome, Ok(true)) && !lease.is_shared() {
                // No key lives on it any more. If it stays, it ends by itself.
                let _ = store.revoke(lease).await;
            }
            Done::Ended { key, lease, written_at, outcome }
        }));
    }
}
