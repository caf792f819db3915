//! Compares plans with a plain model, over random histories of ticks, pauses, undoing, overrides of other
//! people and restarts, while two replicas with views of different age compete.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde_json::json;
use shared::clock::Clock;
use shared::model::{Revision, ServiceRef, Tenant, WEIGHT};

use super::*;
use crate::store::{KeyValue, KvEvent};
use crate::view::overrides::OverrideTarget;
use crate::view::shifts::{ShiftSide, ShiftStep};
use crate::view::{History, Protection, View, ViewWriter, empty};

const ID: &str = "plan";
const FOREIGN: u8 = 77;

/// The part of a store that transactions of shifts need.
#[derive(Default)]
struct Store {
    rev: u64,
    keys: BTreeMap<String, KeyValue>,
}

impl Store {
    /// Commits a transaction; `None` when a condition does not hold.
    fn txn(&mut self, txn: Txn) -> Option<Vec<KvEvent>> {
        let holds = |compare: &Compare| match compare {
            Compare::Exists(key) => self.keys.contains_key(key),
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::ModRev(key, rev) => self.keys.get(key).map_or(Revision::ZERO, |kv| kv.mod_rev) == *rev,
            Compare::UnwrittenSince(prefix, rev) => {
                let mut under = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
                under.all(|(_, kv)| kv.mod_rev <= *rev)
            }
        };
        if !txn.compare.iter().all(holds) {
            return None;
        }
        self.rev += 1;
        let mut events: Vec<KvEvent> = Vec::new();
        for op in txn.then {
            match op {
                Op::Put { key, value, .. } => {
                    assert!(events.iter().all(|event| event.key() != key), "{key} is written twice");
                    let (create_rev, mod_rev) = (self.rev.into(), self.rev.into());
                    let kv = KeyValue { key, value, create_rev, mod_rev, version: 1, lease: None };
                    events.push(KvEvent::Put(kv.clone()));
                    self.keys.insert(kv.key.clone(), kv);
                }
                Op::Delete(key) => {
                    self.keys.remove(&key).expect("a comparison has found it");
                    events.push(KvEvent::Delete { key, rev: self.rev.into() });
                }
                op => panic!("{op:?}"),
            }
        }
        Some(events)
    }
}

struct Replica {
    writer: ViewWriter,
    view: View,
    /// Revisions that the view has not received yet.
    ahead: VecDeque<Vec<KvEvent>>,
}

impl Replica {
    fn listing(store: &Store) -> Self {
        let protection = Protection { from_size: 0, keep_percent: 50 };
        let (mut writer, view) = empty(History::new(100_000), protection, Clock::manual(1));
        writer.reset(store.keys.values().cloned().collect(), store.rev.into());
        Self { writer, view, ahead: VecDeque::new() }
    }

    fn catch_up(&mut self) {
        for events in self.ahead.drain(..) {
            self.writer.apply(events);
        }
    }

    fn now(&self) -> std::sync::Arc<Snapshot> {
        self.view.now().expect("listed")
    }
}

/// The override of a side, as the model knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Free,
    /// Of the plan, with this weight.
    Own(u8),
    Foreign,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(u64),
    CatchUp(usize),
    Restart(usize),
    /// A replica looks for due steps, with a clock that is so many seconds ahead.
    Tick(usize, u64),
    Ask(usize, Act),
    /// Somebody sets another override with the target of a side.
    Set(usize, usize),
    /// Somebody ends the override of a side.
    End(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let replica = 0..2_usize;
    let act = prop_oneof![3 => Just(Act::Pause), 4 => Just(Act::Resume), 1 => Just(Act::Undo)];
    prop_oneof![
        6 => (0..8_u64).prop_map(Step::Pass),
        5 => replica.clone().prop_map(Step::CatchUp),
        1 => replica.clone().prop_map(Step::Restart),
        8 => (replica.clone(), 0..3_u64).prop_map(|(replica, ahead)| Step::Tick(replica, ahead)),
        4 => (replica.clone(), act).prop_map(|(replica, act)| Step::Ask(replica, act)),
        1 => (replica.clone(), 0..2_usize).prop_map(|(replica, side)| Step::Set(replica, side)),
        1 => (replica, 0..2_usize).prop_map(|(replica, side)| Step::End(replica, side)),
    ]
}

