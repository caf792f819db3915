//! Compares merged instances with a plain model, over random histories of registrations, overrides and ends,
//! on a replica that follows, on one that lists anew now and then, and at a follower of the events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;
use shared::clock::Clock;
use shared::event::{Action, Position};
use shared::model::{Instance, Revision, ServiceRef, Tenant};

use crate::keys;
use crate::store::{KeyValue, KvEvent};
use crate::view::overrides::{OverrideRecord, OverrideTarget};
use crate::view::{Change, History, Protection, ServiceView, View, ViewWriter, empty};

const SERVICES: u8 = 2;
const INSTANCES: u8 = 3;
const TARGETS: u8 = 6;
/// The target that is a drain, of the first instance.
const DRAIN: u8 = 5;

#[derive(Clone, Debug)]
enum Write {
    /// A service, an instance, and the variant of what it reports.
    Register(u8, u8, u8),
    Unregister(u8, u8),
    /// A service, one of the targets, and one of the wishes.
    Set(u8, u8, u8),
    End(u8, u8),
    /// All ended overrides of a service become one.
    Collapse(u8),
    /// The drained instance of a service unregisters, and the mark of its drain goes with it.
    Leave(u8),
    ServiceGone(u8),
}

fn write() -> impl Strategy<Value = Write> {
    let service = 0..SERVICES;
    let instance = 0..INSTANCES;
    prop_oneof![
        6 => (service.clone(), instance.clone(), 0..4_u8).prop_map(|(s, i, v)| Write::Register(s, i, v)),
        2 => (service.clone(), instance).prop_map(|(s, i)| Write::Unregister(s, i)),
        6 => (service.clone(), 0..TARGETS, 0..6_u8).prop_map(|(s, t, w)| Write::Set(s, t, w)),
        4 => (service.clone(), 0..TARGETS).prop_map(|(s, t)| Write::End(s, t)),
        1 => service.clone().prop_map(Write::Collapse),
        1 => service.clone().prop_map(Write::Leave),
        1 => service.prop_map(Write::ServiceGone),
    ]
}

fn service_ref(n: u8) -> ServiceRef {
    ServiceRef::new(Tenant::default(), format!("s{n}"))
}

fn target(n: u8) -> OverrideTarget {
    match n {
        0 => OverrideTarget::default(),
        1 => OverrideTarget { zone: "east".into(), ..OverrideTarget::default() },
        2 => OverrideTarget {
            properties: [("colour".to_owned(), "blue".to_owned())].into(),
            ..OverrideTarget::default()
        },
        DRAIN => OverrideTarget::drain_of("i0"),
        n => OverrideTarget { instance_id: format!("i{}", n - 3), ..OverrideTarget::default() },
    }
}

fn wish(n: u8, target: OverrideTarget) -> OverrideRecord {
    let wish = OverrideRecord { target, owner: "root".into(), ..OverrideRecord::default() };
    match n {
        _ if wish.target.drain => OverrideRecord { status: "OUTOFSERVICE".into(), until: 100, ..wish },
        0 => OverrideRecord { status: "OUTOFSERVICE".into(), ..wish },
        1 => OverrideRecord { status: "TESTING".into(), weight: Some(10), ..wish },
        2 => OverrideRecord { weight: Some(90), until: 100, ..wish },
        // The merged property must not change which targets take the instance.
        3 => OverrideRecord { metadata: [("colour".to_owned(), "blue".to_owned())].into(), ..wish },
        4 => OverrideRecord { metadata: [("more".to_owned(), "yes".to_owned())].into(), ..wish },
        _ => wish,
    }
}

/// An override as the model knows it.
#[derive(Clone)]
struct Wish {
    record: OverrideRecord,
    set_at: u64,
}

/// The store, and beside it the plain model: what is reported, what is wanted, and when each instance last
/// changed for clients.
#[derive(Default)]
struct Model {
    rev: u64,
    keys: BTreeMap<String, KeyValue>,
    reported: BTreeMap<(u8, u8), Instance>,
    wishes: BTreeMap<(u8, u8), Wish>,
    changed_at: BTreeMap<(u8, u8), u64>,
}

impl Model {
    fn put(&mut self, key: String, value: serde_json::Value, events: &mut Vec<KvEvent>) {
        let kv = KeyValue {
            key: key.clone(),
            value: value.to_string().into(),
            create_rev: self.rev.into(),
            mod_rev: self.rev.into(),
            version: 1,
            lease: None,
        };
        events.push(KvEvent::Put(kv.clone()));
        self.keys.insert(key, kv);
    }

