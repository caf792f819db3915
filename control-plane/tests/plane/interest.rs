//! A consumer's watch tells what its finds would answer, for random histories of services, versions, aliases,
//! access and tags.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::probe::Probe;
use control_plane::keys::Name;
use control_plane::version::VersionRule;
use control_plane::view::finds::{Asker, Find};
use control_plane::view::{Change, Snapshot, interest};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use shared::model::{Revision, ServiceRef, Tenant};

/// Application, name, version and alias of each provider. An alias may be shared, and may be another's name.
const PROVIDERS: [[&str; 4]; 6] = [
    ["shop", "a", "1.0.0", ""],
    ["shop", "a", "2.0.0", "x"],
    ["shop", "b", "1.0.0", "x"],
    ["bank", "c", "1.0.0", ""],
    ["bank", "c", "2.0.0", "x"],
    ["shop", "x", "1.5.0", ""],
];
const CONSUMERS: [[&str; 2]; 2] = [["shop", "u"], ["bank", "v"]];
const NAMES: [[&str; 2]; 5] = [["shop", "a"], ["shop", "b"], ["shop", "x"], ["bank", "c"], ["bank", "x"]];
const VERSIONS: [&str; 5] = ["0+", "latest", "1.0.0", "1.5-2.0", "9+"];
const RULES: [[&str; 3]; 3] =
    [["BLACK", "AppId", "shop"], ["WHITE", "tag_zone", "east"], ["BLACK", "ServiceName", "v"]];

#[derive(Clone, Debug)]
enum Step {
    Register(usize),
    Delete(usize),
    /// Lets other applications in, or not.
    CrossApp(usize, bool),
    Rule(usize, usize),
    NoRules(usize),
    /// Registers a consumer, and sets its zone.
    Consumer(usize, bool),
    DeleteConsumer(usize),
    Find(usize, usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let provider = 0..PROVIDERS.len();
    let consumer = 0..CONSUMERS.len();
    prop_oneof![
        4 => provider.clone().prop_map(Step::Register),
        2 => provider.clone().prop_map(Step::Delete),
        2 => (provider.clone(), any::<bool>()).prop_map(|(p, cross)| Step::CrossApp(p, cross)),
        2 => (provider.clone(), 0..RULES.len()).prop_map(|(p, rule)| Step::Rule(p, rule)),
        1 => provider.prop_map(Step::NoRules),
        2 => (consumer.clone(), any::<bool>()).prop_map(|(c, east)| Step::Consumer(c, east)),
        1 => consumer.clone().prop_map(Step::DeleteConsumer),
        6 => (consumer, 0..NAMES.len(), 0..VERSIONS.len()).prop_map(|(c, n, v)| Step::Find(c, n, v)),
    ]
}

type Providers = BTreeSet<ServiceRef>;

/// The finds of one consumer, by application, name and version rule.
#[derive(Default)]
struct Finds {
    /// The last one of each name.
    last: BTreeMap<(String, String), String>,
    ever: BTreeSet<(String, String, String)>,
}

impl Finds {
    fn note(&mut self, app: &str, name: &str, version: &str) {
        self.last.insert((app.into(), name.into()), version.into());
        self.ever.insert((app.into(), name.into(), version.into()));
    }
}

struct Scene<'a> {
    probe: &'a Probe,
    tenant: Tenant,
    finds: [Finds; CONSUMERS.len()],
    /// The interests as a follower of the history knows them.
    followed: BTreeMap<ServiceRef, Providers>,
    seen: Revision,
}