/// A plan, the plain way.
struct Model {
    steps: Vec<(u8, u64)>,
    state: ShiftState,
    step: usize,
    began: u64,
    elapsed: u64,
    sides: [Side; 2],
}

impl Model {
    fn weights(&self) -> [Side; 2] {
        let to = self.steps[self.step - 1].0;
        [Side::Own(100 - to), Side::Own(to)]
    }

    fn lasts(&self) -> u64 {
        self.steps[self.step - 1].1
    }

    fn is_due(&self, now: u64) -> bool {
        self.state == ShiftState::Running && self.began + self.lasts() <= now
    }

    fn advance(&mut self, now: u64) {
        assert!(self.is_due(now), "a step was taken before its time");
        if self.sides != self.weights() {
            self.state = ShiftState::Paused;
            self.elapsed = 0;
            return;
        }
        self.began = now;
        if self.step == self.steps.len() {
            self.state = ShiftState::Done;
        } else {
            self.step += 1;
            self.sides = self.weights();
        }
    }

    /// True when the plan changes.
    fn ask(&mut self, act: Act, now: u64) -> bool {
        match (act, self.state) {
            (Act::Pause, ShiftState::Running) => {
                self.elapsed = now.saturating_sub(self.began).min(self.lasts());
                self.state = ShiftState::Paused;
            }
            (Act::Resume, ShiftState::Paused) if !self.sides.contains(&Side::Foreign) => {
                self.began = now - self.elapsed;
                self.state = ShiftState::Running;
                self.sides = self.weights();
            }
            (Act::Undo, ShiftState::Running | ShiftState::Paused | ShiftState::Done) => {
                self.state = ShiftState::Undone;
                for side in &mut self.sides {
                    if matches!(side, Side::Own(_)) {
                        *side = Side::Free;
                    }
                }
            }
            _ => return false,
        }
        true
    }
}

fn services() -> [ServiceRef; 2] {
    ["old", "new"].map(|id| ServiceRef::new(Tenant::default(), id))
}

fn plan(steps: &[(u8, u64)], now: u64) -> ShiftRecord {
    let [from, to] =
        services().map(|service| ShiftSide { service_id: service.id, target: OverrideTarget::default() });
    let steps = steps.iter().map(|(to, seconds)| ShiftStep {
        to_weight: *to,
        from_weight: 100 - to,
        seconds: *seconds,
    });
    let steps = steps.collect();
    ShiftRecord { from, to, steps, step: 1, since: now, step_since: now, ..ShiftRecord::default() }
}

fn settled() -> Store {
    let mut store = Store { rev: 1, ..Store::default() };
    for service in services() {
        let record = json!({"serviceId": service.id, "serviceName": "order", "version": service.id});
        let instance = json!({"instanceId": "i", "serviceId": service.id, "status": "UP", "hostName": "h"});
        let then = vec![
            Op::put(keys::service(&service), record.to_string()),
            Op::put(keys::instance(&service, "i"), instance.to_string()),
        ];
        store.txn(Txn { then, ..Txn::default() }).expect("no conditions");
    }
    store
}

