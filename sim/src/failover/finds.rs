//! A consumer whose finds are answered by ever other providers: versions, aliases, rules and access change,
//! and providers come and go.
//!
//! The client applies what it is told to what its finds have shown. At the end it must know exactly the
//! instances that its finds would answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_plane::keys::{self, Key, Name};
use control_plane::store::KvEvent;
use control_plane::view::{self, History, Protection, Snapshot, View, ViewWriter, interest};
use follow::tracker::Preface;
use follow::{Push, Selector};
use shared::clock::Clock;
use shared::event::Action;
use shared::model::{Revision, ServiceRef, Tenant};

use super::reads::Reads;
use super::{Sim, service};

/// Application, name, version and alias of each provider.
const PROVIDERS: [[&str; 4]; 4] = [
    ["shop", "a", "1.0.0", ""],
    ["shop", "a", "2.0.0", "x"],
    ["bank", "c", "1.0.0", "x"],
    ["shop", "x", "1.5.0", ""],
];
const NAMES: [[&str; 2]; 4] = [["shop", "a"], ["shop", "x"], ["bank", "c"], ["bank", "x"]];
const VERSIONS: [&str; 4] = ["0+", "latest", "1.0.0", "9+"];

/// Instances by provider and id, each with the host name that was written last.
pub(super) type Instances = BTreeMap<(ServiceRef, String), String>;

/// The consumer's side of a simulation.
pub(super) struct Consumer {
    writer: ViewWriter,
    view: View,
    /// The view of each revision.
    pub(super) snapshots: BTreeMap<Revision, Arc<Snapshot>>,
    /// The providers that a find was the first to show, with their instances.
    shown: Vec<(Revision, ServiceRef, Instances)>,
    /// The client that stays; `None` until its watch has opened.
    client: Option<Client>,
    /// The gateway's own answers to the consumer's finds.
    pub(super) reads: Reads,
    /// The instances whose creation the client that stays was told of by an event, and of no end since.
    created: BTreeSet<(ServiceRef, String)>,
    /// Those of them of which it was told once more, because they had become visible.
    told_again: Vec<String>,
    /// The instances of whose end the client that stays was told last, each with the revision of that.
    ended: BTreeMap<(ServiceRef, String), Revision>,
    /// Those of them of whose end it was told once more, although they had no second end.
    ended_again: Vec<String>,
}

/// A client, by the instances that it knows.
#[derive(Clone, Default)]
pub(super) struct Client {
    known: Instances,
}

impl Client {
    pub(super) fn receive(&mut self, push: &Push) {
        let id = id_of(push);
        match push.action {
            Action::Delete => _ = self.known.remove(&id),
            Action::Create | Action::Update => _ = self.known.insert(id, push.instance.host_name.clone()),
        }
    }

    pub(super) fn replace(&mut self, provider: &ServiceRef, instances: Instances) {
        self.known.retain(|(of, _), _| of != provider);
        self.known.extend(instances);
    }

    pub(super) fn begin(&mut self, preface: &Preface) {
        if preface.void {
            self.known.clear();
        }
        for (key, instances) in &preface.states {
            let number = PROVIDERS
                .iter()
                .position(|[_, name, version, _]| key.service_name == *name && key.version == *version);
            let provider = service(number.expect("a provider of this simulation") as u8);
            let state = instances
                .iter()
                .map(|i| ((provider.clone(), i.instance_id.clone()), i.host_name.clone()))
                .collect();
            self.replace(&provider, state);
        }
        for push in &preface.events {
            self.receive(push);
        }
    }
}

fn id_of(push: &Push) -> (ServiceRef, String) {
    let instance = &push.instance;
    (ServiceRef::new(Tenant::default(), &*instance.service_id), instance.instance_id.clone())
}

pub(super) fn selector() -> Selector {
    Selector::Consumer(consumer())
}

pub(super) fn consumer() -> ServiceRef {
    ServiceRef::new(Tenant::default(), "u")
}

