//! Shifts: operators start, pause, resume and undo them, and the steward takes their steps.
//!
//! The functions below the operations are the one place where a plan's moves become transactions. Each takes
//! the plan's record at the revision that the view shows, so of two replicas that make the same move one does
//! nothing; and it writes the plan and its two overrides together, so they never disagree.

use access::Grant;
use data_encoding::HEXLOWER;
use schemars::JsonSchema;
use serde::Serialize;
use shared::model::{Revision, ServiceRef, Tenant};
use tracing::{info, warn};
use uuid::Uuid;

use super::overrides::{collapsed, room_for, targeted, written};
use super::service::existing;
use super::{Caller, Registry, RegistryError, validate};
use crate::keys;
use crate::record;
use crate::store::{Compare, Op, Txn};
use crate::view::overrides::OverrideRecord;
use crate::view::shifts::{ShiftRecord, ShiftState};
use crate::view::{OverrideView, ShiftView, Snapshot};

/// Shifts that a tenant may have, undone ones included. The oldest undone one makes room for a new one.
const MOST_OF_TENANT: usize = 256;
/// The time for which an undone shift can still be looked up, in seconds.
const KEPT: u64 = 7 * 24 * 60 * 60;

/// A shift as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownShift {
    /// Its id.
    shift_id: String,
    /// The revision that wrote it last.
    revision: Revision,
    /// The second since 1970 at which the present step ends, while the shift runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    step_until: Option<u64>,
    #[serde(flatten)]
    record: ShiftRecord,
}

impl ShownShift {
    fn new(id: &str, entry: &ShiftView) -> Self {
        Self {
            shift_id: id.to_owned(),
            revision: entry.mod_rev,
            step_until: entry.record.due(),
            record: entry.record.clone(),
        }
    }
}

/// A request to a shift that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Pause,
    Resume,
    Undo,
}

impl Act {
    /// The state of a shift to which this has happened.
    fn aim(self) -> ShiftState {
        match self {
            Self::Pause => ShiftState::Paused,
            Self::Resume => ShiftState::Running,
            Self::Undo => ShiftState::Undone,
        }
    }
}