/// The transaction of a step by a replica, if it makes one.
fn wanted(replica: &Replica, step: Step, clock: u64) -> Option<Txn> {
    let snapshot = replica.now();
    let tenant = Tenant::default();
    let entry = snapshot.tenant(&tenant)?.shifts.get(ID)?.clone();
    let foreign = OverrideRecord { weight: Some(FOREIGN), ..OverrideRecord::default() };
    match step {
        Step::Tick(_, ahead) => advanced(&snapshot, &tenant, ID, clock + ahead).map(|step| step.txn),
        Step::Ask(_, act) => changed(&snapshot, &tenant, ID, &entry, act, clock, "ann").ok()?,
        Step::Set(_, side) => {
            let service = &services()[side];
            let id = OverrideTarget::default().id(service);
            Some(written(service, &id, present(&snapshot, service, &id), &foreign))
        }
        Step::End(_, side) => {
            let service = &services()[side];
            let id = OverrideTarget::default().id(service);
            let before = present(&snapshot, service, &id)?;
            let ended = OverrideRecord { ended_by: "bob".to_owned(), ..before.record.clone() };
            before.record.is_in_force().then(|| written(service, &id, Some(before), &ended))
        }
        Step::Pass(_) | Step::CatchUp(_) | Step::Restart(_) => None,
    }
}

fn check(store: &Store, model: &Model) {
    // A replica that has just listed shows the same as one that follows.
    let listed = Replica::listing(store).now();
    let tenant = Tenant::default();
    let record = &listed.tenant(&tenant).expect("the tenant").shifts.get(ID).expect("the plan").record;
    assert_eq!((record.state, record.step), (model.state, model.step));
    if model.state == ShiftState::Running {
        assert_eq!(record.step_since, model.began);
    }
    assert_eq!(listed.shifting.size(), usize::from(model.state == ShiftState::Running));
    for (service, side) in services().iter().zip(model.sides) {
        let expected = match side {
            Side::Free => None,
            Side::Own(weight) => Some(weight),
            Side::Foreign => Some(FOREIGN),
        };
        let view = listed.any_service(service).expect("the service");
        let shown = view.instances.get("i").expect("the instance");
        let weight =
            shown.instance.unpack().properties.get(WEIGHT).map(|weight| weight.parse().expect("a number"));
        assert_eq!(weight, expected, "{}", service.id);
    }
}

proptest! {
    #[test]
    fn a_plan_is_as_the_plain_model_says(
        steps in prop::collection::vec((1..100_u8, 1..6_u64), 1..5),
        history in prop::collection::vec(step(), 1..120),
    ) {
        let mut store = settled();
        let mut clock = 1_000;
        let tenant = Tenant::default();
        let mut replicas = [Replica::listing(&store), Replica::listing(&store)];
        let txn = started(&replicas[0].now(), &tenant, ID, &plan(&steps, clock)).expect("can start");
        // Only one of two that start the same weights wins.
        let other = started(&replicas[1].now(), &tenant, "other", &plan(&steps, clock)).expect("can start");
        let events = store.txn(txn).expect("nobody is before it");
        prop_assert!(store.txn(other).is_none());
        replicas.iter_mut().for_each(|replica| replica.ahead.push_back(events.clone()));
        let mut model =
            Model { steps, state: ShiftState::Running, step: 1, began: clock, elapsed: 0, sides: [Side::Free; 2] };
        model.sides = model.weights();
        for step in history {
            let actor = match step {
                Step::Pass(seconds) => {
                    clock += seconds;
                    continue;
                }
                Step::CatchUp(replica) => {
                    replicas[replica].catch_up();
                    continue;
                }
                Step::Restart(replica) => {
                    replicas[replica] = Replica::listing(&store);
                    continue;
                }
                Step::Tick(replica, _) | Step::Ask(replica, _) | Step::Set(replica, _)
                | Step::End(replica, _) => &replicas[replica],
            };
            let is_current = actor.ahead.is_empty();
            let events = wanted(actor, step, clock).and_then(|txn| store.txn(txn));
            if events.is_none() && !is_current {
                // It came too late, and nothing has happened.
                check(&store, &model);
                continue;
            }
            let has_changed = match step {
                Step::Tick(_, ahead) if events.is_some() || model.is_due(clock + ahead) => {
                    model.advance(clock + ahead);
                    // The clock of this replica is the one that counts from now on.
                    clock += ahead;
                    true
                }
                Step::Ask(_, act) => model.ask(act, clock),
                Step::Set(_, side) => {
                    model.sides[side] = Side::Foreign;
                    true
                }
                Step::End(_, side) => std::mem::replace(&mut model.sides[side], Side::Free) != Side::Free,
                _ => false,
            };
            prop_assert_eq!(has_changed, events.is_some());
            if let Some(events) = events {
                replicas.iter_mut().for_each(|replica| replica.ahead.push_back(events.clone()));
            }
            check(&store, &model);
        }
        replicas.iter_mut().for_each(Replica::catch_up);
        let digests = replicas.each_ref().map(|replica| {
            let now = replica.now();
            services().map(|service| now.any_service(&service).map(|view| view.digest))
        });
        prop_assert_eq!(digests[0], digests[1]);
        let shifting = replicas.each_ref().map(|replica| replica.now().shifting.size());
        prop_assert_eq!(shifting, [usize::from(model.state == ShiftState::Running); 2]);
    }
}

