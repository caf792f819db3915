//! Compares the view with a plain model: for any history of writes, a follower of the events reaches the
//! view's state.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;
use shared::clock::Clock;
use shared::event::{Action, Position, digest_of};
use shared::model::{Revision, Scope, ServiceRef, Tenant};

use super::*;
use crate::keys::{self, Key, Name};
use crate::store::{KeyValue, KvEvent};

mod overrides;

/// One write of a revision. There are few services and instances, so that writes collide.
#[derive(Clone, Debug)]
enum Write {
    Service(u8),
    ServiceGone(u8),
    Instance(u8, u8),
    InstanceGone(u8, u8),
    Rule(u8, Vec<u8>),
    Junk(u8),
}

fn write() -> impl Strategy<Value = Write> {
    let service = 0..3_u8;
    let instance = 0..4_u8;
    prop_oneof![
        2 => service.clone().prop_map(Write::Service),
        1 => service.clone().prop_map(Write::ServiceGone),
        6 => (service.clone(), instance.clone()).prop_map(|(s, i)| Write::Instance(s, i)),
        4 => (service.clone(), instance).prop_map(|(s, i)| Write::InstanceGone(s, i)),
        2 => (service.clone(), prop::collection::vec(0..3_u8, 0..3)).prop_map(|(c, p)| Write::Rule(c, p)),
        1 => service.prop_map(Write::Junk),
    ]
}

/// The store as a map, as a list would read it.
#[derive(Default)]
struct ModelStore {
    rev: Revision,
    rules: BTreeMap<u8, BTreeSet<u8>>,
    keys: BTreeMap<String, KeyValue>,
}

fn service_ref(n: u8) -> ServiceRef {
    ServiceRef::new(Tenant::default(), format!("s{n}"))
}

fn name(n: u8) -> Name {
    Name::new("", "shop", &format!("name{n}"))
}

impl ModelStore {
    fn put(&mut self, key: String, value: serde_json::Value, events: &mut Vec<KvEvent>) {
        let text = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let kv = KeyValue {
            key: key.clone(),
            value: text.into(),
            create_rev: self.rev,
            mod_rev: self.rev,
            version: 1,
            lease: None,
        };
        // A transaction writes a key once, so a later write of the same revision replaces the earlier one.
        events.retain(|event| event.key() != key);
        events.push(KvEvent::Put(kv.clone()));
        self.keys.insert(key, kv);
    }

    fn delete(&mut self, key: &str, events: &mut Vec<KvEvent>) {
        if self.keys.get(key).is_some_and(|kv| kv.mod_rev == self.rev) {
            // etcd refuses two changes of a key in one transaction.
            return;
        }
        if self.keys.remove(key).is_some() {
            events.push(KvEvent::Delete { key: key.to_owned(), rev: self.rev });
        }
    }