    fn delete(&mut self, key: &str, events: &mut Vec<KvEvent>) {
        if self.keys.remove(key).is_some() {
            events.push(KvEvent::Delete { key: key.to_owned(), rev: self.rev.into() });
        }
    }

    fn touch(&mut self, service: u8, target: &OverrideTarget) {
        for (key, instance) in &self.reported {
            if key.0 == service && target.takes(instance) {
                self.changed_at.insert(*key, self.rev);
            }
        }
    }

    fn put_service(&mut self, n: u8, events: &mut Vec<KvEvent>) {
        let key = keys::service(&service_ref(n));
        if !self.keys.contains_key(&key) {
            let record =
                json!({"serviceId": format!("s{n}"), "serviceName": format!("n{n}"), "version": "1"});
            self.put(key, record, events);
        }
    }

    /// One revision. Each key is written once in it, as in every transaction.
    fn commit(&mut self, writes: &[Write]) -> Vec<KvEvent> {
        self.rev += 1;
        let mut events = Vec::new();
        let mut touched = BTreeSet::new();
        // Overrides that were written in this revision take the instances as they are at its end.
        let mut set = Vec::new();
        for write in writes {
            let of = match write {
                Write::Register(s, i, _) | Write::Unregister(s, i) => (*s, 0, *i),
                Write::Set(s, t, _) | Write::End(s, t) => (*s, 1, *t),
                // These change many keys of the service, so that they have the revision for themselves.
                Write::Collapse(s) | Write::Leave(s) | Write::ServiceGone(s) => (*s, 2, 0),
            };
            let is_alone = touched.iter().any(|(s, kind, _)| *s == of.0 && (*kind == 2 || of.1 == 2));
            if is_alone || !touched.insert(of) {
                continue;
            }
            self.write(write, &mut set, &mut events);
        }
        for (service, target) in set {
            self.touch(service, &target);
        }
        events
    }

    fn write(&mut self, write: &Write, set: &mut Vec<(u8, OverrideTarget)>, events: &mut Vec<KvEvent>) {
        match write {
            Write::Register(s, i, variant) => {
                self.put_service(*s, events);
                let zone = if variant & 1 == 0 { "east" } else { "west" };
                let colour = if variant & 2 == 0 { "blue" } else { "red" };
                let value = json!({
                    "instanceId": format!("i{i}"), "serviceId": format!("s{s}"), "status": "UP",
                    "hostName": format!("h{}", self.rev), "properties": {"colour": colour},
                    "dataCenterInfo": {"name": "d", "region": "r", "availableZone": zone},
                });
                let instance = serde_json::from_value(value.clone()).expect("an instance");
                self.reported.insert((*s, *i), instance);
                self.changed_at.insert((*s, *i), self.rev);
                self.put(keys::instance(&service_ref(*s), &format!("i{i}")), value, events);
            }
            Write::Unregister(s, i) => {
                self.reported.remove(&(*s, *i));
                self.delete(&keys::instance(&service_ref(*s), &format!("i{i}")), events);
            }
            Write::Set(s, t, w) => {
                self.put_service(*s, events);
                let record = wish(*w, target(*t));
                let key = keys::override_of(&service_ref(*s), &format!("o{t}"));
                self.put(key, json!(record), events);
                set.push((*s, record.target.clone()));
                self.wishes.insert((*s, *t), Wish { record, set_at: self.rev });
            }
            Write::End(s, t) => {
                let key = keys::override_of(&service_ref(*s), &format!("o{t}"));
                let Some(wish) = self.wishes.remove(&(*s, *t)) else { return };
                let record = OverrideRecord { ended_by: "root".into(), ..wish.record };
                set.push((*s, record.target.clone()));
                self.put(key, json!(record), events);
            }
            Write::Leave(s) => {
                self.reported.remove(&(*s, 0));
                self.wishes.remove(&(*s, DRAIN));
                self.delete(&keys::override_of(&service_ref(*s), &format!("o{DRAIN}")), events);
                self.delete(&keys::instance(&service_ref(*s), "i0"), events);
            }
            Write::Collapse(s) => {
                for t in 1..TARGETS {
                    if !self.wishes.contains_key(&(*s, t)) {
                        self.delete(&keys::override_of(&service_ref(*s), &format!("o{t}")), events);
                    }
                }
                let whole = keys::override_of(&service_ref(*s), "o0");
                let record = match self.wishes.get_mut(&(*s, 0)) {
                    Some(wish) => {
                        wish.set_at = self.rev;
                        wish.record.clone()
                    }
                    None => OverrideRecord { ended_by: "root".into(), ..OverrideRecord::default() },
                };
                self.put(whole, json!(record), events);
                set.push((*s, OverrideTarget::default()));
            }
            Write::ServiceGone(s) => {
                self.delete(&keys::service(&service_ref(*s)), events);
                for i in 0..INSTANCES {
                    self.reported.remove(&(*s, i));
                    self.delete(&keys::instance(&service_ref(*s), &format!("i{i}")), events);
                }
                for t in 0..TARGETS {
                    self.wishes.remove(&(*s, t));
                    self.delete(&keys::override_of(&service_ref(*s), &format!("o{t}")), events);
                }
            }
        }
    }

