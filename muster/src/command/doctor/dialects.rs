//! Asks for instances as clients of xDS, Prometheus, Eureka and server-sent events do, and compares what they
//! are told with a find.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use shared::endpoint::Endpoint;
use shared::model::{Instance, Service};
use tokio::time::{sleep, timeout};

use super::{CheckState, Finding, Outcome, failed, ok, warning};
use crate::client::RegistryClient;
use crate::dialect::{Choice, xds};
use crate::failure::CommandFailure;

/// Services of which one is looked for that has instances.
const LOOKS: usize = 20;
/// Comparisons before a difference counts: instances come and go between two questions.
const TRIES: usize = 5;
/// Pause before the next comparison.
const PAUSE: Duration = Duration::from_millis(300);

/// One of the dialects that share the API's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Xds,
    HttpSd,
    Eureka,
    Events,
}

/// Something that was told: its instances, in the words of the dialect, and a note.
struct Told {
    instances: BTreeSet<String>,
    note: String,
}

/// The reason for which a dialect cannot be compared.
enum Problem {
    /// It is not served here.
    Off,
    /// The answer breaks the rules of the dialect.
    Wrong(String),
    Failure(CommandFailure),
}

impl From<CommandFailure> for Problem {
    fn from(failure: CommandFailure) -> Self {
        match failure {
            CommandFailure::Refused(refusal) if refusal.status == 404 => Self::Off,
            other => Self::Failure(other),
        }
    }
}

/// Checks each dialect.
pub(super) async fn check(registry: &RegistryClient) -> Vec<Finding> {
    let sample = match sample(registry).await {
        Ok(sample) => sample,
        Err(failure) => {
            return vec![Finding::new("dialects", failed(format!("no service can be looked up: {failure}")))];
        }
    };
    let mut findings = Vec::new();
    for dialect in [Spoken::Xds, Spoken::HttpSd, Spoken::Eureka, Spoken::Events] {
        findings.push(Finding::new(dialect.name(), dialect.check(registry, sample.as_ref()).await));
    }
    findings
}

/// The first service that has instances; `None` when there is none among the first few.
async fn sample(registry: &RegistryClient) -> Result<Option<Service>, CommandFailure> {
    let reply = registry.get(&["registry", "microservices"]).send().await?;
    let mut services: Vec<Service> = reply.part("services", registry)?;
    let path = |service: &Service| {
        (service.environment.clone(), service.app_id.clone(), service.service_name.to_lowercase())
    };
    services.sort_by_key(path);
    services.dedup_by_key(|service| path(service));
    for service in services.into_iter().take(LOOKS) {
        if !found(registry, &service).await?.is_empty() {
            return Ok(Some(service));
        }
    }
    Ok(None)
}