impl Registry {
    /// Starts a shift with its first step. Returns its id.
    pub(crate) async fn start_shift(
        &self,
        tenant: &Tenant,
        plan: ShiftRecord,
    ) -> Result<String, RegistryError> {
        validate::shift(&plan)?;
        let now = self.clock.seconds();
        let plan = ShiftRecord { state: ShiftState::Running, step: 1, since: now, step_since: now, ..plan };
        let caller = Caller::of_tenant(tenant);
        self.answer(&caller, |snapshot| {
            plan.sides(tenant)
                .into_iter()
                .try_for_each(|(service, target)| targeted(existing(snapshot, &service)?, target))
        })
        .await?;
        let id = HEXLOWER.encode(&Uuid::new_v4().as_bytes()[..12]);
        let key = keys::shift(tenant, &id);
        let plan = &plan;
        let id = &id;
        // In one turn for each tenant, so that its shifts are counted one after the other.
        self.until_won(keys::shift(tenant, ""), |snapshot| {
            let key = key.clone();
            async move {
                for ((service, target), wish) in plan.sides(tenant).into_iter().zip(plan.wishes(id)) {
                    let view = existing(&snapshot, &service)?;
                    room_for(&snapshot, &service, view, &target.id(&service), &wish)?;
                    // Apart, because the two services together might need more operations than one
                    // transaction has.
                    if let Some(txn) = collapsed(&service, view, &target.id(&service)) {
                        self.commit(txn).await?;
                        return Ok(None);
                    }
                }
                let mut txn = started(&snapshot, tenant, id, plan)?;
                make_room(&snapshot, tenant, &mut txn)?;
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await?;
        Ok(id.clone())
    }

    /// The shifts that the caller may see: those with the service on one of their sides, or all.
    pub(crate) async fn shifts(
        &self,
        caller: &Caller,
        service: Option<&ServiceRef>,
    ) -> Result<Vec<ShownShift>, RegistryError> {
        self.answer(caller, |snapshot| {
            let mut shown = Vec::new();
            if let Some(service) = service {
                existing(snapshot, service)?;
            }
            let Some(tenant) = snapshot.tenant(&caller.tenant) else { return Ok(shown) };
            for id in tenant.shifts.keys() {
                let Some(entry) = seen(snapshot, caller, id) else { continue };
                let sides = entry.record.sides(&caller.tenant);
                if service.is_none_or(|service| sides.iter().any(|(of, _)| of == service)) {
                    shown.push(ShownShift::new(id, entry));
                }
            }
            Ok(shown)
        })
        .await
    }

    /// A shift that the caller may see.
    pub(crate) async fn shift_by_id(&self, caller: &Caller, id: &str) -> Result<ShownShift, RegistryError> {
        let find = |snapshot: &Snapshot| {
            seen(snapshot, caller, id)
                .map(|entry| ShownShift::new(id, entry))
                .ok_or(RegistryError::ShiftNotFound)
        };
        self.answer(caller, |snapshot| find(snapshot)).await
    }

    /// Counts a step that was due.
    pub(crate) fn stepped(&self, outcome: StepOutcome) {
        if let Some(metrics) = &self.metrics {
            metrics.stepped(outcome.word());
        }
    }

    /// Pauses, resumes or undoes a shift. `by` is the account that wants it. Nothing happens if the shift is
    /// in that state already.
    pub(crate) async fn change_shift(
        &self,
        caller: &Caller,
        id: &str,
        act: Act,
        by: &str,
    ) -> Result<(), RegistryError> {
        self.shift_by_id(caller, id).await?;
        let key = keys::shift(&caller.tenant, id);
        self.until_won(key.clone(), |snapshot| {
            let key = key.clone();
            async move {
                let entry = seen(&snapshot, caller, id).ok_or(RegistryError::ShiftNotFound)?;
                let now = self.clock.seconds();
                let tenant = &caller.tenant;
                let Some(txn) = changed(&snapshot, tenant, id, entry, act, now, by)? else {
                    let settled = self.settled().await?;
                    let entry = seen(&settled, caller, id).ok_or(RegistryError::ShiftNotFound)?;
                    return Ok(changed(&settled, tenant, id, entry, act, now, by)?.is_none().then_some(()));
                };
                Ok(self.commit_noting(txn, &[key]).await?.succeeded.then_some(()))
            }
        })
        .await
    }
}

/// A shift of the caller's tenant, unless its services are hidden from the caller.
fn seen<'a>(snapshot: &'a Snapshot, caller: &Caller, id: &str) -> Option<&'a ShiftView> {
    let entry = snapshot.tenant(&caller.tenant)?.shifts.get(id)?;
    let sides = entry.record.sides(&caller.tenant);
    let mut records = sides.iter().filter_map(|(service, _)| Some(snapshot.service(service)?.1)).peekable();
    let is_seen = match records.peek() {
        // Without a record there are no labels that could admit the caller. One service is enough, because
        // the older version of a finished shift is usually gone.
        None => caller.grant == Grant::All,
        Some(_) => records.all(|record| caller.sees(record)),
    };
    is_seen.then_some(&**entry)
}

/// A transaction that writes a plan which nobody else changes meanwhile.
fn planned(tenant: &Tenant, id: &str, before: Revision, record: &ShiftRecord) -> Txn {
    let key = keys::shift(tenant, id);
    Txn {
        compare: vec![Compare::ModRev(key.clone(), before)],
        then: vec![Op::put(key, record::render(record, None))],
        ..Txn::default()
    }
}

/// The transaction that starts a plan with its first step.
pub(crate) fn started(
    snapshot: &Snapshot,
    tenant: &Tenant,
    id: &str,
    plan: &ShiftRecord,
) -> Result<Txn, RegistryError> {
    let plan = plan.clone().seen_in(snapshot.incarnation);
    let txn = planned(tenant, id, Revision::ZERO, &plan);
    with_step(snapshot, tenant, id, &plan, Fresh::Yes, txn).map_err(blocked)
}

/// The transaction that pauses, resumes or undoes a plan; `None` if it is in that state already. Weights of its
/// step that are gone meanwhile are set again when it is resumed. An override that somebody else has set stays
/// when it is undone.
pub(crate) fn changed(
    snapshot: &Snapshot,
    tenant: &Tenant,
    id: &str,
    entry: &ShiftView,
    act: Act,
    now: u64,
    by: &str,
) -> Result<Option<Txn>, RegistryError> {
    let next = match act {
        Act::Pause => entry.record.paused(now, by),
        Act::Resume => entry.record.resumed(now, by).map(|plan| plan.seen_in(snapshot.incarnation)),
        Act::Undo => entry.record.undone(now, by),
    };
    let Some(record) = next else {
        return if entry.record.state == act.aim() { Ok(None) } else { Err(over(&entry.record)) };
    };
    let txn = planned(tenant, id, entry.mod_rev, &record);
    match act {
        Act::Pause => Ok(Some(txn)),
        Act::Resume => with_step(snapshot, tenant, id, &record, Fresh::Yes, txn).map(Some).map_err(blocked),
        Act::Undo => Ok(Some(with_ends(snapshot, tenant, id, &record, by, txn))),
    }
}

/// Adds the ends of the overrides of a plan.
fn with_ends(
    snapshot: &Snapshot,
    tenant: &Tenant,
    id: &str,
    plan: &ShiftRecord,
    by: &str,
    mut txn: Txn,
) -> Txn {
    for (service, target) in plan.sides(tenant) {
        let of = target.id(&service);
        let Some(before) = present(snapshot, &service, &of) else { continue };
        // One that is not the plan's own now can become so only by another move of the plan, and then the
        // plan's own comparison fails.
        if before.record.is_in_force() && before.record.shift == id {
            let ended = OverrideRecord { ended_by: by.to_owned(), ..before.record.clone() };
            add(&mut txn, written(&service, &of, Some(before), &ended));
        }
    }
    txn
}

/// A step of a plan that is due, as a transaction.
pub(crate) struct Advance {
    pub(crate) txn: Txn,
    pub(crate) outcome: StepOutcome,
}

/// The outcome of a step that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepOutcome {
    /// The next step was taken.
    Taken,
    /// The last step had lasted its time.
    Done,
    /// The plan has paused by itself.
    Interrupted,
    /// Another replica, or a person, was faster.
    Lost,
    /// The store could not be written.
    Failed,
}