#[test]
fn the_oldest_undone_shift_makes_room() {
    let mut store = settled();
    let tenant = Tenant::default();
    for n in 0..MOST_OF_TENANT as u64 {
        let state = if n == 7 || n == 9 { ShiftState::Undone } else { ShiftState::Done };
        let record = ShiftRecord { state, step_since: 1_000 - n, ..plan(&[(1, 1)], 1) };
        let then = planned(&tenant, &format!("p{n}"), Revision::ZERO, &record).then;
        store.txn(Txn { then, ..Txn::default() }).expect("no conditions");
    }
    let mut replica = Replica::listing(&store);
    for expected in [Some("p9"), Some("p7"), None] {
        let mut txn = Txn::default();
        let outcome = make_room(&replica.now(), &tenant, &mut txn);
        let deleted = expected.map(|id| Op::Delete(keys::shift(&tenant, id)));
        assert_eq!((outcome.is_ok(), txn.then.first()), (expected.is_some(), deleted.as_ref()));
        let Some(id) = expected else { break };
        // Another one takes the place.
        store.txn(txn).expect("nobody else");
        let record = ShiftRecord { state: ShiftState::Done, ..plan(&[(1, 1)], 1) };
        store.txn(planned(&tenant, &format!("after-{id}"), Revision::ZERO, &record)).expect("nobody else");
        replica = Replica::listing(&store);
    }
    assert_eq!(removals(&replica.now(), u64::MAX).count(), 0);
}

#[test]
fn after_a_restore_a_shift_waits_for_somebody() {
    let mut store = settled();
    let tenant = Tenant::default();
    let txn = started(&Replica::listing(&store).now(), &tenant, ID, &plan(&[(10, 5), (50, 5)], 100));
    store.txn(txn.expect("can start")).expect("nobody is before it");
    // A control plane has noticed the restore of this backup.
    let then = vec![Op::put(keys::INCARNATION.to_owned(), "7")];
    store.txn(Txn { then, ..Txn::default() }).expect("no conditions");
    let due = |store: &Store, now| advanced(&Replica::listing(store).now(), &tenant, ID, now);
    let step = due(&store, 200).expect("due");
    assert_eq!(step.outcome, StepOutcome::Interrupted);
    store.txn(step.txn).expect("nobody else");
    let snapshot = Replica::listing(&store).now();
    let entry = snapshot.tenant(&tenant).expect("the tenant").shifts.get(ID).expect("the plan");
    assert_eq!((entry.record.state, entry.record.step), (ShiftState::Paused, 1));
    assert!(entry.record.obstacle.contains("restored"), "{}", entry.record.obstacle);
    // Somebody has looked. The steps go on, and the last one ends the plan.
    let txn = changed(&snapshot, &tenant, ID, entry, Act::Resume, 300, "ann").expect("nothing is in the way");
    store.txn(txn.expect("it was paused")).expect("nobody else");
    for (now, outcome) in [(305, StepOutcome::Taken), (310, StepOutcome::Done)] {
        let step = due(&store, now).expect("due");
        assert_eq!(step.outcome, outcome);
        store.txn(step.txn).expect("nobody else");
    }
}