impl Consumer {
    pub(super) fn new(seed: u64) -> Self {
        let protection = Protection { from_size: 0, keep_percent: 50 };
        let (mut writer, view) = view::empty(History::new(10_000), protection, Clock::manual(1));
        writer.reset(Vec::new(), Revision::new(1));
        Self {
            writer,
            view,
            snapshots: BTreeMap::new(),
            shown: Vec::new(),
            client: None,
            reads: Reads::new(seed),
            created: BTreeSet::new(),
            told_again: Vec::new(),
            ended: BTreeMap::new(),
            ended_again: Vec::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.view.now().expect("the view has a state")
    }

    /// Follows the store by one revision. `is_find` says that the consumer has made a find.
    ///
    /// Returns the instances that the find has shown.
    pub(super) fn follow(
        &mut self,
        rev: Revision,
        events: &[KvEvent],
        is_find: bool,
    ) -> Vec<(ServiceRef, Instances)> {
        let before = interest::providers(&self.snapshot(), &consumer()).unwrap_or_default();
        if events.is_empty() {
            self.writer.progress(rev);
        } else {
            self.writer.apply(events.to_vec());
        }
        let now = self.snapshot();
        self.snapshots.insert(rev, now.clone());
        self.ask();
        let mut shown = Vec::new();
        if !is_find {
            return shown;
        }
        let found = interest::providers(&now, &consumer()).unwrap_or_default();
        for provider in found.difference(&before) {
            let instances = instances_of(&now, provider);
            if let Some(client) = &mut self.client {
                client.replace(provider, instances.clone());
            }
            self.shown.push((rev, provider.clone(), instances.clone()));
            shown.push((provider.clone(), instances));
        }
        shown
    }

    /// A client that knows everything as of a revision, and what finds have shown since.
    pub(super) fn client_at(&self, rev: Revision) -> Client {
        let known = self.snapshots.range(..=rev).next_back().map(|(_, snapshot)| answer(snapshot));
        let mut client = Client { known: known.unwrap_or_default() };
        for (_, provider, instances) in self.shown.iter().filter(|(at, ..)| *at > rev) {
            client.replace(provider, instances.clone());
        }
        client
    }

    pub(super) fn open(&mut self, rev: Revision) {
        self.client = Some(self.client_at(rev));
    }

    pub(super) fn receive(&mut self, push: &Push) {
        if let Some(client) = &mut self.client {
            client.receive(push);
        }
        let id = id_of(push);
        self.note_end(&id, push);
        match push.action {
            Action::Create if push.is_difference() && self.created.contains(&id) => {
                self.told_again.push(format!("{}/{}: told again at {}", id.0.id, id.1, push.at.rev));
            }
            Action::Create if !push.is_difference() => _ = self.created.insert(id),
            Action::Delete => _ = self.created.remove(&id),
            Action::Create | Action::Update => {}
        }
    }

    fn note_end(&mut self, id: &(ServiceRef, String), push: &Push) {
        let rev = push.at.rev;
        if push.action != Action::Delete {
            self.ended.remove(id);
        } else if let Some(before) = self.ended.insert(id.clone(), rev)
            && !self.has_ended_between(id, before, rev)
        {
            self.ended_again.push(format!("{}/{}: ended at {before}, and again at {rev}", id.0.id, id.1));
        }
    }

    /// True if an instance was deleted after the first revision, or was in the answers of finds then. When a change of the
    /// interest was lost, the gateway tells of everything that a find may have shown since.
    fn has_ended_between(&self, id: &(ServiceRef, String), first: Revision, second: Revision) -> bool {
        let (service, instance) = id;
        let mut was_there = false;
        self.snapshots.iter().filter(|(rev, _)| (first..=second).contains(*rev)).any(|(rev, snapshot)| {
            let view = snapshot.service(service).map(|(view, _)| view);
            let is_there = view.is_some_and(|view| view.instances.contains_key(instance));
            let is_deleted = std::mem::replace(&mut was_there, is_there) && !is_there;
            is_deleted || (*rev > first && answer(snapshot).contains_key(id))
        })
    }

    /// Judges what a client knows in the end. When replies were `merged` into states, the gateway does not
    /// know which instances a find had shown before the first state: their deletes are not judged.
    pub(super) fn judge(&self, client: &Client, merged: bool) -> Result<(), String> {
        let right = answer(&self.snapshot());
        let mut wrong = Vec::new();
        for id in right.keys().chain(client.known.keys()) {
            let known = client.known.get(id);
            let stored = right.get(id);
            if known != stored && !(merged && stored.is_none()) {
                wrong.push(format!("{}/{}: {stored:?} is right, known is {known:?}", id.0.id, id.1));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
    }

    pub(super) fn judge_stayed(&self, merged: bool) -> Result<(), String> {
        // Where replies were states, the gateway may not know of each instance how the client came to know of
        // it.
        if !merged && !self.told_again.is_empty() {
            return Err(self.told_again.join(", "));
        }
        if !merged && !self.ended_again.is_empty() {
            return Err(self.ended_again.join(", "));
        }
        self.judge(self.client.as_ref().ok_or("the watch never opened")?, merged)
    }
}

/// The instances that the consumer's finds answer.
fn answer(snapshot: &Snapshot) -> Instances {
    let providers = interest::providers(snapshot, &consumer()).unwrap_or_default();
    providers.iter().flat_map(|provider| instances_of(snapshot, provider)).collect()
}

fn instances_of(snapshot: &Snapshot, provider: &ServiceRef) -> Instances {
    let view = snapshot.service(provider).map(|(view, _)| view);
    let instances = view.into_iter().flat_map(|view| view.instances.iter());
    instances.map(|(id, i)| ((provider.clone(), id.clone()), i.instance.unpack().host_name)).collect()
}

impl Sim {
    /// The consumer registers, in the first revision.
    pub(super) fn register_consumer(&mut self) {
        let mut events = Vec::new();
        self.rev = self.rev.next();
        let record = r#"{"serviceName":"u","appId":"shop","version":"1.0.0"}"#;
        self.put(keys::service(&consumer()), record.into(), &mut events);
        let index = keys::index(&Tenant::default(), &Name::new("", "shop", "u"), "1.0.0");
        self.put(index, "u".into(), &mut events);
        self.note(events, false);
    }

    pub(super) fn note(&mut self, events: Vec<KvEvent>, is_find: bool) {
        if let Some(consumer) = &mut self.consumer {
            for (provider, instances) in consumer.follow(self.rev, &events, is_find) {
                for session in &mut self.resumed {
                    session.find(&provider, &instances);
                }
            }
        }
        self.log.push(events);
    }

    /// Commits a change that may concern the consumer, or several at one revision: a find and changes of
    /// services, as a store may commit them together.
    pub(super) fn commit_for_consumer(&mut self) {
        self.rev = self.rev.next();
        let first = self.dice.usize(0..PROVIDERS.len());
        let several = if self.commits_together && self.dice.u8(0..4) == 0 { 2 } else { 1 };
        let mut events = Vec::new();
        let mut is_find = false;
        for number in (0..PROVIDERS.len()).cycle().skip(first).take(several) {
            // Not twice: the two finds could be of one name.
            is_find |= self.change_for_consumer(number as u8, !is_find, &mut events);
        }
        self.note(events, is_find);
    }

    /// Makes a change that may concern the consumer. True for a find.
    fn change_for_consumer(&mut self, number: u8, may_find: bool, events: &mut Vec<KvEvent>) -> bool {
        let provider = service(number);
        let [app, name, version, alias] = PROVIDERS[usize::from(number)];
        let tenant = Tenant::default();
        let index = keys::index(&tenant, &Name::new("", app, name), version);
        let alias_key = keys::alias(&tenant, &Name::new("", app, alias), version);
        let record = keys::service(&provider);
        let rule = Key::Rule(provider.clone(), "r".into()).render().expect("a key");
        let id = self.dice.u8(0..2).to_string();
        let instance = keys::instance(&provider, &id);
        let dice = self.dice.u8(0..20);
        let crosses = if self.dice.bool() { "true" } else { "false" };
        let value = format!(
            r#"{{"serviceName":"{name}","appId":"{app}","version":"{version}","alias":"{alias}","properties":{{"allowCrossApp":"{crosses}"}}}}"#
        );
        if dice < 4 && may_find {
            let [app, name] = NAMES[self.dice.usize(0..NAMES.len())];
            let rule = VERSIONS[self.dice.usize(0..VERSIONS.len())];
            let wanted = Key::Wanted(consumer(), tenant, Name::new("", app, name)).render().expect("a key");
            self.put(wanted, rule.into(), events);
            return true;
        } else if !self.keys.contains_key(&record) {
            self.put(record, value, events);
            self.put(index, provider.id.clone(), events);
            if !alias.is_empty() {
                self.put(alias_key, provider.id.clone(), events);
            }
        } else if dice < 6 {
            let of_it = format!("/{}", provider.id);
            let gone: Vec<String> = self
                .keys
                .keys()
                .filter(|key| key.contains(&of_it) || **key == index || **key == alias_key)
                .cloned()
                .collect();
            for key in gone {
                self.remove(key, events);
            }
        } else if dice < 9 {
            if self.keys.contains_key(&rule) {
                self.remove(rule, events);
            } else {
                let black = r#"{"ruleType":"BLACK","attribute":"AppId","pattern":"shop"}"#;
                self.put(rule, black.into(), events);
            }
        } else if dice < 11 {
            self.put(record, value, events);
        } else if self.keys.contains_key(&instance) && dice < 14 {
            self.remove(instance, events);
        } else {
            self.put(instance, format!(r#"{{"hostName":"{}"}}"#, self.rev), events);
        }
        false
    }

    fn remove(&mut self, key: String, events: &mut Vec<KvEvent>) {
        self.keys.remove(&key);
        events.push(KvEvent::Delete { key, rev: self.rev });
    }
}