/// The instances of a service in all its versions.
async fn found(registry: &RegistryClient, service: &Service) -> Result<Vec<Instance>, CommandFailure> {
    let find = registry
        .get(&["registry", "instances"])
        .query("appId", &service.app_id)
        .query("serviceName", &service.service_name)
        .query("env", &service.environment)
        .query("version", "0+");
    match find.send().await {
        Ok(reply) => reply.part("instances", registry),
        // It has just ended.
        Err(failure) if failure.is_unknown_service() => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

impl Spoken {
    fn name(self) -> &'static str {
        match self {
            Self::Xds => "xds",
            Self::HttpSd => "http-sd",
            Self::Eureka => "eureka",
            Self::Events => "sse",
        }
    }

    async fn check(self, registry: &RegistryClient, sample: Option<&Service>) -> Outcome {
        let mut outcome = warning("not asked");
        for attempt in 0..TRIES {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            outcome = self.compare(registry, sample).await;
            if outcome.0 != CheckState::Warning {
                break;
            }
        }
        outcome
    }

    /// Asks once. A warning means that the answers differ.
    async fn compare(self, registry: &RegistryClient, sample: Option<&Service>) -> Outcome {
        let Some(service) = sample else {
            let nobody =
                Service { app_id: "muster".into(), service_name: "nobody".into(), ..Service::default() };
            return match self.ask(registry, &nobody).await {
                Ok(told) => ok(format!("answers{}; there are no instances to compare", told.note)),
                Err(problem) => self.refused(problem),
            };
        };
        let told = match self.ask(registry, service).await {
            Ok(told) => told,
            Err(problem) => return self.refused(problem),
        };
        let instances = match found(registry, service).await {
            Ok(instances) => instances,
            Err(failure) => return failed(format!("no find to compare with: {failure}")),
        };
        let expected: BTreeSet<String> =
            instances.iter().filter_map(|instance| self.word_for(instance)).collect();
        let name = format!("{}/{}", service.app_id, service.service_name);
        if told.instances == expected {
            return ok(format!(
                "tells the {} of {name} that a find has{}",
                counted(expected.len(), "instance"),
                told.note
            ));
        }
        let missing: Vec<&str> = expected.difference(&told.instances).map(String::as_str).collect();
        let more: Vec<&str> = told.instances.difference(&expected).map(String::as_str).collect();
        warning(format!(
            "of {name} it lacks {missing:?} and has {more:?} beyond a find: a gateway that is behind, or \
             instances that come and go"
        ))
    }

    fn refused(self, problem: Problem) -> Outcome {
        let name = self.name();
        match problem {
            Problem::Off => {
                ok(format!("not served at this address: the setting `{name}` is off, or this is no gateway"))
            }
            Problem::Wrong(words) => failed(format!("{words}; is there a proxy in between that changes it?")),
            Problem::Failure(CommandFailure::NotUnderstood { problem, .. }) if self == Self::Xds => {
                failed(format!("{problem}; xDS is gRPC, which needs HTTP/2 all the way"))
            }
            Problem::Failure(failure) => failed(failure.to_string()),
        }
    }

    /// The word that stands for an instance in this dialect; `None` when its clients are not told of it.
    fn word_for(self, instance: &Instance) -> Option<String> {
        let mut endpoints = instance.endpoints.iter().filter_map(|text| Endpoint::parse(text));
        match self {
            Self::Xds => {
                let endpoint = endpoints.find(|endpoint| endpoint.address().is_some())?;
                Some(endpoint.authority())
            }
            Self::HttpSd => {
                let scrape = instance.properties.get("prometheus.scrape");
                let is_left_out = scrape.is_some_and(|value| value.trim().eq_ignore_ascii_case("false"));
                endpoints.next().filter(|_| !is_left_out).map(|_| instance.instance_id.clone())
            }
            Self::Eureka => Some(eureka_id(instance).unwrap_or_else(|| instance.instance_id.clone())),
            Self::Events => Some(instance.instance_id.clone()),
        }
    }

    async fn ask(self, registry: &RegistryClient, service: &Service) -> Result<Told, Problem> {
        match self {
            Self::Xds => of_xds(registry, service).await,
            Self::HttpSd => of_http_sd(registry, service).await,
            Self::Eureka => of_eureka(registry, service).await,
            Self::Events => of_events(registry, service).await,
        }
    }
}

/// The id that a client of Eureka has registered, which the registry keeps in a property.
fn eureka_id(instance: &Instance) -> Option<String> {
    let record: Value = serde_json::from_str(instance.properties.get("muster.eureka")?).ok()?;
    record["instanceId"].as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

async fn of_xds(registry: &RegistryClient, service: &Service) -> Result<Told, Problem> {
    let choice = Choice {
        app: Some(&service.app_id),
        env: Some(&service.environment),
        service: Some(&service.service_name),
    };
    let resources = xds::resources(registry, choice).await?;
    let mut told = Told { instances: BTreeSet::new(), note: String::new() };
    for resource in resources.iter().filter(|resource| !resource.name.contains(':')) {
        // A gateway that has seen less than its client finds that out by the version.
        let version = &resource.version;
        if !is_version(version) {
            return Err(Problem::Wrong(format!("`{version}` is no version of a gateway")));
        }
        let endpoints = resource.shown.endpoints();
        if resource.shown.kind() == "endpoints" {
            told.note = format!(", at version {}", resource.version);
        }
        told.instances.extend(endpoints.into_iter().map(|endpoint| endpoint.address));
    }
    Ok(told)
}

/// True for `INCARNATION.REVISION-DIGEST`.
fn is_version(text: &str) -> bool {
    let point = text.split_once('-').and_then(|(point, _)| point.split_once('.'));
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    point.is_some_and(|(incarnation, revision)| is_number(incarnation) && is_number(revision))
}

async fn of_http_sd(registry: &RegistryClient, service: &Service) -> Result<Told, Problem> {
    let reply = registry
        .request_path(Method::GET, &["prometheus", "v1", "targets"])
        .query("project", registry.project())
        .query("app", &service.app_id)
        .query("env", &service.environment)
        .query("service", &service.service_name)
        .send()
        .await?;
    // Prometheus takes exactly this type.
    is_of(&reply.content_type, "application/json")?;
    let Value::Array(groups) = &reply.body else {
        return Err(Problem::Wrong("the answer is no list of targets".to_owned()));
    };
    let ids = groups.iter().map(|group| text(&group["labels"]["__meta_muster_instance_id"]));
    Ok(Told { instances: ids.collect(), note: aged(reply.age) })
}

async fn of_eureka(registry: &RegistryClient, service: &Service) -> Result<Told, Problem> {
    let mut scope = format!("project={},app={}", registry.project(), service.app_id);
    if !service.environment.is_empty() {
        scope = format!("{scope},env={}", service.environment);
    }
    let reply = registry.request_path(Method::GET, &["eureka", "in", &scope, "apps"]).send().await?;
    is_of(&reply.content_type, "application/json")?;
    let applications = &reply.body["applications"];
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut instances = BTreeSet::new();
    for application in applications["application"].as_array().into_iter().flatten() {
        for one in application["instance"].as_array().into_iter().flatten() {
            *counts.entry(text(&one["status"])).or_default() += 1;
            if text(&application["name"]) == service.service_name.to_uppercase() {
                instances.insert(text(&one["instanceId"]));
            }
        }
    }
    // Clients compute it after each change, and fetch everything when theirs is another.
    let hash: String = counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect();
    let theirs = text(&applications["apps__hashcode"]);
    if theirs != hash {
        return Err(Problem::Wrong(format!(
            "the hash of the answer is `{theirs}`, and of its content `{hash}`"
        )));
    }
    Ok(Told { instances, note: aged(reply.age) })
}

/// Reads the present state of a service, which comes before anything else.
async fn of_events(registry: &RegistryClient, service: &Service) -> Result<Told, Problem> {
    let request = registry
        .get(&["registry", "events"])
        .query("app", &service.app_id)
        .query("env", &service.environment)
        .query("rev", "0");
    let mut lines = request.lines(registry.timeout()).await?;
    is_of(lines.content_type(), "text/event-stream")?;
    let reading = async {
        let mut instances = BTreeSet::new();
        let mut has_id = false;
        while let Some(line) = lines.next().await? {
            has_id |= line.starts_with("id:");
            let Some(data) = line.strip_prefix("data:") else { continue };
            let frame: Value = serde_json::from_str(data).unwrap_or_default();
            let key = &frame["key"];
            match frame["action"].as_str() {
                Some("RESET") if text(&key["serviceName"]) == service.service_name => {
                    let states = frame["instances"].as_array().into_iter().flatten();
                    instances.extend(states.map(|instance| text(&instance["instanceId"])));
                }
                // Everything was told up to here.
                Some("BOOKMARK") if has_id => return Ok(Told { instances, note: String::new() }),
                Some("BOOKMARK") => {
                    return Err(Problem::Wrong("the events have no ids to resume from".to_owned()));
                }
                _ => {}
            }
        }
        Err(Problem::Wrong("the stream has ended".to_owned()))
    };
    match timeout(registry.timeout(), reading).await {
        Ok(told) => told,
        Err(_) => Err(Problem::Wrong("no event has come in time, so somebody holds them back".to_owned())),
    }
}

/// The content type without its parameters must be this one.
fn is_of(own: &Option<String>, expected: &str) -> Result<(), Problem> {
    let own = own.as_deref().unwrap_or_default();
    if own.split(';').next().is_some_and(|own| own.trim() == expected) {
        Ok(())
    } else {
        Err(Problem::Wrong(format!("the answer is of the type `{own}` and not `{expected}`")))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn aged(age: Option<u64>) -> String {
    age.map_or_else(String::new, |age| format!(", which no control plane has confirmed for {age} s"))
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("one {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_tells_of_the_instances_that_it_can() {
        let named = Instance {
            instance_id: "i".into(),
            endpoints: vec!["rest://node:1".into(), "grpc://10.0.0.1:2".into()],
            ..Instance::default()
        };
        let silent = Instance { instance_id: "j".into(), ..Instance::default() };
        let words = |instance: &Instance| {
            [Spoken::Xds, Spoken::HttpSd, Spoken::Eureka, Spoken::Events]
                .map(|dialect| dialect.word_for(instance))
        };
        assert_eq!(words(&named), ["10.0.0.1:2", "i", "i", "i"].map(|word| Some(word.to_owned())));
        assert_eq!(words(&silent), [None, None, Some("j".into()), Some("j".into())]);
        let properties = [("prometheus.scrape".to_owned(), "False".to_owned())].into();
        assert_eq!(Spoken::HttpSd.word_for(&Instance { properties, ..named }), None);
    }

    #[test]
    fn a_dialect_that_is_off_is_no_fault() {
        let refusal = crate::failure::RegistryRefusal { status: 404, ..Default::default() };
        let off = Spoken::Eureka.refused(CommandFailure::Refused(refusal.clone()).into());
        assert!(off.0 == CheckState::Ok && off.1.contains("`eureka` is off"), "{off:?}");
        let busy = CommandFailure::TryAgain { refusal, wait: None };
        assert_eq!(Spoken::Eureka.refused(busy.into()).0, CheckState::Failed);
    }
}