    fn commit(&mut self, writes: &[Write]) -> Vec<KvEvent> {
        self.rev = self.rev.next();
        let mut events = Vec::new();
        for write in writes {
            match write {
                Write::Service(n) => {
                    // At each third revision the written service moves to the default environment, outside
                    // the scope.
                    let environment = if self.rev.get().is_multiple_of(3) { "" } else { "test" };
                    let record = json!({"serviceId": format!("s{n}"), "appId": "shop", "environment": environment, "serviceName": format!("name{n}"), "version": "1.0.0"});
                    self.put(keys::service(&service_ref(*n)), record, &mut events);
                    let index = keys::index(&Tenant::default(), &name(*n), "1.0.0");
                    self.put(index, json!(format!("s{n}")), &mut events);
                }
                Write::ServiceGone(n) => {
                    self.delete(&keys::service(&service_ref(*n)), &mut events);
                    self.delete(&keys::index(&Tenant::default(), &name(*n), "1.0.0"), &mut events);
                    for i in 0..4 {
                        self.delete(&keys::instance(&service_ref(*n), &format!("i{i}")), &mut events);
                    }
                }
                Write::Instance(s, i) => {
                    let value = json!({"hostName": format!("h{}", self.rev)});
                    self.put(keys::instance(&service_ref(*s), &format!("i{i}")), value, &mut events);
                }
                Write::InstanceGone(s, i) => {
                    self.delete(&keys::instance(&service_ref(*s), &format!("i{i}")), &mut events);
                }
                Write::Rule(consumer, providers) => {
                    let key = |n: &u8| json!({"tenant": "default/default", "appId": "shop", "serviceName": format!("name{n}"), "version": "0+"});
                    let rule = Key::ConsumerRule(Tenant::default(), name(*consumer), "1.0.0".into());
                    let providers: BTreeSet<u8> = providers.iter().copied().collect();
                    let value = json!({"Dependency": providers.iter().map(key).collect::<Vec<_>>()});
                    self.put(rule.render().expect("a key"), value, &mut events);
                    self.rules.insert(*consumer, providers);
                    // Each rule is stored on both sides, as in every real store.
                    for provider in 0..3 {
                        let rule = Key::ProviderRule(Tenant::default(), name(provider), "0+".into());
                        let consumers: Vec<_> = self.rules.iter().filter(|(_, p)| p.contains(&provider)).map(|(c, _)| json!({"tenant": "default/default", "appId": "shop", "serviceName": format!("name{c}"), "version": "1.0.0"})).collect();
                        self.put(
                            rule.render().expect("a key"),
                            json!({"Dependency": consumers}),
                            &mut events,
                        );
                    }
                }
                Write::Junk(n) => {
                    self.put(
                        format!("/cse-sr/inst/files/default/default/s{n}/junk"),
                        json!("{not json"),
                        &mut events,
                    );
                }
            }
        }
        events
    }
}

/// A provider as a gateway knows it from events alone.
#[derive(Default)]
struct ProviderFollower {
    at: Position,
    instances: BTreeMap<String, Revision>,
}

/// A follower of the whole history. It checks the chain of each provider on the way.
struct Followers {
    seen: Revision,
    known: BTreeMap<ServiceRef, ProviderFollower>,
    interest: BTreeMap<ServiceRef, BTreeSet<ServiceRef>>,
    /// The services of the scope, as a watcher of the scope knows them.
    scoped: BTreeSet<ServiceRef>,
}

impl Followers {
    fn catch_up(&mut self, view: &View) {
        let now = view.now().expect("listed");
        let since = view.history().since(self.seen, now.revision, |_| true);
        self.seen = now.revision;
        if !since.complete {
            return self.take_state(&now);
        }
        for change in since.changes {
            match change {
                Change::Instance(event) => {
                    let follower = self.known.entry(event.provider.clone()).or_default();
                    assert!(
                        event.prev <= follower.at || follower.at == Position::default(),
                        "events before {event:?} are missing"
                    );
                    assert!(event.at > follower.at, "{event:?} repeats {:?}", follower.at);
                    follower.at = event.at;
                    let id = event.instance.instance_id.clone();
                    let known = match event.action {
                        Action::Delete => follower.instances.remove(&id),
                        _ => follower.instances.insert(id, event.mod_rev),
                    };
                    assert_eq!(known.is_none(), event.action == Action::Create, "{event:?}");
                    assert!(!event.instance.service_id.is_empty() && !event.key.service_name.is_empty());
                }
                Change::Interest(change) => {
                    let consumer: ServiceRef = change.consumer.clone().expect("a consumer").into();
                    let known = self.interest.entry(consumer.clone()).or_default();
                    for removed in &change.removed {
                        assert!(known.remove(&removed.clone().into()), "{removed:?} was never added");
                    }
                    for added in &change.added {
                        assert!(known.insert(added.clone().into()), "{added:?} was added before");
                    }
                    if change.consumer_deleted {
                        self.interest.remove(&consumer);
                    }
                }
                Change::Services(change) => {
                    for added in &change.added {
                        let service = ServiceRef::from(added.service.clone().expect("a service"));
                        match scope().matches(&added.key.clone().expect("a name").into()) {
                            true => self.scoped.insert(service),
                            false => self.scoped.remove(&service),
                        };
                    }
                    for removed in &change.removed {
                        self.scoped.remove(&removed.clone().into());
                    }
                }
            }
        }
    }