impl Scene<'_> {
    async fn send(&self, method: &str, path: &str, consumer: &str, body: Value) -> Value {
        let headers = [("X-Domain-Name", self.tenant.domain.as_str()), ("X-ConsumerId", consumer)];
        let path = format!("/v4/default/registry{path}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.probe.send(method, &path, &headers, body).await;
        assert!(answer.status < 500, "{method} {path}: {}", answer.status);
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Register(p) => {
                let [app, name, version, alias] = PROVIDERS[p];
                let service = json!({"serviceId": format!("p{p}"), "appId": app, "serviceName": name,
                    "version": version, "alias": alias});
                let body = json!({"service": service, "instances": [{"instanceId": "i", "hostName": "n"}]});
                self.send("POST", "/microservices", "", body).await;
            }
            Step::Delete(p) => {
                self.send("DELETE", &format!("/microservices/p{p}?force=1"), "", Value::Null).await;
            }
            Step::CrossApp(p, cross) => {
                let body = json!({"properties": {"allowCrossApp": cross.to_string()}});
                self.send("PUT", &format!("/microservices/p{p}/properties"), "", body).await;
            }
            Step::Rule(p, rule) => {
                let [kind, attribute, pattern] = RULES[rule];
                let rule = json!({"ruleType": kind, "attribute": attribute, "pattern": pattern});
                let body = json!({"rules": [rule]});
                self.send("POST", &format!("/microservices/p{p}/rules"), "", body).await;
            }
            Step::NoRules(p) => {
                let path = format!("/microservices/p{p}/rules");
                let rules = self.send("GET", &path, "", Value::Null).await["rules"].take();
                for rule in rules.as_array().into_iter().flatten() {
                    let id = rule["ruleId"].as_str().expect("an id");
                    self.send("DELETE", &format!("{path}/{id}"), "", Value::Null).await;
                }
            }
            Step::Consumer(c, east) => {
                let [app, name] = CONSUMERS[c];
                let service =
                    json!({"serviceId": name, "appId": app, "serviceName": name, "version": "1.0.0"});
                let zone = if east { "east" } else { "west" };
                let body = json!({"service": service, "tags": {"zone": zone}});
                self.send("POST", "/microservices", "", body).await;
            }
            Step::DeleteConsumer(c) => {
                let path = format!("/microservices/{}?force=1", CONSUMERS[c][1]);
                self.send("DELETE", &path, "", Value::Null).await;
                self.finds[c] = Finds::default();
            }
            Step::Find(c, name, version) => self.find(c, NAMES[name], VERSIONS[version]).await,
        }
    }

    /// A find of a consumer. The API answers what the shared function does.
    async fn find(&mut self, c: usize, [app, name]: [&str; 2], version: &str) {
        let snapshot = self.probe.view().now().expect("listed");
        let consumer = self.consumer(c);
        if snapshot.service(&consumer).is_none() {
            return;
        }
        let path =
            format!("/instances?appId={app}&serviceName={name}&version={}", version.replace('+', "%2B"));
        let answer = self.send("GET", &path, &consumer.id, Value::Null).await;
        let found: Providers = answer["instances"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|instance| {
                ServiceRef::new(self.tenant.clone(), instance["serviceId"].as_str().expect("an id"))
            })
            .collect();
        let answered = self.answer(&snapshot, c, [app, name], version);
        assert_eq!(found, answered.iter().cloned().collect(), "{path}");
        // A find by alias is recorded under the name of the newest service, too.
        if let Some(newest) = answered.first().and_then(|newest| snapshot.service(newest)) {
            let real = &newest.1.service_name;
            self.finds[c].note(app, real, version);
        }
        self.finds[c].note(app, name, version);
    }

    fn consumer(&self, c: usize) -> ServiceRef {
        ServiceRef::new(self.tenant.clone(), CONSUMERS[c][1])
    }

    fn answer(
        &self,
        snapshot: &Snapshot,
        c: usize,
        [app, name]: [&str; 2],
        version: &str,
    ) -> Vec<ServiceRef> {
        let (view, service) = snapshot.service(&self.consumer(c)).expect("the consumer exists");
        let find = Find {
            tenant: self.tenant.clone(),
            name: Name::new("", app, name),
            versions: VersionRule::parse(version).expect("a version rule"),
            by_alias: true,
        };
        find.services(snapshot, Some(Asker { service, tags: &view.tags })).map(|(found, _)| found).collect()
    }

    fn follow(&mut self) {
        let view = self.probe.view();
        let now = view.now().expect("listed").revision;
        let since = view.history().since(self.seen, now, |change| matches!(change, Change::Interest(_)));
        self.seen = now;
        for change in since.changes {
            let Change::Interest(change) = change else { continue };
            let consumer: ServiceRef = change.consumer.clone().expect("a consumer").into();
            let known = self.followed.entry(consumer.clone()).or_default();
            for removed in &change.removed {
                assert!(known.remove(&removed.clone().into()), "{removed:?} was never added");
            }
            for added in &change.added {
                assert!(known.insert(added.clone().into()), "{added:?} was added before");
            }
            if change.consumer_deleted {
                self.followed.remove(&consumer);
            }
        }
    }

    fn check(&mut self) {
        self.follow();
        let snapshot = self.probe.view().now().expect("listed");
        for (c, finds) in self.finds.iter().enumerate() {
            let consumer = self.consumer(c);
            let Some(told) = interest::providers(&snapshot, &consumer) else { continue };
            let followed = self.followed.get(&consumer).cloned().unwrap_or_default();
            assert_eq!(followed, told, "the changes lead to the interest of {consumer}");
            for ((app, name), version) in &finds.last {
                for found in self.answer(&snapshot, c, [app, name], version) {
                    assert!(told.contains(&found), "{found} answers {app}/{name}/{version} and is not told");
                }
            }
            let mut answered = Providers::new();
            for (app, name, version) in &finds.ever {
                answered.extend(self.answer(&snapshot, c, [app, name], version));
            }
            assert!(told.is_subset(&answered), "{told:?} is told, and the finds answer only {answered:?}");
        }
    }
}

