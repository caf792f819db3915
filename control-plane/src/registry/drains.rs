//! Marks of drains: an instance takes no traffic for a time, until it is given back or unregistered.
//!
//! A mark is an override with an id of its own, so it stands beside an operator's override of the same
//! instance, and all that is true for overrides is true for it: the view merges it, a registration does not
//! undo it, and the steward ends it when its time is over. A gateway sets it, proves that every watcher knows
//! it, and ends it if the instance is to be given back.

use shared::model::ServiceRef;

use super::overrides::{put, written};
use super::service::existing;
use super::{Caller, Registry, RegistryError, validate};
use crate::keys;
use crate::view::overrides::{OverrideRecord, OverrideTarget};
use crate::view::{ServiceView, Snapshot};

/// The status of an instance that takes no traffic, as old clients know it.
const DRAINING: &str = "OUTOFSERVICE";
/// The longest time after which a drain ends, in seconds.
const LONGEST: u64 = 7 * 24 * 60 * 60;

/// The mark of a drain as its client wants it.
#[derive(Debug)]
pub(crate) struct DrainMark {
    /// The seconds after which it ends by itself.
    pub(crate) seconds: u64,
    /// The account that drains.
    pub(crate) owner: String,
    /// The reason, for people.
    pub(crate) reason: String,
}

impl Registry {
    /// Takes an instance out of the traffic. A drain that is in force already goes on, and never ends earlier
    /// than before. Returns the id of the override.
    pub(crate) async fn drain_instance(
        &self,
        service: &ServiceRef,
        instance: &str,
        mark: DrainMark,
    ) -> Result<String, RegistryError> {
        let DrainMark { seconds, owner, reason } = mark;
        validate::reason(&reason)?;
        if !(1..=LONGEST).contains(&seconds) {
            return Err(RegistryError::invalid(format!("parameter seconds must be 1 to {LONGEST}")));
        }
        let since = self.clock.seconds();
        let target = OverrideTarget::drain_of(instance);
        let id = target.id(service);
        let wish = OverrideRecord {
            target,
            status: DRAINING.to_owned(),
            owner,
            reason,
            since,
            until: since + seconds,
            ..OverrideRecord::default()
        };
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| with_instance(snapshot, service, instance).map(drop)).await?;
        let key = keys::override_of(service, &id);
        let wish = &wish;
        let id = &id;
        // In one turn with the other overrides of the service, so that they are counted one after the other.
        self.until_won(keys::override_of(service, ""), |snapshot| {
            let key = key.clone();
            async move {
                let view = with_instance(&snapshot, service, instance)?;
                let running = view.overrides.get(id).filter(|entry| entry.record.is_in_force());
                let until = running.map_or(wish.until, |entry| entry.record.until.max(wish.until));
                let txn = put(&snapshot, service, view, id, &OverrideRecord { until, ..wish.clone() })?;
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await?;
        Ok(id.clone())
    }

    /// Gives an instance back that is drained: clients see again what it reports, or what an override says.
    /// `by` is the account that wants it.
    pub(crate) async fn give_back(
        &self,
        service: &ServiceRef,
        instance: &str,
        by: &str,
    ) -> Result<(), RegistryError> {
        let id = &OverrideTarget::drain_of(instance).id(service);
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| in_force(snapshot, service, id).map(drop)).await?;
        let key = keys::override_of(service, id);
        self.until_won(keys::override_of(service, ""), |snapshot| {
            let key = key.clone();
            async move {
                let view = in_force(&snapshot, service, id)?;
                let entry = view.overrides.get(id).ok_or(RegistryError::NotDrained)?;
                let ended = OverrideRecord { ended_by: by.to_owned(), ..entry.record.clone() };
                let txn = written(service, id, Some(entry), &ended);
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await
    }
}

/// The service of an instance that exists.
fn with_instance<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceRef,
    instance: &str,
) -> Result<&'a ServiceView, RegistryError> {
    // A missing service is a missing instance here, as for the other operations on one.
    let view = existing(snapshot, service).map_err(|_| RegistryError::InstanceNotFound)?;
    if view.instances.contains_key(instance) { Ok(view) } else { Err(RegistryError::InstanceNotFound) }
}

/// The service of a drain in force. Its instance may be gone.
fn in_force<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceRef,
    id: &str,
) -> Result<&'a ServiceView, RegistryError> {
    let view = existing(snapshot, service).map_err(|_| RegistryError::NotDrained)?;
    let is_in_force = view.overrides.get(id).is_some_and(|entry| entry.record.is_in_force());
    is_in_force.then_some(&**view).ok_or(RegistryError::NotDrained)
}