    /// Takes the state of the view, as a gateway does when the history does not reach back far enough.
    fn take_state(&mut self, now: &Snapshot) {
        self.scoped = interest::scoped(now, &scope());
        self.known = BTreeMap::new();
        self.interest = BTreeMap::new();
        for service in (0..3).map(service_ref) {
            let instances = now.service(&service).into_iter().flat_map(|(view, _)| view.instances.iter());
            let instances = instances.map(|(id, instance)| (id.clone(), instance.mod_rev)).collect();
            let at = Position::end_of(now.revision);
            self.known.insert(service.clone(), ProviderFollower { at, instances });
            if let Some(providers) = interest::providers(now, &service) {
                self.interest.insert(service, providers);
            }
        }
    }

    fn agree_with(&self, view: &View) {
        let now = view.now().expect("listed");
        assert_eq!(self.scoped, interest::scoped(&now, &scope()));
        for n in 0..3 {
            let service = service_ref(n);
            let expected: BTreeMap<String, Revision> = match now.service(&service) {
                Some((view, _)) => view.instances.iter().map(|(id, i)| (id.clone(), i.mod_rev)).collect(),
                None => BTreeMap::new(),
            };
            let known = self.known.get(&service).map(|f| f.instances.clone()).unwrap_or_default();
            assert_eq!(known, expected, "instances of {service}");
            if let Some((view, _)) = now.service(&service) {
                let digest =
                    expected.iter().fold(0_u64, |sum, (id, rev)| sum.wrapping_add(digest_of(id, *rev)));
                assert_eq!(view.digest, digest);
            }
            let interest = interest::providers(&now, &service).unwrap_or_default();
            assert_eq!(
                self.interest.get(&service).cloned().unwrap_or_default(),
                interest,
                "interest of {service}"
            );
        }
    }
}

/// The services of one environment. A service may move to another one, because foreign writers change it.
fn scope() -> Scope {
    Scope { environment: Some("test".into()), ..Scope::all(Tenant::default()) }
}

fn start() -> (ViewWriter, View, ModelStore, Followers) {
    let (mut writer, view) =
        empty(History::new(100_000), Protection { from_size: 0, keep_percent: 50 }, Clock::manual(1));
    let store = ModelStore { rev: 1.into(), ..ModelStore::default() };
    writer.reset(Vec::new(), 1.into());
    let followers = Followers {
        seen: 1.into(),
        known: BTreeMap::new(),
        interest: BTreeMap::new(),
        scoped: BTreeSet::new(),
    };
    (writer, view, store, followers)
}

proptest! {
    #[test]
    fn a_follower_of_the_events_reaches_the_state_of_the_view(
        history in prop::collection::vec((prop::collection::vec(write(), 1..5), 0..10_u8), 1..40)
    ) {
        let (mut writer, view, mut store, mut followers) = start();
        let mut missed = false;
        for (writes, outage) in history {
            let events = store.commit(&writes);
            // In an outage the watch misses revisions; after it the view is listed again.
            match outage {
                0 => missed = true,
                1 if missed => {
                    writer.reset(store.keys.values().cloned().collect(), store.rev);
                    missed = false;
                }
                _ if missed => {}
                _ => writer.apply(events),
            }
            followers.catch_up(&view);
        }
        if missed {
            writer.reset(store.keys.values().cloned().collect(), store.rev);
        }
        followers.catch_up(&view);
        followers.agree_with(&view);
        let count = view.now().expect("listed").tenant(&Tenant::default()).map_or(0, |t| t.instance_count);
        let stored = store.keys.keys().filter(|k| k.contains("/inst/files/") && !k.ends_with("junk")).count();
        prop_assert_eq!(count, stored);
    }
}