/// Runs a history in a domain of its own, and checks after each step. Returns the providers that the first
/// consumer is told about in the end.
async fn run(probe: &Probe, history: &[Step]) -> Vec<String> {
    static DOMAINS: AtomicU64 = AtomicU64::new(0);
    let domain = format!("case-{}", DOMAINS.fetch_add(1, Ordering::Relaxed));
    let mut scene = Scene {
        probe,
        tenant: Tenant::new(domain, "default"),
        finds: Default::default(),
        followed: BTreeMap::new(),
        seen: probe.view().now().expect("listed").revision,
    };
    let consumers = (0..CONSUMERS.len()).map(|c| Step::Consumer(c, true));
    for step in consumers.chain(history.iter().cloned()) {
        scene.take(&step).await;
        scene.check();
    }
    let told = scene.followed.remove(&scene.consumer(0)).unwrap_or_default();
    told.into_iter().map(|provider| provider.id).collect()
}

#[test]
fn a_watch_tells_what_the_finds_would_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let probe = runtime.block_on(Probe::start());
    let mut runner = TestRunner::new(Config { cases: 64, ..Config::default() });
    let histories = prop::collection::vec(step(), 1..40);
    let outcome = runner.run(&histories, |history| {
        runtime.block_on(run(&probe, &history));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn newly_visible_instances_are_told_and_nothing_else() {
    use Step::{CrossApp, Delete, Find, NoRules, Register, Rule};
    const A: usize = 0;
    const X: usize = 2;
    const X_OF_BANK: usize = 4;
    const ALL: usize = 0;
    const LATEST: usize = 1;
    const EXACT: usize = 2;
    const NONE_YET: usize = 4;
    let probe = Probe::start().await;
    let cases: [(&str, &[Step], &[&str]); 9] = [
        ("the latest version", &[Register(0), Find(0, A, LATEST), Register(1)], &["p1"]),
        ("the one before", &[Register(0), Find(0, A, LATEST), Register(1), Delete(1)], &["p0"]),
        ("another version", &[Find(0, A, EXACT), Register(1)], &[]),
        ("the awaited version", &[Find(0, A, EXACT), Register(1), Register(0)], &["p0"]),
        ("no version yet", &[Register(0), Find(0, A, NONE_YET)], &[]),
        ("an application that hides", &[Find(0, X_OF_BANK, ALL), Register(4)], &[]),
        ("access by alias", &[Register(4), Find(0, X_OF_BANK, ALL), CrossApp(4, true)], &["p4"]),
        ("a rule that has gone", &[Register(1), Rule(1, 0), Find(0, X, LATEST), NoRules(1)], &["p1"]),
        (
            "a name before an alias",
            &[Register(1), Find(0, X, ALL), Delete(1), Register(1), Register(5)],
            &["p1", "p5"],
        ),
    ];
    for (case, history, told) in cases {
        assert_eq!(run(&probe, history).await, told, "{case}");
    }
}