    /// The removal of the records that the view says nobody needs.
    fn sweep(&mut self, view: &View) -> Vec<KvEvent> {
        let now = view.now().expect("listed");
        self.rev += 1;
        let mut events = Vec::new();
        let mut bytes = 0;
        for s in 0..SERVICES {
            let Some(view) = now.any_service(&service_ref(s)) else { continue };
            bytes += view.overrides.values().map(|entry| entry.bytes).sum::<usize>();
            for (id, entry) in view.overrides.iter() {
                if !view.needs(entry) {
                    self.delete(&keys::override_of(&service_ref(s), id), &mut events);
                }
            }
        }
        let counted = now.tenant(&Tenant::default()).map_or(0, |tenant| tenant.override_bytes);
        assert_eq!(counted, bytes, "the bytes of the tenant's overrides");
        events
    }

    /// An instance as clients are to see it, worked out the plain way: the fields of each wish one after the
    /// other, the whole service first, then properties or a zone, then the instance itself.
    fn shown(&self, s: u8, i: u8) -> Instance {
        let reported = &self.reported[&(s, i)];
        let mut shown = reported.clone();
        let mut wishes: Vec<(u8, &Wish)> =
            self.wishes.iter().filter(|((of, _), _)| *of == s).map(|((_, t), wish)| (*t, wish)).collect();
        let rank = |t: u8| match t {
            0 => 0,
            1 | 2 => 1,
            DRAIN => 3,
            _ => 2,
        };
        wishes.sort_by_key(|(t, wish)| (rank(*t), wish.set_at, *t));
        for (_, wish) in wishes {
            if !wish.record.target.takes(reported) {
                continue;
            }
            if !wish.record.status.is_empty() {
                shown.status.clone_from(&wish.record.status);
            }
            shown.properties.extend(wish.record.metadata.clone());
            if let Some(weight) = wish.record.weight {
                shown.properties.insert("weight".to_owned(), weight.to_string());
            }
        }
        shown
    }

    fn expected(&self, s: u8) -> BTreeMap<String, (Instance, Revision)> {
        let mut expected = BTreeMap::new();
        for (of, i) in self.reported.keys().filter(|(of, _)| *of == s) {
            let rev = self.changed_at[&(*of, *i)];
            expected.insert(format!("i{i}"), (self.shown(*of, *i), rev.into()));
        }
        expected
    }
}

fn replica() -> (ViewWriter, View) {
    let (mut writer, view) =
        empty(History::new(100_000), Protection { from_size: 0, keep_percent: 50 }, Clock::manual(1));
    writer.reset(Vec::new(), 1.into());
    (writer, view)
}

fn contents(view: &ServiceView) -> BTreeMap<String, (Instance, Revision)> {
    let mut contents = BTreeMap::new();
    for (id, entry) in view.instances.iter() {
        contents.insert(id.clone(), (entry.instance.unpack(), entry.mod_rev));
    }
    contents
}

/// A gateway that knows events alone.
#[derive(Default)]
struct Follower {
    seen: Revision,
    at: BTreeMap<ServiceRef, Position>,
    known: BTreeMap<ServiceRef, BTreeMap<String, (Instance, Revision)>>,
}

