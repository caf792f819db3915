//! Services as Prometheus discovers them over HTTP: which instances are targets, at which address, with which
//! labels. Pure.
//!
//! In: the services of a tenant, and a choice among them. Out: the body of the answer, always the whole list.
//! Prometheus keeps the targets that it has while an answer fails, and drops what an answer leaves out.
//!
//! The format is that of Prometheus' `http_sd_config`. One label whose name has other characters than
//! `[a-zA-Z0-9_]`, or one value that is no text, makes Prometheus 2 refuse the whole answer, so neither can
//! occur here.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::endpoint::Endpoint;
use shared::model::{Instance, ServiceKey};

/// The beginning of each label, as Prometheus' own discoveries have one.
const META: &str = "__meta_muster_";
/// Protocols that Prometheus can speak, in the order of preference.
const OVER_HTTP: [&str; 3] = ["rest", "http", "https"];
/// The property with the path of the metrics.
const PATH: &str = "prometheus.path";
/// The property with the scheme of the metrics.
const SCHEME: &str = "prometheus.scheme";
/// The property with the port of the metrics, if that is none of the endpoints'.
const PORT: &str = "prometheus.port";
/// The property that takes an instance out of the list, if it is `false`.
const SCRAPE: &str = "prometheus.scrape";

/// The choice of a request; what is `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub app: Option<String>,
    /// The default environment is the empty text.
    pub env: Option<String>,
    pub service: Option<String>,
    /// The protocol of the endpoint that is the target. Instances without one are left out.
    pub port_name: Option<String>,
}

impl Choice {
    /// True for a service that is asked for.
    pub(crate) fn matches(&self, key: &ServiceKey) -> bool {
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&self.app, &key.app_id) && is(&self.env, &key.environment) && is(&self.service, &key.service_name)
    }
}

/// One target with its labels.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

impl Target {
    /// The target of an instance. `None` when it has no address that is asked for, or wants not to be one.
    pub(crate) fn of(key: &ServiceKey, instance: &Instance, choice: &Choice) -> Option<Self> {
        let property = |name: &str| instance.properties.get(name).map(|value| value.trim());
        if property(SCRAPE).is_some_and(|value| value.eq_ignore_ascii_case("false")) {
            return None;
        }
        let mut endpoint = chosen(instance, choice.port_name.as_deref())?;
        if let Some(port) = property(PORT).and_then(|port| port.parse().ok()).filter(|port| *port != 0) {
            endpoint.port = port;
        }
        let labels = labels(key, instance, &endpoint, property(PATH), property(SCHEME));
        Some(Self { targets: [endpoint.authority()], labels })
    }
}

/// The endpoint to scrape: that of the protocol that is asked for, else one over HTTP, else the first.
fn chosen(instance: &Instance, protocol: Option<&str>) -> Option<Endpoint> {
    let endpoints: Vec<Endpoint> =
        instance.endpoints.iter().filter_map(|text| Endpoint::parse(text)).collect();
    let of = |protocol: &str| {
        endpoints.iter().find(|endpoint| endpoint.protocol.eq_ignore_ascii_case(protocol)).cloned()
    };
    match protocol {
        Some(protocol) => of(protocol),
        None => OVER_HTTP.into_iter().find_map(of).or_else(|| endpoints.first().cloned()),
    }
}

fn labels(
    key: &ServiceKey,
    instance: &Instance,
    endpoint: &Endpoint,
    path: Option<&str>,
    scheme: Option<&str>,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    // Properties first: none of them may hide a label of the registry's own.
    for (name, value) in &instance.properties {
        // Of two names that differ in other characters only, the first in the order of their bytes counts.
        labels.entry(format!("{META}property_{}", sanitised(name))).or_insert_with(|| value.clone());
    }
    let place = instance.data_center_info.clone().unwrap_or_default();
    for (name, value) in [
        ("app", &*key.app_id),
        ("environment", &key.environment),
        ("service", &key.service_name),
        ("version", &key.version),
        ("alias", &key.alias),
        ("service_id", &instance.service_id),
        ("instance_id", &instance.instance_id),
        ("host_name", &instance.host_name),
        ("status", instance.told_status()),
        ("protocol", &endpoint.protocol),
        ("data_center", &place.name),
        ("region", &place.region),
        ("zone", &place.available_zone),
    ] {
        // An empty label is an absent one for Prometheus.
        if !value.is_empty() {
            labels.insert(format!("{META}{name}"), value.to_owned());
        }
    }
    // With another scheme Prometheus drops the target and says so only in its log.
    let named = scheme.map(str::to_ascii_lowercase).filter(|scheme| matches!(&**scheme, "http" | "https"));
    let scheme = named.or_else(|| endpoint.is_secure.then(|| "https".to_owned()));
    if let Some(scheme) = scheme {
        labels.insert("__scheme__".to_owned(), scheme);
    }
    if let Some(path) = path.filter(|path| path.starts_with('/')) {
        labels.insert("__metrics_path__".to_owned(), path.to_owned());
    }
    labels
}

