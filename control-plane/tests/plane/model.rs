//! Sends random requests to the API, and compares the responses with a plain model of the contract.

use std::collections::BTreeMap;

use crate::probe::{Answer, Probe};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["a", "b", "c"];
const VERSIONS: [&str; 3] = ["1.0.0", "1.5", "2.0.0"];
const RULES: [&str; 6] = ["0+", "1.5.0+", "latest", "1.0.0", "1.0-2.0", "9+"];
const STATES: [&str; 3] = ["UP", "DOWN", "AWAY"];

/// A service, as its indexes in [`NAMES`] and [`VERSIONS`].
type ServiceIndex = (usize, usize);

#[derive(Clone, Debug)]
enum ModelRequest {
    Register(ServiceIndex),
    Delete(ServiceIndex, bool),
    Properties(ServiceIndex, String),
    Tags(ServiceIndex, String),
    Tag(ServiceIndex, String),
    DeleteTag(ServiceIndex),
    Instance(ServiceIndex, usize),
    End(ServiceIndex, usize),
    Heartbeat(ServiceIndex, usize),
    State(ServiceIndex, usize, usize),
    InstanceProperties(ServiceIndex, usize, String),
    Find(Option<ServiceIndex>, usize, usize),
    Declare(ServiceIndex, usize, usize, bool),
}

fn key() -> impl Strategy<Value = ServiceIndex> {
    (0..NAMES.len(), 0..VERSIONS.len())
}

fn instance() -> impl Strategy<Value = usize> {
    0..2_usize
}

fn text() -> impl Strategy<Value = String> {
    "[a-c]"
}

