//! Ends overrides whose time is over, takes the steps of shifts, and removes records that nothing needs.
//!
//! The end of an override is a write, not a moment: replicas with different clocks then agree about it, and
//! clients receive the change at a revision. The publisher writes it as soon as its own clock says so, the
//! other replicas a little later if it has not. One write is enough. The same is true for the next step of a
//! shift.
//!
//! All tenants share one steward, so none may hold it up: each round takes the due work of all of them in
//! turns, and a tenant whose writes the store refuses waits alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use shared::clock::Clock;
use shared::model::{ServiceRef, Tenant};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::election::Role;
use crate::keys;
use crate::registry::Registry;
use crate::registry::overrides::{touched, written};
use crate::registry::shifts::{self, Advance, StepOutcome};
use crate::store::{Compare, Op, StoreError, Txn};
use crate::view::Snapshot;
use crate::view::overrides::OverrideRecord;

/// The head start that the publisher has over the other replicas, in seconds.
const STANDBY_WAIT: u64 = 5;
/// The pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(1);
/// The time between two searches for records that nothing needs.
const SWEEP: Duration = Duration::from_secs(60);
/// The longest sleep until the next end. A clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// Writes of one round. A view that has received them shows what is left.
const WRITES: usize = 100;
/// Writes under way at once. The store commits those that wait together.
const AT_ONCE: usize = 16;
/// The time for which a tenant is left alone after the store has refused a write for what it is.
const HOLD: Duration = Duration::from_secs(10);
/// The owner of ends by time, as records name it.
const BY_TIME: &str = "time";

/// Watches the view for overrides with work until `stop`.
pub(crate) async fn run(
    registry: Registry,
    clock: Clock,
    role: watch::Receiver<Role>,
    stop: CancellationToken,
) {
    let mut revisions = registry.view().revisions();
    let mut sweep_at = Instant::now() + SWEEP;
    let mut held = Held::default();
    while !stop.is_cancelled() {
        held.0.retain(|_, until| *until > Instant::now());
        let now = clock.seconds();
        let is_standby = *role.borrow() == Role::Standby;
        let mut wait = LONGEST_SLEEP;
        if let Ok(snapshot) = registry.view().now() {
            let due_by = now.saturating_sub(if is_standby { STANDBY_WAIT } else { 0 });
            let mut work = ends(&snapshot, due_by, &held);
            work.extend(steps(&snapshot, due_by, now, &held));
            if !is_standby {
                work.extend(heals(&snapshot, &held));
                if Instant::now() >= sweep_at {
                    let mut removals = removals(&snapshot, &held);
                    removals.extend(shift_removals(&snapshot, now, &held));
                    // There may be more of them than one round takes: a hundred a minute are too few where
                    // programs set overrides.
                    sweep_at = Instant::now() + if removals.len() < WRITES { SWEEP } else { RETRY };
                    work.extend(removals);
                }
            }
            if !work.is_empty() {
                let all_won = match write_all(&registry, work, &mut held).await {
                    Ok(all_won) => all_won,
                    Err(error) => {
                        warn!(%error, "overrides and shifts could not be kept up to date; trying again");
                        false
                    }
                };
                if !all_won {
                    tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RETRY) => {} }
                }
                continue;
            }
            let ends = snapshot.ending.first().map(|((until, ..), ())| *until);
            let steps = snapshot.shifting.first().map(|((due, ..), ())| *due);
            for next in [ends, steps].into_iter().flatten() {
                wait = wait.min(Duration::from_secs(next.saturating_sub(due_by).max(1)));
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = revisions.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A write of the steward, for one tenant.
struct Work {
    tenant: Tenant,
    txn: Txn,
    /// The outcome of a shift's step, if the write succeeds.
    step: Option<StepOutcome>,
}

impl Work {
    fn new(tenant: &Tenant, txn: Txn) -> Self {
        Self { tenant: tenant.clone(), txn, step: None }
    }
}

/// The tenants whose writes the store refuses, and the moment at which each is tried again.
#[derive(Default)]
struct Held(HashMap<Tenant, Instant>);

/// The items of one round, out of all that are due: those of each tenant in turn, in the order in which they
/// are due.
fn in_turn<'a, T>(due: impl Iterator<Item = (&'a Tenant, T)>, held: &Held) -> Vec<(&'a Tenant, T)> {
    let mut waiting: BTreeMap<&Tenant, VecDeque<T>> = BTreeMap::new();
    for (tenant, item) in due.filter(|(tenant, _)| !held.0.contains_key(*tenant)) {
        let of_tenant = waiting.entry(tenant).or_default();
        if of_tenant.len() < WRITES {
            of_tenant.push_back(item);
        }
    }
    let mut round = Vec::new();
    while !waiting.is_empty() {
        for (tenant, of_tenant) in &mut waiting {
            if round.len() == WRITES {
                return round;
            }
            round.extend(of_tenant.pop_front().map(|item| (*tenant, item)));
        }
        waiting.retain(|_, of_tenant| !of_tenant.is_empty());
    }
    round
}

