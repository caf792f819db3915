//! Overrides: operators set, list and end them. The view merges them into what clients see.
//!
//! An override that ends is written once more, as ended, and its record goes when no instance needs it any
//! more; `crate::view::overrides` has the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::Grant;
use schemars::JsonSchema;
use serde::Serialize;
use shared::model::{Instance, Revision, ServiceRef, Tenant};

use super::service::existing;
use super::{Caller, Registry, RegistryError, validate};
use crate::keys;
use crate::record;
use crate::store::{Compare, Op, Txn};
use crate::view::overrides::{self, OverrideRecord, OverrideTarget, Overrides};
use crate::view::{OverrideView, ServiceView, Snapshot};

/// Overrides in force that a service may have.
const MOST_OF_SERVICE: usize = 64;
/// Records of overrides that a service may have, ended ones included. Beyond it the ended ones become one.
const MOST_RECORDS: usize = 96;
/// Drains in force that a service may have: as many instances as one drain takes.
const MOST_DRAINS: usize = 512;
/// Records of drains that a service may have, ended ones included. Beyond it, ended ones become one.
const MOST_DRAIN_RECORDS: usize = MOST_DRAINS + MOST_RECORDS;
/// Overrides that a tenant may have, ended ones included.
const MOST_OF_TENANT: usize = 20_000;
/// Bytes that a tenant's overrides may have in the store, ended ones included. One answer lists them all, and
/// every replica keeps them in memory.
const MOST_BYTES_OF_TENANT: usize = 16 << 20;
/// The longest time after which an override ends, in seconds.
const LONGEST: u64 = 366 * 24 * 60 * 60;

/// An override as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownOverride {
    /// Its id.
    override_id: String,
    /// The id of the service.
    service_id: String,
    /// The revision that wrote it last.
    revision: Revision,
    #[serde(flatten)]
    record: OverrideRecord,
}

impl ShownOverride {
    fn new(id: &str, service: &str, entry: &OverrideView) -> Self {
        Self {
            override_id: id.to_owned(),
            service_id: service.to_owned(),
            revision: entry.mod_rev,
            record: entry.record.clone(),
        }
    }
}

/// An instance with all that makes it what clients see.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overridden {
    /// The instance as clients see it.
    instance: Instance,
    /// The instance as it reports itself.
    reported: Instance,
    /// The overrides in force that take it. Field by field, the first that says something wins.
    overrides: Vec<ShownOverride>,
}

