//! Routes of operators: what the view holds, where the store is, what went wrong.

use axum::extract::State;
use serde_json::{Value, json};
use shared::model::Tenant;

use super::reply::{self, Answer};
use super::{Api, Call};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key};
use crate::view::Snapshot;

pub(super) async fn dump(State(api): State<Api>, call: Call) -> Answer {
    if call.caller.tenant != Tenant::default() {
        return Err(Failure::new(Code::Forbidden, "Required admin permission"));
    }
    let options = call.list("options");
    let asked = |name: &str| options.iter().any(|o| o == name || o == "all");
    let snapshot = api.registry().read(&call.caller).await?;
    let mut body = serde_json::Map::new();
    if asked("info") {
        body.insert("info".into(), super::health::version_body("4.0.0"));
    }
    if asked("cache") || options.is_empty() {
        body.insert("cache".into(), Value::Object(cache(&snapshot)));
    }
    reply::json(&body)
}

/// Everything that the view holds, as key, revision and value.
fn cache(snapshot: &Snapshot) -> serde_json::Map<String, Value> {
    let mut cache = serde_json::Map::new();
    let mut add = |member: &str, key: Option<String>, rev: u64, value: Value| {
        let Some(key) = key else { return };
        let entry = json!({ "key": key, "rev": rev, "cluster": "default", "value": value });
        if let Value::Array(list) = cache.entry(member).or_insert_with(|| json!([])) {
            list.push(entry);
        }
    };
    for (tenant, part) in snapshot.tenants.iter() {
        for (id, view) in part.services.iter() {
            let service = shared::model::ServiceRef::new(tenant.clone(), id);
            if let Some(record) = &view.service {
                add("services", Some(keys::service(&service)), view.mod_rev, json!(record));
            }
            for (instance_id, it) in view.instances.iter() {
                let key = keys::instance(&service, instance_id);
                add("instances", Some(key), it.mod_rev, json!(it.instance));
            }
            if !view.tags.is_empty() {
                add("serviceTags", Key::Tags(service.clone()).render(), view.tags_rev, json!(view.tags));
            }
            for (rule_id, rule) in view.rules.iter() {
                add("serviceRules", Key::Rule(service.clone(), rule_id.clone()).render(), 0, json!(rule));
                let key = keys::rule_index(&service, &rule.attribute, &rule.pattern);
                add("serviceRuleIndexes", Some(key), 0, json!(rule_id));
            }
            for (schema_id, schema) in view.schemas.iter() {
                let key = Key::SchemaSummary(service.clone(), schema_id.clone()).render();
                if let Some(summary) = &schema.summary {
                    add("summaries", key, 0, json!(summary));
                }
            }
        }
        for (name, versions) in part.names.iter() {
            for version in versions.iter() {
                add("serviceIndexes", Some(keys::index(tenant, name, &version.text)), 0, json!(version.id));
            }
        }
        for (name, versions) in part.aliases.iter() {
            for version in versions.iter() {
                add("serviceAliases", Some(keys::alias(tenant, name, &version.text)), 0, json!(version.id));
            }
        }
        for ((name, version), set) in part.consumer_rules.iter() {
            let key = Key::ConsumerRule(tenant.clone(), name.clone(), version.clone()).render();
            add("dependencyRules", key, set.mod_rev, json!({ "Dependency": &*set.keys }));
        }
        for (name, rules) in part.provider_rules.iter() {
            for (rule, set) in rules.iter() {
                let key = Key::ProviderRule(tenant.clone(), name.clone(), rule.clone()).render();
                add("dependencyRules", key, set.mod_rev, json!({ "Dependency": &*set.keys }));
            }
        }
    }
    cache
}

pub(super) async fn protections(State(api): State<Api>, call: Call) -> Answer {
    let protected = api.registry().protected(&call.caller.tenant).await?;
    if protected.is_empty() {
        reply::json(&json!({}))
    } else {
        reply::json(&json!({ "protections": protected }))
    }
}

pub(super) async fn release(State(api): State<Api>, call: Call) -> Answer {
    api.registry().release(&call.service()?).await?;
    reply::empty()
}

pub(super) async fn alarms(State(api): State<Api>, _call: Call) -> Answer {
    let alarms = api.registry().alarms().list();
    if alarms.is_empty() { reply::json(&json!({})) } else { reply::json(&json!({ "alarms": alarms })) }
}

pub(super) async fn forget_alarms(State(api): State<Api>, _call: Call) -> Answer {
    api.registry().alarms().forget();
    reply::empty()
}

pub(super) async fn clusters(State(api): State<Api>, _call: Call) -> Answer {
    reply::json(&json!({ "clusters": { "default": api.registry().store().endpoints() } }))
}
