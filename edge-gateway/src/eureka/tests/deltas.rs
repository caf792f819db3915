//! Pages and deltas: random changes against a model of the clients, and instances of several versions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use follow::read::{Instances, ReadTopic};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use shared::event::Position;
use shared::model::{Instance, Revision, ServiceRef, Tenant};

use super::super::apps::{Listed, Scope, earlier_of};
use super::super::bodies::{Amount, Form, Format, body};
use super::super::book::{Book, RETENTION, State};
use super::super::json::Detail;
use super::super::model::{Info, Status};
use super::super::{ActionType, Applications, Member, Page, record};
use super::{key, own_status};

fn orders() -> Scope {
    Scope { environment: String::new(), app_id: "default".into() }
}

/// The services of a tenant, as random changes leave them.
#[derive(Default)]
struct World {
    rev: u64,
    services: BTreeMap<u8, BTreeMap<u8, (Arc<Instance>, Revision)>>,
    topics: BTreeMap<ServiceRef, Arc<ReadTopic>>,
}

impl World {
    fn change(&mut self, service: u8, id: u8, status: Option<Status>) {
        self.rev += 1;
        let instances = self.services.entry(service).or_default();
        match status {
            None => _ = instances.remove(&id),
            Some(status) => {
                let info = Info {
                    instance_id: format!("n:{service}:{id}"),
                    app: format!("S{service}"),
                    ..Info::default()
                };
                let mut instance = record::to_instance(&info, status);
                instance.mod_timestamp = self.rev.to_string();
                instances.insert(id, (Arc::new(instance), Revision::new(self.rev)));
            }
        }
        let reference = ServiceRef::new(Tenant::default(), service.to_string());
        let key = key(&format!("s{service}"), "1.0.0");
        let all = instances.values().map(|(one, rev)| (one.instance_id.clone(), (one.clone(), *rev)));
        let at = Position { rev: Revision::new(self.rev), ..Position::default() };
        let topic = ReadTopic::remembered(Some(Arc::new(key)), at, all.collect());
        self.topics.insert(reference, Arc::new(topic));
    }

    fn end(&mut self, service: u8) {
        self.rev += 1;
        self.services.remove(&service);
        self.topics.remove(&ServiceRef::new(Tenant::default(), service.to_string()));
    }

    fn state(&self, book: &mut Book, now: Duration) -> State {
        book.advance(&self.topics, Revision::new(self.rev), now)
    }
}

/// A client as Java's is: it applies what a delta says, and compares hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reader {
    applications: BTreeMap<String, BTreeMap<String, (Status, u64)>>,
}

impl Reader {
    fn fetched(listed: &Listed<'_>) -> Self {
        let mut reader = Self::default();
        for application in &listed.applications {
            let all = application.instances.iter().map(|(info, _)| entry(info));
            reader.applications.insert(application.name.to_owned(), all.collect());
        }
        reader
    }

    /// Takes in a delta. False if the hashes differ afterwards.
    fn apply(&mut self, listed: &Listed<'_>) -> bool {
        for application in &listed.applications {
            for (info, action) in &application.instances {
                if *action == ActionType::Deleted {
                    if let Some(known) = self.applications.get_mut(application.name) {
                        known.remove(&info.instance_id);
                        if known.is_empty() {
                            self.applications.remove(application.name);
                        }
                    }
                    continue;
                }
                // An application that is new is taken as the delta has it, with those that have left.
                let known = self
                    .applications
                    .entry(application.name.to_owned())
                    .or_insert_with(|| application.instances.iter().map(|(info, _)| entry(info)).collect());
                let (id, seen) = entry(info);
                known.insert(id, seen);
            }
        }
        self.hash() == listed.hash
    }

    fn hash(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (status, _) in self.applications.values().flat_map(BTreeMap::values) {
            *counts.entry(status.to_string()).or_default() += 1;
        }
        counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }
}

