//! The targets that Prometheus discovers: `GET /prometheus/v1/targets` of a gateway.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Choice, Told};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;

const HEADS: [&str; 6] = ["SCRAPED AT", "STATUS", "SERVICE", "VERSION", "ENV", "INSTANCE ID"];

/// An element of the answer, by the format of `http_sd_config`.
#[derive(Debug, Deserialize)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Asks as Prometheus does.
pub(super) async fn ask(registry: &RegistryClient, choice: Choice<'_>) -> Result<Told, CommandFailure> {
    let reply = registry
        .request_path(Method::GET, &["prometheus", "v1", "targets"])
        .query("project", registry.project())
        .query_if("app", choice.app)
        .query_if("env", choice.env)
        .query_if("service", choice.service)
        .send()
        .await?;
    let rows = rows(&reply.body).map_err(|e| CommandFailure::NotUnderstood {
        server: registry.server(),
        problem: format!("these are no targets: {e}"),
    })?;
    Ok(Told { heads: &HEADS, rows, body: reply.body, age: reply.age })
}

/// One row for each target, in the order of their addresses.
fn rows(body: &Value) -> Result<Vec<Vec<String>>, serde_json::Error> {
    let groups = Vec::<Group>::deserialize(body)?;
    let mut rows = Vec::new();
    for Group { targets, labels } in &groups {
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        let or = |name: &str, default: &'static str| match label(name) {
            "" => default.to_owned(),
            value => value.to_owned(),
        };
        for target in targets {
            rows.push(vec![
                // As Prometheus puts it together when nothing is relabelled.
                format!("{}://{target}{}", or("__scheme__", "http"), or("__metrics_path__", "/metrics")),
                label("__meta_muster_status").to_owned(),
                format!("{}/{}", label("__meta_muster_app"), label("__meta_muster_service")),
                label("__meta_muster_version").to_owned(),
                label("__meta_muster_environment").to_owned(),
                label("__meta_muster_instance_id").to_owned(),
            ]);
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
    fn a_target_is_shown_as_it_would_be_scraped() {
        let body = json!([
            {"targets": ["b:2"], "labels": {"__scheme__": "https", "__metrics_path__": "/m"}},
            {"targets": ["a:1"], "labels": {"__meta_muster_app": "shop", "__meta_muster_service": "order",
                "__meta_muster_status": "UP", "__meta_muster_instance_id": "i1"}},
        ]);
        let shown: Vec<_> = rows(&body).expect("are targets").iter().map(|row| row.join(" ")).collect();
        assert_eq!(shown, ["http://a:1/metrics UP shop/order   i1", "https://b:2/m  /   "]);
    }

    #[test]
    fn an_answer_of_another_form_is_no_empty_list() {
        for wrong in [json!(null), json!({}), json!([{"labels": {}}]), json!([{"targets": [1]}])] {
            assert!(rows(&wrong).is_err(), "{wrong}");
        }
        assert!(rows(&json!([])).expect("is a list").is_empty());
    }

    #[test]
    fn the_same_targets_in_another_order_are_the_same() {
        let told =
            |body: Value| Told { heads: &HEADS, rows: rows(&body).expect("are targets"), body, age: None };
        let [a, b] = [json!({"targets": ["a:1"]}), json!({"targets": ["b:1"]})];
        assert!(told(json!([a, b])).is_same(&Told { age: Some(3), ..told(json!([b, a])) }));
        let labelled = json!({"targets": ["b:1"], "labels": {"__meta_muster_zone": "z"}});
        assert!(!told(json!([a, b])).is_same(&told(json!([a, labelled]))), "labels count too");
    }
}