/// The ends of overrides whose time is over at `now`.
fn ends(snapshot: &Snapshot, now: u64, held: &Held) -> Vec<Work> {
    let due = snapshot.ending.keys().take_while(|(until, ..)| *until <= now);
    let due = due.filter_map(|(until, service, id)| {
        // Those of services that another program has deleted wait for their removal, and hold up no others.
        let entry = snapshot.service(service)?.0.overrides.get(id)?;
        Some((&service.tenant, (until, service, id, entry)))
    });
    let mut work = Vec::new();
    for (tenant, (until, service, id, entry)) in in_turn(due, held) {
        info!(service.id = %service.id, override.id = %id, until, "the time of an override is over");
        let ended = OverrideRecord { ended_by: BY_TIME.to_owned(), ..entry.record.clone() };
        work.push(Work::new(tenant, written(service, id, Some(entry), &ended)));
    }
    work
}

/// The moves of the shifts whose present step has lasted its time at `due_by`.
fn steps(snapshot: &Snapshot, due_by: u64, now: u64, held: &Held) -> Vec<Work> {
    let due = snapshot.shifting.keys().take_while(|(due, ..)| *due <= due_by);
    let due = in_turn(due.map(|(_, tenant, id)| (tenant, id)), held);
    let steps = due.into_iter().filter_map(|(tenant, id)| {
        let Advance { txn, outcome } = shifts::advanced(snapshot, tenant, id, now)?;
        Some(Work { step: Some(outcome), ..Work::new(tenant, txn) })
    });
    steps.collect()
}

/// The writes after which all replicas agree about the instances of services from which another program has
/// deleted an override.
fn heals(snapshot: &Snapshot, held: &Held) -> Vec<Work> {
    let torn = snapshot
        .torn
        .keys()
        .filter_map(|service| Some((&service.tenant, (service, snapshot.service(service)?.0))));
    let torn = in_turn(torn, held).into_iter();
    torn.map(|(tenant, (service, view))| Work::new(tenant, touched(service, &view.overrides))).collect()
}

/// The deletions of records that no instance needs, and of those that a service left behind which another
/// program deleted.
fn removals(snapshot: &Snapshot, held: &Held) -> Vec<Work> {
    let all = snapshot
        .tenants
        .iter()
        .flat_map(|(tenant, part)| part.overrides.iter().map(move |(id, of)| (tenant, (id, of))));
    let removals = all.filter_map(|(tenant, (id, of))| {
        let service = ServiceRef::new(tenant.clone(), of);
        let view = snapshot.any_service(&service)?;
        let entry = view.overrides.get(id)?;
        let key = keys::override_of(&service, id);
        let mut txn = Txn {
            compare: vec![Compare::ModRev(key.clone(), entry.mod_rev)],
            then: vec![Op::Delete(key)],
            ..Txn::default()
        };
        if view.service.is_none() && view.instances.is_empty() {
            txn.compare.push(Compare::Absent(keys::service(&service)));
        } else if view.needs(entry) {
            return None;
        }
        Some((tenant, txn))
    });
    in_turn(removals, held).into_iter().map(|(tenant, txn)| Work::new(tenant, txn)).collect()
}