fn entry(info: &Info) -> (String, (Status, u64)) {
    (info.instance_id.clone(), (info.status, info.last_updated))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn deltas_lead_every_client_to_the_truth(
        changes in vec((0_u8..4, 0_u8..4, proptest::option::weighted(0.6, own_status()), 0_u64..60, any::<bool>()), 1..80),
        start in 0_usize..40,
    ) {
        let mut world = World::default();
        let mut now = Duration::from_secs(1000);
        let mut book = None;
        // One that asks each time, one that asks seldom, and one that comes from another gateway.
        let (mut often, mut seldom) = (None::<Reader>, None::<(Reader, Duration)>);
        let mut stranger = Reader::default();
        let mut version = 0;
        for (n, (service, id, status, pause, asks)) in changes.into_iter().enumerate() {
            now += Duration::from_secs(pause);
            match (status, id) {
                (None, 0) => world.end(service),
                _ => world.change(service, id, status),
            }
            if n < start {
                if n + 1 == start {
                    let state = world.state(&mut Book::new(now), now);
                    stranger = state.pages.get(&orders()).map(|page| Reader::fetched(&page.full(|_| true))).unwrap_or_default();
                }
                continue;
            }
            let book = book.get_or_insert_with(|| Book::new(now));
            let state = world.state(book, now);
            let page = state.pages.get(&orders()).cloned().unwrap_or_else(|| Arc::new(Page::empty(state.revision)));
            prop_assert!(page.version >= version, "versions never go back");
            version = page.version;
            let truth = Reader::fetched(&page.full(|_| true));
            let delta = page.delta(|_| true);
            match &mut often {
                None => often = Some(truth.clone()),
                Some(reader) => {
                    if !reader.apply(&delta) {
                        *reader = truth.clone();
                    }
                    prop_assert_eq!(&*reader, &truth);
                }
            }
            if asks {
                let asked = seldom.take();
                if let Some((mut reader, _)) = asked.filter(|(_, last)| now - *last < RETENTION) {
                    if !reader.apply(&delta) {
                        reader = truth.clone();
                    }
                    prop_assert_eq!(&reader, &truth);
                    seldom = Some((reader, now));
                } else {
                    seldom = Some((truth.clone(), now));
                }
            }
            if n == start {
                // It has asked another gateway a moment ago.
                if !stranger.apply(&delta) {
                    stranger = truth.clone();
                }
                prop_assert_eq!(&stranger, &truth);
            }
        }
    }
}

#[test]
fn a_delta_is_exact_once_the_tenant_was_known_for_long_enough() {
    let mut world = World::default();
    let at = |seconds: u64| Duration::from_secs(1000 + seconds);
    for id in 0..3 {
        world.change(1, id, Some(Status::Up));
    }
    let mut book = Book::new(at(0));
    let count = |state: &State| -> usize {
        let delta = state.pages[&orders()].delta(|_| true);
        delta.applications.iter().map(|application| application.instances.len()).sum()
    };
    assert_eq!(count(&world.state(&mut book, at(0))), 3, "everything, as nothing is known of before");
    assert_eq!(book.due(), Some(at(180)));
    world.change(1, 0, Some(Status::Down));
    assert_eq!(count(&world.state(&mut book, at(170))), 3);
    assert_eq!(count(&world.state(&mut book, at(180))), 1);
    world.change(1, 1, None);
    let state = world.state(&mut book, at(190));
    let page = state.pages[&orders()].clone();
    let delta = page.delta(|_| true);
    assert_eq!(delta.hash, "DOWN_1_UP_1_");
    let told: Vec<_> =
        delta.applications[0].instances.iter().map(|(info, action)| (&*info.instance_id, *action)).collect();
    assert_eq!(told, [("n:1:0", ActionType::Modified), ("n:1:1", ActionType::Deleted)]);
    // A change is told for three minutes.
    assert_eq!(book.due(), Some(at(350)));
    assert_eq!(count(&world.state(&mut book, at(349))), 2);
    assert_eq!(count(&world.state(&mut book, at(350))), 1);
    assert_eq!(count(&world.state(&mut book, at(370))), 0);
    assert_eq!(book.due(), None);
}