impl Registry {
    /// Sets an override, instead of an earlier one of the same target. With `seconds` it ends by itself.
    /// Returns its id.
    pub(crate) async fn set_override(
        &self,
        service: &ServiceRef,
        wish: OverrideRecord,
        seconds: Option<u64>,
    ) -> Result<String, RegistryError> {
        validate::an_override(&wish)?;
        if seconds.is_some_and(|seconds| !(1..=LONGEST).contains(&seconds)) {
            return Err(RegistryError::invalid(format!("field 'seconds' is not between 1 and {LONGEST}")));
        }
        let since = self.clock.seconds();
        let until = seconds.map_or(0, |seconds| since + seconds);
        let wish = OverrideRecord { since, until, ..wish };
        let caller = Caller::of_tenant(&service.tenant);
        // An id that nobody has is a slip of the hand. Later the instance may come and go.
        self.answer(&caller, |snapshot| targeted(existing(snapshot, service)?, &wish.target)).await?;
        let id = wish.target.id(service);
        let key = keys::override_of(service, &id);
        let wish = &wish;
        let id = &id;
        // In one turn for each service, so that its overrides are counted one after the other.
        self.until_won(keys::override_of(service, ""), |snapshot| {
            let key = key.clone();
            async move {
                let view = existing(&snapshot, service)?;
                let txn = put(&snapshot, service, view, id, wish)?;
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await?;
        Ok(id.clone())
    }

    /// The overrides in force that the caller may see, of one service or of all.
    pub(crate) async fn overrides(
        &self,
        caller: &Caller,
        service: Option<&ServiceRef>,
    ) -> Result<Vec<ShownOverride>, RegistryError> {
        self.answer(caller, |snapshot| {
            let mut shown = Vec::new();
            if let Some(service) = service {
                existing(snapshot, service)?;
            }
            let Some(tenant) = snapshot.tenant(&caller.tenant) else { return Ok(shown) };
            for (id, of) in tenant.overrides.iter() {
                if service.is_some_and(|service| service.id != *of) {
                    continue;
                }
                if let Some(entry) = in_force(snapshot, caller, id) {
                    shown.push(ShownOverride::new(id, of, entry));
                }
            }
            Ok(shown)
        })
        .await
    }

    /// An instance as it reports itself, as clients see it, and the overrides between the two.
    pub(crate) async fn overridden(
        &self,
        caller: &Caller,
        service: &ServiceRef,
        id: &str,
    ) -> Result<Overridden, RegistryError> {
        self.answer(caller, |snapshot| {
            let view = existing(snapshot, service)?;
            let found = view.instances.get(id).ok_or(RegistryError::InstanceNotFound)?;
            let reported = found.reported.unpack();
            let overrides = overrides::taking(&view.overrides, &reported)
                .into_iter()
                .map(|(id, entry)| ShownOverride::new(id, &service.id, entry))
                .collect();
            Ok(Overridden { instance: found.instance.unpack(), reported, overrides })
        })
        .await
    }

    /// One override in force that the caller may see.
    pub(crate) async fn override_by_id(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<ShownOverride, RegistryError> {
        self.answer(caller, |snapshot| {
            let entry = in_force(snapshot, caller, id).ok_or(RegistryError::OverrideNotFound)?;
            let service = service_of(snapshot, &caller.tenant, id).ok_or(RegistryError::OverrideNotFound)?;
            Ok(ShownOverride::new(id, &service.id, entry))
        })
        .await
    }

    /// Ends an override. `by` is the account that wants it.
    pub(crate) async fn end_override(
        &self,
        caller: &Caller,
        id: &str,
        by: &str,
    ) -> Result<(), RegistryError> {
        let find = |snapshot: &Snapshot| {
            in_force(snapshot, caller, id).ok_or(RegistryError::OverrideNotFound)?;
            service_of(snapshot, &caller.tenant, id).ok_or(RegistryError::OverrideNotFound)
        };
        let service = &self.answer(caller, |snapshot| find(snapshot)).await?;
        let key = keys::override_of(service, id);
        self.until_won(keys::override_of(service, ""), |snapshot| {
            let key = key.clone();
            async move {
                let entry = in_force(&snapshot, caller, id).ok_or(RegistryError::OverrideNotFound)?;
                let ended = OverrideRecord { ended_by: by.to_owned(), ..entry.record.clone() };
                let txn = written(service, id, Some(entry), &ended);
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await
    }
}

/// The transaction that sets an override, where there is room for one.
pub(super) fn put(
    snapshot: &Snapshot,
    service: &ServiceRef,
    view: &ServiceView,
    id: &str,
    record: &OverrideRecord,
) -> Result<Txn, RegistryError> {
    let kind = Kind::of(&record.target);
    room_for(snapshot, service, view, id, record)?;
    let before = view.overrides.get(id);
    let mut txn = written(service, id, before.map(|entry| &**entry), record);
    if before.is_none() && kind.is_crowded(&view.overrides) {
        collapse(service, &view.overrides, id, kind, &mut txn);
    }
    Ok(txn)
}

/// The kind of an override. Each has limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An operator's, or a step of a shift.
    Wish,
    /// The mark of a drain.
    Drain,
}

impl Kind {
    fn of(target: &OverrideTarget) -> Self {
        if target.drain { Self::Drain } else { Self::Wish }
    }

    fn has(self, entry: &OverrideView) -> bool {
        Self::of(&entry.record.target) == self
    }

    /// True where another record would be one too many.
    fn is_crowded(self, overrides: &Overrides) -> bool {
        let most = match self {
            Self::Wish => MOST_RECORDS,
            Self::Drain => MOST_DRAIN_RECORDS,
        };
        overrides.values().filter(|entry| self.has(entry)).count() >= most
    }

    fn most_in_force(self) -> usize {
        match self {
            Self::Wish => MOST_OF_SERVICE,
            Self::Drain => MOST_DRAINS,
        }
    }
}

/// A transaction that writes an override which nobody else changes meanwhile.
pub(crate) fn written(
    service: &ServiceRef,
    id: &str,
    before: Option<&OverrideView>,
    record: &OverrideRecord,
) -> Txn {
    let key = keys::override_of(service, id);
    let before = before.map_or(Revision::ZERO, |entry| entry.mod_rev);
    Txn {
        // The record would outlive a deleted service, since nobody would delete it.
        compare: vec![Compare::Exists(keys::service(service)), Compare::ModRev(key.clone(), before)],
        then: vec![Op::put(key, record::render(record, None))],
        ..Txn::default()
    }
}

/// Adds the writes that make one record of the ended ones of a kind, of as many as fit into a transaction: an
/// override of the whole service, which then counts for the revision of each instance. `except` is written by
/// the transaction already.
fn collapse(service: &ServiceRef, overrides: &Overrides, except: &str, kind: Kind, txn: &mut Txn) {
    let whole = OverrideTarget::default().id(service);
    let ended = overrides.iter().filter(|(_, entry)| !entry.record.is_in_force() && kind.has(entry));
    for (id, entry) in ended.take(MOST_RECORDS) {
        if *id != whole && id != except {
            let key = keys::override_of(service, id);
            txn.compare.push(Compare::ModRev(key.clone(), entry.mod_rev));
            txn.then.push(Op::Delete(key));
        }
    }
    if whole != except {
        let mut again = touched(service, overrides);
        txn.compare.append(&mut again.compare);
        txn.then.append(&mut again.then);
    }
}

/// The transaction that makes one record of all ended ones, where a new override would be one record too
/// many.
pub(super) fn collapsed(service: &ServiceRef, view: &ServiceView, new: &str) -> Option<Txn> {
    if view.overrides.contains_key(new) || !Kind::Wish.is_crowded(&view.overrides) {
        return None;
    }
    let mut txn = Txn::default();
    collapse(service, &view.overrides, new, Kind::Wish, &mut txn);
    (!txn.then.is_empty()).then_some(txn)
}

/// A transaction that changes nothing but the revision of each instance of a service, by an override of the
/// whole service: the present one is written again, or one that has ended already.
pub(crate) fn touched(service: &ServiceRef, overrides: &BTreeMap<String, Arc<OverrideView>>) -> Txn {
    let id = OverrideTarget::default().id(service);
    let before = overrides.get(&id).map(|entry| &**entry);
    let ended = OverrideRecord { ended_by: "muster".to_owned(), ..OverrideRecord::default() };
    let record = before.map_or(ended, |entry| entry.record.clone());
    written(service, &id, before, &record)
}

/// Refuses an override of an instance that the service does not have.
pub(super) fn targeted(view: &ServiceView, target: &OverrideTarget) -> Result<(), RegistryError> {
    if target.instance_id.is_empty() || view.instances.contains_key(&target.instance_id) {
        return Ok(());
    }
    Err(RegistryError::InstanceNotFound)
}

/// Refuses one override more than there may be.
pub(super) fn room_for(
    snapshot: &Snapshot,
    service: &ServiceRef,
    view: &ServiceView,
    id: &str,
    wish: &OverrideRecord,
) -> Result<(), RegistryError> {
    let kind = Kind::of(&wish.target);
    let others = view.overrides.iter().filter(|(of, entry)| *of != id && kind.has(entry));
    let used = others.filter(|(_, entry)| entry.record.is_in_force()).count();
    let limit = kind.most_in_force();
    if used >= limit {
        return Err(RegistryError::QuotaExceeded { resource: "OVERRIDE", limit, used });
    }
    let Some(tenant) = snapshot.tenant(&service.tenant) else { return Ok(()) };
    let before = view.overrides.get(id);
    let used = tenant.overrides.size();
    if used >= MOST_OF_TENANT && before.is_none() {
        return Err(RegistryError::QuotaExceeded { resource: "OVERRIDE", limit: MOST_OF_TENANT, used });
    }
    let used = tenant.override_bytes.saturating_sub(before.map_or(0, |before| before.bytes));
    if used + record::render(wish, None).len() > MOST_BYTES_OF_TENANT {
        let limit = MOST_BYTES_OF_TENANT;
        return Err(RegistryError::QuotaExceeded { resource: "BYTES OF OVERRIDES", limit, used });
    }
    Ok(())
}

/// The service of an override.
fn service_of(snapshot: &Snapshot, tenant: &Tenant, id: &str) -> Option<ServiceRef> {
    let of = snapshot.tenant(tenant)?.overrides.get(id)?;
    Some(ServiceRef::new(tenant.clone(), of))
}

/// An override in force, unless its service is hidden from the caller.
fn in_force<'a>(snapshot: &'a Snapshot, caller: &Caller, id: &str) -> Option<&'a OverrideView> {
    let view = snapshot.any_service(&service_of(snapshot, &caller.tenant, id)?)?;
    let is_seen = match &view.service {
        Some(record) => caller.sees(record),
        // Without a record there are no labels that could admit the caller.
        None => caller.grant == Grant::All,
    };
    let entry = view.overrides.get(id)?;
    (is_seen && entry.record.is_in_force()).then_some(&**entry)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::clock::Clock;

    use super::*;
    use crate::store::KeyValue;
    use crate::view::{History, Protection, empty};

    #[test]
    fn the_overrides_of_a_tenant_are_few_in_bytes_too() {
        let of = |n: usize| ServiceRef::new(Tenant::default(), format!("s{n}"));
        let put = |key: String, value: serde_json::Value| KeyValue {
            key,
            value: value.to_string().into(),
            create_rev: 1.into(),
            mod_rev: 1.into(),
            version: 1,
            lease: None,
        };
        let long = OverrideRecord { reason: "x".repeat(1 << 20), ..OverrideRecord::default() };
        let mut records = Vec::new();
        for n in 0..15 {
            records.push(put(
                keys::service(&of(n)),
                json!({ "serviceId": of(n).id, "serviceName": "n", "version": "1" }),
            ));
            records.push(put(keys::override_of(&of(n), &format!("o{n}")), json!(long)));
        }
        let protection = Protection { from_size: 0, keep_percent: 50 };
        let (mut writer, view) = empty(History::new(10), protection, Clock::manual(1));
        writer.reset(records, 1.into());
        let snapshot = view.now().expect("listed");
        let room = |id: &str, wish: &OverrideRecord| {
            room_for(&snapshot, &of(0), existing(&snapshot, &of(0)).expect("a service"), id, wish)
        };
        let refused =
            |outcome| matches!(outcome, Err(RegistryError::QuotaExceeded { limit, .. }) if limit == 16 << 20);
        assert!(room("new", &OverrideRecord::default()).is_ok());
        assert!(refused(room("new", &long)));
        assert!(room("o0", &long).is_ok(), "it replaces one of the same size");
    }

    #[test]
    fn ended_overrides_become_one_in_a_single_transaction() {
        let service = ServiceRef::new(Tenant::default(), "s");
        let mut overrides = Overrides::new();
        for n in 0..MOST_RECORDS {
            let target = OverrideTarget { instance_id: format!("i{n}"), ..OverrideTarget::default() };
            let ended_by = if n < 60 { "root".to_owned() } else { String::new() };
            let id = target.id(&service);
            let record = OverrideRecord { target, ended_by, ..OverrideRecord::default() };
            overrides.insert(id, Arc::new(OverrideView { record, mod_rev: 7.into(), bytes: 0 }));
        }
        let mut txn = written(&service, "new", None, &OverrideRecord::default());
        collapse(&service, &overrides, "new", Kind::Wish, &mut txn);
        let mut written_keys: Vec<&String> = Vec::new();
        for op in &txn.then {
            match op {
                Op::Put { key, .. } | Op::Delete(key) => written_keys.push(key),
                op => panic!("{op:?}"),
            }
        }
        assert_eq!(written_keys.len(), 62, "60 deletions, the new one, and the one of the whole service");
        // As many as etcd takes in one transaction, with room for those that it is committed together with.
        assert!(txn.compare.len() <= 128 && txn.then.len() <= 128);
        written_keys.sort();
        written_keys.dedup();
        assert_eq!(written_keys.len(), 62, "no key is written twice");
    }
}