/// The deletions of plans that were undone long ago.
fn shift_removals(snapshot: &Snapshot, now: u64, held: &Held) -> Vec<Work> {
    let old = in_turn(shifts::removals(snapshot, now), held).into_iter();
    old.map(|(tenant, txn)| Work::new(tenant, txn)).collect()
}

/// Writes, and waits until the view shows it. Without that, the same work would be found again. True when no
/// write lost to another replica or to an operator. Tenants whose writes are refused for what they are become
/// held.
async fn write_all(registry: &Registry, work: Vec<Work>, held: &mut Held) -> Result<bool, StoreError> {
    let writes = work.into_iter().map(|Work { tenant, txn, step }| async move {
        let outcome = registry.store().txn(txn).await;
        if let Some(step) = step {
            registry.stepped(match &outcome {
                Ok(reply) if reply.succeeded => step,
                Ok(_) => StepOutcome::Lost,
                Err(_) => StepOutcome::Failed,
            });
        }
        (tenant, outcome)
    });
    let mut writes = stream::iter(writes).buffer_unordered(AT_ONCE);
    let mut all_won = true;
    while let Some((tenant, outcome)) = writes.next().await {
        match outcome {
            Ok(reply) => all_won &= reply.succeeded,
            Err(error @ (StoreError::Rationed | StoreError::TooLarge(_) | StoreError::Refused(_))) => {
                if held.0.insert(tenant.clone(), Instant::now() + HOLD).is_none() {
                    warn!(%error, %tenant, "overrides and shifts of a tenant cannot be kept up to date");
                }
            }
            // The store serves nobody now.
            Err(error) => return Err(error),
        }
    }
    let is_shown = registry.confirmed().await.is_ok_and(|view| view.is_some());
    Ok(all_won && is_shown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::model::Tenant;

    use super::*;
    use crate::store::KeyValue;
    use crate::view::{History, Protection, empty};

    #[test]
    fn overrides_of_deleted_services_hold_up_no_others() {
        let put = |key: String, value: serde_json::Value| KeyValue {
            key,
            value: value.to_string().into(),
            create_rev: 1.into(),
            mod_rev: 1.into(),
            version: 1,
            lease: None,
        };
        let of = |id: &str| ServiceRef::new(Tenant::default(), id);
        let mut records: Vec<KeyValue> = (0..2 * WRITES)
            .map(|n| put(keys::override_of(&of(&format!("gone{n}")), &n.to_string()), json!({ "until": 5 })))
            .collect();
        records.push(put(
            keys::service(&of("s")),
            json!({ "serviceId": "s", "serviceName": "n", "version": "1" }),
        ));
        records.push(put(keys::override_of(&of("s"), "last"), json!({ "until": 6 })));
        let (mut writer, view) =
            empty(History::new(10), Protection { from_size: 0, keep_percent: 50 }, Clock::manual(1));
        writer.reset(records, 1.into());
        let work = ends(&view.now().expect("listed"), 9, &Held::default());
        let key = keys::override_of(&of("s"), "last");
        assert_eq!(work.len(), 1);
        assert!(matches!(&work[0].txn.then[..], [Op::Put { key: written, .. }] if *written == key));
    }

    #[test]
    fn one_tenants_work_leaves_turns_for_the_others() {
        let loud = Tenant::new("loud", "default");
        let quiet = Tenant::new("quiet", "default");
        let due = || (0..3 * WRITES).map(|n| (&loud, n)).chain((0..3).map(|n| (&quiet, n)));
        let round = in_turn(due(), &Held::default());
        assert_eq!(round.len(), WRITES);
        let expected =
            [(&loud, 0), (&quiet, 0), (&loud, 1), (&quiet, 1), (&loud, 2), (&quiet, 2), (&loud, 3)];
        assert_eq!(round[..7], expected);
        let held = Held([(loud.clone(), Instant::now() + HOLD)].into());
        assert_eq!(in_turn(due(), &held), [(&quiet, 0), (&quiet, 1), (&quiet, 2)]);
    }
}
