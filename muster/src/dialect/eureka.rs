//! The answers that clients of Eureka get: `GET /eureka/in/{scope}/…` of a gateway.

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Choice, Told};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;

const HEADS: [&str; 6] = ["ADDRESS", "STATUS", "APPLICATION", "VERSION", "HASH OF ALL", "INSTANCE ID"];

#[derive(Deserialize)]
struct Answer {
    applications: Applications,
}

#[derive(Deserialize)]
struct Applications {
    #[serde(rename = "apps__hashcode")]
    hash: String,
    application: Vec<Application>,
}

#[derive(Deserialize)]
struct Application {
    name: String,
    instance: Vec<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    instance_id: String,
    host_name: String,
    status: String,
    port: Port,
    secure_port: Port,
    #[serde(default)]
    metadata: Value,
}

#[derive(Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: u16,
    #[serde(rename = "@enabled")]
    enabled: String,
}

/// Asks as a client of Eureka does: for a name, or for everything.
pub(super) async fn ask(registry: &RegistryClient, choice: Choice<'_>) -> Result<Told, CommandFailure> {
    let scope = scope(registry.project(), choice);
    let base = ["eureka", "in", &scope];
    let path: Vec<&str> = match choice.service {
        Some(name) => base.into_iter().chain(["vips", name]).collect(),
        None => base.into_iter().chain(["apps"]).collect(),
    };
    let reply = registry.request_path(Method::GET, &path).send().await?;
    let rows = rows(&reply.body).map_err(|e| CommandFailure::NotUnderstood {
        server: registry.server(),
        problem: format!("these are no applications: {e}"),
    })?;
    Ok(Told { heads: &HEADS, rows, body: reply.body, age: reply.age })
}

/// The part of the registry, as a path names it. A client of Eureka always asks for one application of the
/// registry and one environment.
fn scope(project: &str, choice: Choice<'_>) -> String {
    let named = [("project", Some(project)), ("env", choice.env), ("app", choice.app)];
    let given = named.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
    let parts: Vec<String> =
        given.filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key}={value}")).collect();
    parts.join(",")
}

/// One row for each instance, in the order of their addresses.
fn rows(body: &Value) -> Result<Vec<Vec<String>>, serde_json::Error> {
    let Answer { applications: Applications { hash, application } } = Answer::deserialize(body)?;
    let mut rows = Vec::new();
    for Application { name, instance } in application {
        for one in instance {
            let address = match (&one.port, &one.secure_port) {
                (plain, _) if plain.enabled == "true" => format!("http://{}:{}", one.host_name, plain.number),
                (_, secure) if secure.enabled == "true" => {
                    format!("https://{}:{}", one.host_name, secure.number)
                }
                _ => one.host_name.clone(),
            };
            let version = one.metadata.get("version").and_then(Value::as_str).unwrap_or_default();
            let hash = hash.clone();
            rows.push(vec![address, one.status, name.clone(), version.to_owned(), hash, one.instance_id]);
        }
    }
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_is_shown_as_it_would_be_called() {
        let instance = |id: &str, plain: &str, secure: &str| {
            json!({"instanceId": id, "hostName": "n", "status": "UP", "port": {"$": 80, "@enabled": plain},
                "securePort": {"$": 443, "@enabled": secure}, "metadata": {"version": "1.0.0"}})
        };
        let body = json!({"applications": {"versions__delta": "7", "apps__hashcode": "UP_2_", "application": [
            {"name": "ORDER", "instance": [instance("a", "true", "true"), instance("b", "false", "true")]},
        ]}});
        let shown: Vec<_> = rows(&body).expect("applications").iter().map(|row| row.join(" ")).collect();
        assert_eq!(shown, ["http://n:80 UP ORDER 1.0.0 UP_2_ a", "https://n:443 UP ORDER 1.0.0 UP_2_ b"]);
        for wrong in [json!(null), json!({}), json!({"applications": {}})] {
            assert!(rows(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_of_everything_needs_no_name() {
        let choice = Choice { env: Some(""), app: Some("shop"), service: None };
        assert_eq!(scope("p", choice), "project=p,app=shop");
    }
}