impl StepOutcome {
    /// The word for it in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Done => "done",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}

/// The transaction of a plan whose present step has lasted its time at `now`. The next step begins then.
pub(crate) fn advanced(snapshot: &Snapshot, tenant: &Tenant, id: &str, now: u64) -> Option<Advance> {
    let entry = snapshot.tenant(tenant)?.shifts.get(id)?;
    let next = entry.record.advanced(now)?;
    let txn = planned(tenant, id, entry.mod_rev, &next);
    let stepped = match entry.record.is_of(snapshot.incarnation) {
        true => with_step(snapshot, tenant, id, &next, Fresh::No, txn),
        // The acts of people since the backup are gone, perhaps also that they have undone this shift.
        false => Err("the store was restored from a backup".to_owned()),
    };
    match stepped {
        Ok(txn) => {
            info!(shift.id = id, %tenant, step = next.step, state = ?next.state, "a shift goes on");
            let outcome = if next.state == ShiftState::Done { StepOutcome::Done } else { StepOutcome::Taken };
            Some(Advance { txn, outcome })
        }
        Err(obstacle) => {
            warn!(shift.id = id, %tenant, step = entry.record.step, %obstacle, "a shift has paused by itself");
            let txn = planned(tenant, id, entry.mod_rev, &entry.record.interrupted(obstacle));
            Some(Advance { txn, outcome: StepOutcome::Interrupted })
        }
    }
}

/// The deletions of plans that were undone long ago.
pub(crate) fn removals(snapshot: &Snapshot, now: u64) -> impl Iterator<Item = (&Tenant, Txn)> {
    snapshot.tenants.iter().flat_map(move |(tenant, part)| {
        let old = part.shifts.iter().filter(move |(_, entry)| is_old(entry, now));
        old.map(move |(id, entry)| (tenant, removed(tenant, id, entry)))
    })
}

fn is_old(entry: &ShiftView, now: u64) -> bool {
    entry.record.state == ShiftState::Undone && entry.record.step_since.saturating_add(KEPT) <= now
}

fn removed(tenant: &Tenant, id: &str, entry: &ShiftView) -> Txn {
    let key = keys::shift(tenant, id);
    Txn {
        compare: vec![Compare::ModRev(key.clone(), entry.mod_rev)],
        then: vec![Op::Delete(key)],
        ..Txn::default()
    }
}

/// Refuses one shift more than there may be, or lets the transaction remove the oldest undone one.
fn make_room(snapshot: &Snapshot, tenant: &Tenant, txn: &mut Txn) -> Result<(), RegistryError> {
    let Some(part) = snapshot.tenant(tenant) else { return Ok(()) };
    let used = part.shifts.size();
    if used < MOST_OF_TENANT {
        return Ok(());
    }
    let undone = part.shifts.iter().filter(|(_, entry)| entry.record.state == ShiftState::Undone);
    let Some((id, entry)) = undone.min_by_key(|(_, entry)| entry.record.step_since) else {
        return Err(RegistryError::QuotaExceeded { resource: "SHIFT", limit: MOST_OF_TENANT, used });
    };
    add(txn, removed(tenant, id, entry));
    Ok(())
}

/// The overrides of a step may be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fresh {
    /// At a start or when somebody resumes a plan: nobody's override may have the targets.
    Yes,
    /// Between two steps: one that is not there any more was ended by somebody who does not want it.
    No,
}