impl Follower {
    fn catch_up(&mut self, view: &View) {
        let now = view.now().expect("listed").revision;
        let since = view.history().since(self.seen, now, |_| true);
        assert!(since.complete);
        self.seen = now;
        for change in since.changes {
            let Change::Instance(event) = change else { continue };
            let at = self.at.entry(event.provider.clone()).or_default();
            assert!(event.prev <= *at || *at == Position::default());
            assert!(event.at > *at);
            *at = event.at;
            let known = self.known.entry(event.provider.clone()).or_default();
            let id = event.instance.instance_id.clone();
            if event.action == Action::Delete {
                known.remove(&id);
                continue;
            }
            let value = ((*event.instance).clone(), event.mod_rev);
            if let Some(before) = known.insert(id, value) {
                // A gateway drops an event that is not newer than what it knows.
                assert!(before.1 < event.mod_rev, "{event:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn every_replica_and_follower_shows_the_one_merge(
        history in prop::collection::vec((prop::collection::vec(write(), 1..4), 0..8_u8), 1..40)
    ) {
        let (mut following, followed) = replica();
        let (mut listing, listed) = replica();
        let mut model = Model { rev: 1, ..Model::default() };
        let mut follower = Follower { seen: 1.into(), ..Follower::default() };
        for (writes, then) in history {
            let mut batches = vec![model.commit(&writes)];
            following.apply(batches[0].clone());
            if then == 0 {
                batches.push(model.sweep(&followed));
                following.apply(batches[1].clone());
            }
            if then == 1 {
                listing.reset(model.keys.values().cloned().collect(), model.rev.into());
            } else {
                batches.into_iter().for_each(|batch| listing.apply(batch));
            }
            follower.catch_up(&followed);
            for s in 0..SERVICES {
                let service = service_ref(s);
                let expected = model.expected(s);
                for view in [&followed, &listed] {
                    let now = view.now().expect("listed");
                    let shown = now.any_service(&service).map(|view| contents(view)).unwrap_or_default();
                    prop_assert_eq!(&shown, &expected);
                    prop_assert!(now.torn.is_empty());
                }
                prop_assert_eq!(follower.known.get(&service).cloned().unwrap_or_default(), expected);
                let digests = [&followed, &listed]
                    .map(|view| view.now().expect("listed").any_service(&service).map_or(0, |v| v.digest));
                prop_assert_eq!(digests[0], digests[1]);
            }
        }
        let now = followed.now().expect("listed");
        let ending = model.wishes.values().filter(|wish| wish.record.until > 0).count();
        prop_assert_eq!(now.ending.size(), ending);
    }
}

#[test]
fn a_foreign_deletion_shows_at_once_and_is_marked() {
    let (mut writer, view) = replica();
    let mut model = Model { rev: 1, ..Model::default() };
    let mut follower = Follower { seen: 1.into(), ..Follower::default() };
    writer.apply(model.commit(&[Write::Register(0, 0, 0)]));
    writer.apply(model.commit(&[Write::Set(0, 0, 0)]));
    model.rev += 1;
    let mut events = Vec::new();
    model.delete(&keys::override_of(&service_ref(0), "o0"), &mut events);
    writer.apply(events);
    follower.catch_up(&view);
    let known = &follower.known[&service_ref(0)]["i0"];
    assert_eq!((known.0.status.as_str(), known.1), ("UP", 4.into()));
    assert!(view.now().expect("listed").torn.contains_key(&service_ref(0)));
    // As the steward heals it: an override of the whole service is written, and may have ended.
    writer.apply(model.commit(&[Write::Collapse(0)]));
    let now = view.now().expect("listed");
    assert!(now.torn.is_empty());
    let (mut later, listed) = replica();
    later.reset(model.keys.values().cloned().collect(), model.rev.into());
    let digest = |view: &View| view.now().expect("listed").any_service(&service_ref(0)).map(|v| v.digest);
    assert_eq!(digest(&view), digest(&listed));
}

#[test]
fn a_held_instance_stays_held_when_an_override_takes_it() {
    let (mut writer, view) = replica();
    let mut model = Model { rev: 1, ..Model::default() };
    writer.apply(model.commit(&[Write::Register(0, 0, 0), Write::Register(0, 1, 0)]));
    let mut events = Vec::new();
    model.rev += 1;
    let instance = model.reported.remove(&(0, 0)).expect("registered");
    model.delete(&keys::instance(&service_ref(0), "i0"), &mut events);
    writer.apply(std::mem::take(&mut events));
    model.rev += 1;
    let held = json!({"instance": instance, "modRev": 2, "since": 3});
    model.put(keys::held(&service_ref(0), "i0"), held, &mut events);
    writer.apply(events);
    writer.apply(model.commit(&[Write::Set(0, 0, 0)]));
    let (mut later, listed) = replica();
    later.reset(model.keys.values().cloned().collect(), model.rev.into());
    for view in [&view, &listed] {
        let now = view.now().expect("listed");
        let service = now.any_service(&service_ref(0)).expect("registered");
        assert_eq!((service.living(), service.held.size()), (1, 1));
        let shown = service.instances.get("i0").expect("held");
        assert_eq!((shown.instance.unpack().status.as_str(), shown.mod_rev), ("OUTOFSERVICE", 5.into()));
        assert_eq!(shown.reported.unpack().status, "UP");
    }
}