#[test]
fn a_list_announces_nothing_and_starts_a_new_history() {
    let (mut writer, view, mut store, _) = start();
    writer.apply(store.commit(&[Write::Service(0), Write::Instance(0, 0)]));
    store.commit(&[Write::Instance(0, 1)]);
    store.commit(&[Write::InstanceGone(0, 0)]);
    writer.reset(store.keys.values().cloned().collect(), store.rev);
    assert!(view.history().is_empty() && !view.history().since(2.into(), store.rev, |_| true).complete);
    // The next event follows the end of the list's revision, since the events before it are unknown.
    writer.apply(store.commit(&[Write::Instance(0, 1)]));
    let next = view.history().since(4.into(), 5.into(), |_| true);
    let [Change::Instance(event)] = &next.changes[..] else { panic!("{next:?}") };
    assert_eq!((event.prev, next.complete), (Position::end_of(4.into()), true));
}

#[test]
fn a_revision_is_applied_only_once() {
    let (mut writer, view, mut store, mut followers) = start();
    let events = store.commit(&[Write::Service(0), Write::Instance(0, 0)]);
    writer.apply(events.clone());
    writer.apply(events);
    followers.catch_up(&view);
    assert_eq!(view.history().len(), 2, "one change of services and one event, and no change of interest");
}

#[test]
fn a_deleted_provider_is_announced_under_its_old_name() {
    let (mut writer, view, mut store, _) = start();
    writer.apply(store.commit(&[Write::Service(0), Write::Instance(0, 0), Write::Instance(0, 1)]));
    writer.apply(store.commit(&[Write::ServiceGone(0)]));
    let gone = view.history().since(2.into(), 3.into(), |_| true).changes;
    let deletes: Vec<_> = gone
        .iter()
        .filter_map(|change| match change {
            Change::Instance(event) => {
                Some((event.action, event.at.rev.get(), event.at.sub, event.key.service_name.as_str()))
            }
            Change::Interest(_) | Change::Services(_) => None,
        })
        .collect();
    assert_eq!(deletes, [(Action::Delete, 3, 0, "name0"), (Action::Delete, 3, 1, "name0")]);
    assert!(view.now().expect("listed").any_service(&service_ref(0)).is_none());
}

#[test]
fn instances_wait_for_their_service() {
    let (mut writer, view, mut store, mut followers) = start();
    writer.apply(store.commit(&[Write::Instance(0, 0)]));
    assert!(view.history().is_empty(), "an instance without a service is not announced");
    writer.apply(store.commit(&[Write::Service(0)]));
    followers.catch_up(&view);
    followers.agree_with(&view);
    assert_eq!(followers.known[&service_ref(0)].instances.len(), 1);
}

#[test]
fn an_undecodable_value_is_counted_and_skipped() {
    let (mut writer, view, mut store, _) = start();
    writer.apply(store.commit(&[Write::Service(0), Write::Junk(0)]));
    assert_eq!(view.skipped(), 1);
    assert_eq!(view.now().expect("listed").tenant(&Tenant::default()).map(|t| t.instance_count), Some(0));
}

#[tokio::test(start_paused = true)]
async fn the_view_cannot_be_read_before_the_first_list() {
    let (mut writer, view) = empty(History::new(10), Protection::default(), Clock::manual(1));
    assert_eq!(view.now().err(), Some(ViewError::NotListed));
    assert_eq!(view.at(5.into(), Duration::from_secs(1)).await.err(), Some(ViewError::NotListed));
    writer.reset(Vec::new(), 4.into());
    assert_eq!(view.at(5.into(), Duration::from_secs(1)).await.err(), Some(ViewError::Behind));
    writer.progress(5.into());
    assert_eq!(view.at(5.into(), Duration::from_secs(1)).await.map(|s| s.revision).ok(), Some(5.into()));
}