fn request() -> impl Strategy<Value = ModelRequest> {
    prop_oneof![
        4 => key().prop_map(ModelRequest::Register),
        1 => (key(), any::<bool>()).prop_map(|(k, force)| ModelRequest::Delete(k, force)),
        1 => (key(), text()).prop_map(|(k, t)| ModelRequest::Properties(k, t)),
        1 => (key(), text()).prop_map(|(k, t)| ModelRequest::Tags(k, t)),
        1 => (key(), text()).prop_map(|(k, t)| ModelRequest::Tag(k, t)),
        1 => key().prop_map(ModelRequest::DeleteTag),
        4 => (key(), instance()).prop_map(|(k, i)| ModelRequest::Instance(k, i)),
        1 => (key(), instance()).prop_map(|(k, i)| ModelRequest::End(k, i)),
        1 => (key(), instance()).prop_map(|(k, i)| ModelRequest::Heartbeat(k, i)),
        1 => (key(), instance(), 0..STATES.len()).prop_map(|(k, i, s)| ModelRequest::State(k, i, s)),
        1 => (key(), instance(), text()).prop_map(|(k, i, t)| ModelRequest::InstanceProperties(k, i, t)),
        5 => (prop::option::weighted(0.8, key()), 0..NAMES.len(), 0..RULES.len())
            .prop_map(|(c, n, r)| ModelRequest::Find(c, n, r)),
        2 => (key(), 0..NAMES.len(), 0..RULES.len(), any::<bool>())
            .prop_map(|(c, n, r, overwrite)| ModelRequest::Declare(c, n, r, overwrite)),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelService {
    property: Option<String>,
    tag: Option<String>,
    /// The status and the property of each instance, by id.
    instances: BTreeMap<usize, (&'static str, Option<String>)>,
}

/// The registry, as the contract describes it.
#[derive(Clone, Debug, Default, PartialEq)]
struct RegistryModel {
    services: BTreeMap<ServiceIndex, ModelService>,
    /// The version rule for each consumer and provider name.
    dependencies: BTreeMap<(ServiceIndex, usize), usize>,
}

/// An error code, or `None` for success.
type Refusal = Option<&'static str>;

impl RegistryModel {
    fn versions(&self, name: usize) -> Vec<usize> {
        let mut versions: Vec<usize> =
            self.services.keys().filter(|(n, _)| *n == name).map(|(_, version)| *version).collect();
        versions.reverse();
        versions
    }

    /// The versions of a name that a rule matches, newest first.
    fn taken(&self, name: usize, rule: usize) -> Vec<usize> {
        let versions = self.versions(name);
        let newest = versions.first().copied();
        let mut versions = versions;
        versions.retain(|version| match RULES[rule] {
            "0+" => true,
            "1.5.0+" => *version >= 1,
            "latest" => Some(*version) == newest,
            "1.0.0" => *version == 0,
            "1.0-2.0" => *version < 2,
            _ => false,
        });
        versions
    }

    fn consumers(&self, (name, version): ServiceIndex) -> Vec<ServiceIndex> {
        let rules = self.dependencies.iter().filter(|((_, provider), _)| *provider == name);
        rules
            .filter(|(_, rule)| self.taken(name, **rule).contains(&version))
            .map(|((consumer, _), _)| *consumer)
            .collect()
    }

    /// Drops rules without a service that they could match.
    fn tidy(&mut self) {
        let services = &self.services;
        self.dependencies.retain(|(_, name), rule| match RULES[*rule] {
            "1.0.0" => services.contains_key(&(*name, 0)),
            _ => services.keys().any(|(n, _)| n == name),
        });
    }

    fn service(&mut self, key: ServiceIndex, change: impl FnOnce(&mut ModelService) -> Refusal) -> Refusal {
        self.services.get_mut(&key).map_or(Some("400012"), change)
    }

    fn instance(
        &mut self,
        key: ServiceIndex,
        id: usize,
        change: impl FnOnce(&mut (&'static str, Option<String>)),
    ) -> Refusal {
        let found = self.services.get_mut(&key).and_then(|service| service.instances.get_mut(&id));
        found.map(change).map_or(Some("400017"), |()| None)
    }

    fn apply(&mut self, request: &ModelRequest) -> Refusal {
        match request {
            ModelRequest::Register(key) => {
                self.services.entry(*key).or_default();
                None
            }
            ModelRequest::Delete(key, force) => {
                let service = self.services.get(key)?.clone();
                if !force && self.consumers(*key).iter().any(|consumer| consumer != key) {
                    return Some("400023");
                }
                if !force && !service.instances.is_empty() {
                    return Some("400013");
                }
                self.services.remove(key);
                self.dependencies.retain(|(consumer, _), _| consumer != key);
                // Only these two operations drop rules without a provider.
                self.tidy();
                None
            }
            ModelRequest::Properties(key, text) => self.service(*key, |s| {
                s.property = Some(text.clone());
                None
            }),
            ModelRequest::Tags(key, text) => self.service(*key, |s| {
                s.tag = Some(text.clone());
                None
            }),
            ModelRequest::Tag(key, text) => self.service(*key, |s| match &mut s.tag {
                Some(tag) => {
                    text.clone_into(tag);
                    None
                }
                None => Some("400018"),
            }),
            ModelRequest::DeleteTag(key) => {
                self.service(*key, |s| s.tag.take().map_or(Some("400018"), |_| None))
            }
            ModelRequest::Instance(key, id) => self.service(*key, |s| {
                // Registered again, an instance keeps its status; its properties are those of the request.
                s.instances.entry(*id).or_insert(("UP", None)).1 = None;
                None
            }),
            ModelRequest::End(key, id) => {
                let service = self.services.get_mut(key);
                service.and_then(|s| s.instances.remove(id)).map_or(Some("400017"), |_| None)
            }
            ModelRequest::Heartbeat(key, id) => self.instance(*key, *id, |_| ()),
            // The third of `STATES` is not a status of the contract.
            ModelRequest::State(_, _, 2) => Some("400001"),
            ModelRequest::State(key, id, state) => self.instance(*key, *id, |i| i.0 = STATES[*state]),
            ModelRequest::InstanceProperties(key, id, text) => {
                self.instance(*key, *id, |i| i.1 = Some(text.clone()))
            }
            ModelRequest::Find(consumer, name, rule) => {
                if consumer.is_some_and(|consumer| !self.services.contains_key(&consumer)) {
                    return Some("400012");
                }
                let taken = self.taken(*name, *rule);
                let exact = RULES[*rule] == "1.0.0";
                if self.versions(*name).is_empty() || (exact && taken.is_empty()) {
                    return Some("400012");
                }
                if let Some(consumer) = consumer.filter(|_| !taken.is_empty()) {
                    self.dependencies.insert((consumer, *name), *rule);
                }
                None
            }
            ModelRequest::Declare(consumer, name, rule, overwrite) => {
                if !self.services.contains_key(consumer) {
                    return Some("400012");
                }
                if *overwrite {
                    self.dependencies.retain(|(other, _), _| other != consumer);
                }
                self.dependencies.insert((*consumer, *name), *rule);
                if *overwrite {
                    self.tidy();
                }
                None
            }
        }
    }

    /// The instances that a find returns in the model: service, id, status and property.
    fn found(&self, name: usize, rule: usize) -> Vec<(String, String, String, Option<String>)> {
        let services = self.taken(name, rule).into_iter().map(|version| (name, version));
        let instances = services.flat_map(|key| self.services[&key].instances.iter().map(move |i| (key, i)));
        instances
            .map(|(key, (id, (state, text)))| {
                (id_of(key), format!("i{id}"), (*state).to_owned(), text.clone())
            })
            .collect()
    }
}

fn id_of((name, version): ServiceIndex) -> String {
    format!("{}-{}", NAMES[name], VERSIONS[version])
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The sorted service ids in one list of a body.
fn service_ids(body: &Value, list: &str) -> Vec<String> {
    let services = body[list].as_array().into_iter().flatten();
    let mut ids: Vec<_> = services.map(|service| text_of(&service["serviceId"])).collect();
    ids.sort();
    ids
}

fn service_path(key: &ServiceIndex) -> String {
    format!("/microservices/{}", id_of(*key))
}

fn instance_path(key: &ServiceIndex, id: &usize) -> String {
    format!("{}/instances/i{id}", service_path(key))
}

fn found(body: &Value) -> Vec<(String, String, String, Option<String>)> {
    let instances = body["instances"].as_array().into_iter().flatten();
    instances
        .map(|i| {
            let property = i["properties"]["p"].as_str().map(str::to_owned);
            (text_of(&i["serviceId"]), text_of(&i["instanceId"]), text_of(&i["status"]), property)
        })
        .collect()
}

/// A tenant of the real registry.
struct Real<'a> {
    probe: &'a Probe,
    domain: String,
}

impl Real<'_> {
    async fn send(&self, method: &str, path: &str, consumer: &str, body: Value) -> Answer {
        let path = format!("/v4/default/registry{path}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("X-Domain-Name", self.domain.as_str()), ("X-ConsumerId", consumer)];
        self.probe.send(method, &path, &headers, body).await
    }

    async fn answer(&self, request: &ModelRequest) -> Answer {
        let (method, path, body) = match request {
            ModelRequest::Register(key) => {
                let body = json!({"serviceId": id_of(*key), "appId": "shop", "serviceName": NAMES[key.0], "version": VERSIONS[key.1]});
                ("POST", "/microservices".into(), json!({ "service": body }))
            }
            ModelRequest::Delete(key, force) => {
                ("DELETE", format!("{}?force={force}", service_path(key)), Value::Null)
            }
            ModelRequest::Properties(key, text) => {
                ("PUT", format!("{}/properties", service_path(key)), json!({"properties": {"p": text}}))
            }
            ModelRequest::Tags(key, text) => {
                ("POST", format!("{}/tags", service_path(key)), json!({"tags": {"t": text}}))
            }
            ModelRequest::Tag(key, text) => {
                ("PUT", format!("{}/tags/t?value={text}", service_path(key)), Value::Null)
            }
            ModelRequest::DeleteTag(key) => ("DELETE", format!("{}/tags/t", service_path(key)), Value::Null),
            ModelRequest::Instance(key, id) => {
                let body = json!({"instance": {"instanceId": format!("i{id}"), "hostName": "n"}});
                ("POST", format!("{}/instances", service_path(key)), body)
            }
            ModelRequest::End(key, id) => ("DELETE", instance_path(key, id), Value::Null),
            ModelRequest::Heartbeat(key, id) => {
                ("PUT", format!("{}/heartbeat", instance_path(key, id)), Value::Null)
            }
            ModelRequest::State(key, id, state) => {
                ("PUT", format!("{}/status?value={}", instance_path(key, id), STATES[*state]), Value::Null)
            }
            ModelRequest::InstanceProperties(key, id, text) => {
                ("PUT", format!("{}/properties", instance_path(key, id)), json!({"properties": {"p": text}}))
            }
            ModelRequest::Find(consumer, name, rule) => {
                let consumer = consumer.map(id_of).unwrap_or_default();
                return self.send("GET", &find_path(*name, *rule), &consumer, Value::Null).await;
            }
            ModelRequest::Declare(consumer, name, rule, overwrite) => {
                let consumer = json!({"appId": "shop", "serviceName": NAMES[consumer.0], "version": VERSIONS[consumer.1]});
                let provider = json!({"serviceName": NAMES[*name], "version": RULES[*rule]});
                let body = json!({"dependencies": [{"consumer": consumer, "providers": [provider]}]});
                (if *overwrite { "PUT" } else { "POST" }, "/dependencies".into(), body)
            }
        };
        self.send(method, &path, "", body).await
    }

    /// Compares everything that can be read with the model.
    async fn compare(&self, model: &RegistryModel) {
        let listed = self.send("GET", "/microservices", "", Value::Null).await.ok();
        let count = listed["services"].as_array().map_or(0, Vec::len);
        assert_eq!(count, model.services.len());
        for (key, expected) in &model.services {
            let service = format!("/microservices/{}", id_of(*key));
            let read =
                async |rest: &str| self.send("GET", &format!("{service}{rest}"), "", Value::Null).await.ok();
            let record = read("").await;
            assert_eq!(record["service"]["properties"]["p"].as_str(), expected.property.as_deref());
            assert_eq!(read("/tags").await["tags"]["t"].as_str(), expected.tag.as_deref());
            let instances = expected.instances.iter();
            let instances: Vec<_> = instances
                .map(|(id, (state, text))| (id_of(*key), format!("i{id}"), (*state).to_owned(), text.clone()))
                .collect();
            assert_eq!(found(&read("/instances").await), instances);
            let mut consumers: Vec<_> = model.consumers(*key).into_iter().map(id_of).collect();
            consumers.sort();
            assert_eq!(
                service_ids(&read("/consumers").await, "consumers"),
                consumers,
                "consumers of {key:?}"
            );
            let rules = model.dependencies.iter().filter(|((consumer, _), _)| consumer == key);
            let providers = rules.flat_map(|((_, name), rule)| {
                model.taken(*name, *rule).into_iter().map(|version| id_of((*name, version)))
            });
            let mut providers: Vec<_> = providers.collect();
            providers.sort();
            assert_eq!(
                service_ids(&read("/providers").await, "providers"),
                providers,
                "providers of {key:?}"
            );
        }
    }
}

fn find_path(name: usize, rule: usize) -> String {
    format!("/instances?appId=shop&serviceName={}&version={}", NAMES[name], RULES[rule].replace('+', "%2B"))
}

async fn run(probe: &Probe, domain: String, requests: &[ModelRequest]) {
    let real = Real { probe, domain };
    let mut model = RegistryModel::default();
    for request in requests {
        let expected = match request {
            // The absence of the service is checked before everything else.
            ModelRequest::Delete(key, _) if !model.services.contains_key(key) => Some("400012"),
            request => model.apply(request),
        };
        let answer = real.answer(request).await;
        match (expected, request) {
            (Some(code), _) => _ = answer.refused(code),
            (None, ModelRequest::Find(consumer, name, rule)) => {
                let rev = answer.revision();
                assert_eq!(found(&answer.ok()), model.found(*name, *rule), "{request:?}");
                // The same request again with the response's revision: nothing has changed.
                let path = format!("{}&rev={rev}", find_path(*name, *rule));
                let consumer = consumer.map(id_of).unwrap_or_default();
                assert_eq!(real.send("GET", &path, &consumer, Value::Null).await.status, 304, "{request:?}");
            }
            (None, _) => assert_eq!(answer.status, 200, "{request:?}: {answer:?}"),
        }
    }
    real.compare(&model).await;
}

#[test]
fn the_api_answers_random_requests_like_a_plain_model() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let probe = runtime.block_on(Probe::start());
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let domains = std::cell::Cell::new(0);
    let outcome = runner.run(&prop::collection::vec(request(), 1..60), |requests| {
        domains.set(domains.get() + 1);
        runtime.block_on(run(&probe, format!("d{}", domains.get()), &requests));
        Ok(())
    });
    runtime.block_on(probe.stop());
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