/// Adds the overrides of the plan's step to a transaction.
///
/// # Errors
/// The reason for which the plan cannot be at this step, as a sentence.
fn with_step(
    snapshot: &Snapshot,
    tenant: &Tenant,
    id: &str,
    plan: &ShiftRecord,
    fresh: Fresh,
    mut txn: Txn,
) -> Result<Txn, String> {
    for ((service, target), wish) in plan.sides(tenant).into_iter().zip(plan.wishes(id)) {
        if snapshot.service(&service).is_none() {
            return Err(format!("the service {} does not exist any more", service.id));
        }
        let of = target.id(&service);
        let before = present(snapshot, &service, &of);
        match before.map(|before| &before.record) {
            Some(other) if other.is_in_force() && other.shift != id => {
                return Err(format!("the override {of} of {} has the same target", other.owner));
            }
            Some(own) if own.is_in_force() => {
                // A step that stays is not written again, since each write is pushed to every watcher.
                if (own.weight, &own.reason) == (wish.weight, &wish.reason) {
                    let mod_rev = before.map_or(Revision::ZERO, |before| before.mod_rev);
                    txn.compare.push(Compare::ModRev(keys::override_of(&service, &of), mod_rev));
                    continue;
                }
            }
            Some(ended) if fresh == Fresh::No => {
                return Err(format!("{} has ended the override {of}", ended.ended_by));
            }
            None if fresh == Fresh::No => return Err(format!("the override {of} is gone")),
            Some(_) | None => {}
        }
        add(&mut txn, written(&service, &of, before, &wish));
    }
    Ok(txn)
}

fn present<'a>(snapshot: &'a Snapshot, service: &ServiceRef, id: &str) -> Option<&'a OverrideView> {
    snapshot.any_service(service)?.overrides.get(id).map(|entry| &**entry)
}

fn add(txn: &mut Txn, more: Txn) {
    txn.compare.extend(more.compare);
    txn.then.extend(more.then);
}

fn blocked(obstacle: String) -> RegistryError {
    RegistryError::invalid(format!("the shift cannot set its weights: {obstacle}"))
}

fn over(record: &ShiftRecord) -> RegistryError {
    RegistryError::invalid(match record.state {
        ShiftState::Undone => "the shift is undone",
        _ => "the shift has come to its end; it can be undone",
    })
}

#[cfg(test)]
mod tests;