#[test]
fn a_page_stays_while_nothing_of_its_scope_changes() {
    let mut world = World::default();
    world.change(1, 0, Some(Status::Up));
    let mut book = Book::new(Duration::ZERO);
    let before = world.state(&mut book, Duration::from_secs(1)).pages[&orders()].clone();
    // The same service, read again.
    let (reference, topic) = world.topics.pop_first().expect("one");
    world.topics.insert(reference, Arc::new((*topic).clone()));
    world.rev += 5;
    let after = world.state(&mut book, Duration::from_secs(2)).pages[&orders()].clone();
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn another_version_of_one_client_replaces_the_first() {
    let info = Info { instance_id: "n:1".into(), app: "S".into(), ..Info::default() };
    let member = |service: &str, rev: u64, instance: Instance| {
        let reference = ServiceRef::new(Tenant::default(), service);
        let key = Arc::new(key("s", &format!("{rev}.0.0")));
        Arc::new(Member::of(&reference, &key, &Arc::new(instance), Revision::new(rev)))
    };
    let registered = || record::to_instance(&info, Status::Up);
    let both = [member("a", 2, registered()), member("b", 1, registered())];
    let all = Applications::of(both);
    let services: Vec<_> = all.iter().map(|member| &*member.service.id).collect();
    assert_eq!(services, ["a"]);
    // Two of the registry's own may have one id, and neither hides the other.
    let native = || Instance { instance_id: "i".into(), ..Instance::default() };
    let all = Applications::of([member("a", 1, native()), member("b", 2, native())]);
    let ids: Vec<_> = all.iter().map(|member| &*member.info.instance_id).collect();
    assert_eq!(ids, ["i", "i:b"]);
}

#[test]
fn an_earlier_version_is_found_while_the_page_shows_the_last() {
    let info = Info { instance_id: "n:1".into(), app: "S".into(), ..Info::default() };
    let topic = |version: &str, rev: u64, instance: Instance| {
        let mut instances = Instances::default();
        instances.insert_mut(instance.instance_id.as_str().into(), (Arc::new(instance), Revision::new(rev)));
        Arc::new(ReadTopic::remembered(Some(Arc::new(key("s", version))), Position::default(), instances))
    };
    let reference = |id: &str| ServiceRef::new(Tenant::default(), id);
    let registered = || record::to_instance(&info, Status::Up);
    let native = Instance { instance_id: "n:1".into(), ..Instance::default() };
    let services = BTreeMap::from([
        (reference("first"), topic("1.0.0", 1, registered())),
        (reference("native"), topic("1.1.0", 2, native)),
        (reference("last"), topic("2.0.0", 3, registered())),
    ]);
    let earlier = |last: &str| {
        let own = ("S", "n:1");
        let scope = Scope::of(&key("s", "1.0.0"));
        let found = earlier_of(&services, &scope, own, &reference(last));
        found.into_iter().map(|member| member.service.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(earlier("last"), ["first"], "an instance that Eureka's clients have not made is left alone");
    assert_eq!(earlier("third"), ["first", "last"]);
}

#[tokio::test]
async fn a_body_is_made_once_and_shared() {
    let mut world = World::default();
    world.change(1, 0, Some(Status::Up));
    let state = world.state(&mut Book::new(Duration::ZERO), Duration::ZERO);
    let page = &state.pages[&orders()];
    let form = Form { format: Format::Json, detail: Detail::Full, gzip: false };
    let first = body(page, Amount::Full, form).await.expect("a body");
    let again = body(page, Amount::Full, form).await.expect("a body");
    assert_eq!(first.as_ptr(), again.as_ptr());
    let value: Value = serde_json::from_slice(&first).expect("JSON");
    assert_eq!(value["applications"]["apps__hashcode"], "UP_1_");
    assert_eq!(value["applications"]["application"][0]["instance"][0]["app"], "S1");
    let compact = Form { detail: Detail::Compact, ..form };
    let compact = body(page, Amount::Full, compact).await.expect("a body");
    let value: Value = serde_json::from_slice(&compact).expect("JSON");
    assert_eq!(value["applications"]["application"][0]["instance"][0]["metadata"], Value::Null);
}