/// The name with every other character replaced that a label cannot have.
fn sanitised(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key() -> ServiceKey {
        ServiceKey {
            app_id: "shop".into(),
            service_name: "order".into(),
            version: "1.2.0".into(),
            ..ServiceKey::default()
        }
    }

    fn instance(endpoints: &[&str], properties: &[(&str, &str)]) -> Instance {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Instance {
            instance_id: "i".into(),
            endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
            properties: properties.collect(),
            ..Instance::default()
        }
    }

    fn target(instance: &Instance, choice: &Choice) -> Option<Value> {
        Target::of(&key(), instance, choice).map(|target| serde_json::to_value(target).expect("serialises"))
    }

    #[test]
    fn an_instance_is_a_target_with_its_labels() {
        let properties = [("team.name", "a"), ("team-name", "b"), ("größe", "1"), ("prometheus.path", "/m")];
        let instance =
            instance(&["highway://10.0.0.7:70", "rest://10.0.0.7:80?sslEnabled=true"], &properties);
        let expected = json!({
            "targets": ["10.0.0.7:80"],
            "labels": {
                "__meta_muster_app": "shop",
                "__meta_muster_service": "order",
                "__meta_muster_version": "1.2.0",
                "__meta_muster_instance_id": "i",
                "__meta_muster_status": "UP",
                "__meta_muster_protocol": "rest",
                "__meta_muster_property_team_name": "b",
                "__meta_muster_property_gr__e": "1",
                "__meta_muster_property_prometheus_path": "/m",
                "__metrics_path__": "/m",
                "__scheme__": "https",
            },
        });
        assert_eq!(target(&instance, &Choice::default()), Some(expected));
    }

    #[test]
    fn the_port_is_that_of_the_choice_or_the_property() {
        let two = ["grpc://[fd00::1]:9000", "rest://10.0.0.7:80"];
        let address = |instance: &Instance, name: Option<&str>| {
            let choice = Choice { port_name: name.map(Into::into), ..Choice::default() };
            target(instance, &choice).map(|target| target["targets"][0].clone())
        };
        let plain = instance(&two, &[]);
        assert_eq!(address(&plain, None), Some(json!("10.0.0.7:80")));
        assert_eq!(address(&plain, Some("GRPC")), Some(json!("[fd00::1]:9000")));
        assert_eq!(address(&plain, Some("highway")), None);
        assert_eq!(address(&instance(&two[..1], &[]), None), Some(json!("[fd00::1]:9000")));
        let metrics = instance(&two, &[("prometheus.port", "9100"), ("prometheus.scheme", "ftp")]);
        assert_eq!(address(&metrics, None), Some(json!("10.0.0.7:9100")));
        assert_eq!(address(&instance(&two, &[("prometheus.port", "x")]), None), Some(json!("10.0.0.7:80")));
        assert_eq!(address(&instance(&two, &[("prometheus.scrape", "False")]), None), None);
        assert_eq!(address(&instance(&["somewhere"], &[]), None), None);
        assert_eq!(address(&instance(&["rest://0.0.0.0:80"], &[]), None), None, "Prometheus itself");
    }

    #[test]
    fn label_names_are_those_that_every_prometheus_takes() {
        let odd: Vec<(String, &str)> =
            (0..300).map(|code| (char::from_u32(code).unwrap_or('x').to_string(), "v")).collect();
        let odd: Vec<(&str, &str)> = odd.iter().map(|(name, value)| (&**name, *value)).collect();
        let target = target(&instance(&["rest://n:1"], &odd), &Choice::default()).expect("a target");
        for (name, value) in target["labels"].as_object().expect("labels") {
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
            assert!(value.is_string(), "{name}");
        }
    }
}
