//! The dump: everything that a view contains, as keys, revisions and values in Service-Center's form.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};
use shared::model::{Revision, ServiceRef};

use crate::keys::{self, Key};
use crate::view::{ServiceView, Snapshot};

/// An entry of the dump.
// For the document only.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct DumpEntry {
    key: String,
    rev: u64,
    cluster: String,
    value: Value,
}

/// The entries of a view by kind.
pub(super) fn cache(snapshot: &Snapshot) -> Map<String, Value> {
    let mut dump = Dump::default();
    for (tenant, view) in snapshot.tenants.iter() {
        for (id, service) in view.services.iter() {
            dump.add_service(&ServiceRef::new(tenant.clone(), id), service);
        }
        for (name, versions) in view.names.iter() {
            for version in versions.iter() {
                let key = keys::index(tenant, name, &version.text);
                dump.add("serviceIndexes", Some(key), version.mod_rev, json!(version.id));
            }
        }
        for (name, versions) in view.aliases.iter() {
            for version in versions.iter() {
                let key = keys::alias(tenant, name, &version.text);
                dump.add("serviceAliases", Some(key), version.mod_rev, json!(version.id));
            }
        }
        for ((name, version), set) in view.consumer_rules.iter() {
            let key = Key::ConsumerRule(tenant.clone(), name.clone(), version.clone()).render();
            dump.add("dependencyRules", key, set.mod_rev, json!({ "Dependency": &*set.keys }));
        }
        for (name, rules) in view.provider_rules.iter() {
            for (rule, set) in rules.iter() {
                let key = Key::ProviderRule(tenant.clone(), name.clone(), rule.clone()).render();
                dump.add("dependencyRules", key, set.mod_rev, json!({ "Dependency": &*set.keys }));
            }
        }
        for (environment, set) in view.provider_rules_all.iter() {
            let key = Key::ProviderRuleAll(tenant.clone(), environment.clone()).render();
            dump.add("dependencyRules", key, set.mod_rev, json!({ "Dependency": &*set.keys }));
        }
    }
    dump.0
}

#[derive(Default)]
struct Dump(Map<String, Value>);

impl Dump {
    fn add(&mut self, kind: &str, key: Option<String>, rev: Revision, value: Value) {
        // Only a key of an unknown kind has no text, and none is made here.
        let Some(key) = key else { return };
        let entry = json!({ "key": key, "rev": rev, "cluster": "default", "value": value });
        if let Value::Array(list) = self.0.entry(kind).or_insert_with(|| json!([])) {
            list.push(entry);
        }
    }

    fn add_service(&mut self, service: &ServiceRef, view: &ServiceView) {
        if let Some(record) = &view.service {
            self.add("services", Some(keys::service(service)), view.mod_rev, json!(record));
        }
        // As stored: the dump shows records, not what clients are shown.
        for (id, entry) in view.instances.iter() {
            let key = keys::instance(service, id);
            self.add("instances", Some(key), entry.reported_rev, json!(entry.reported));
        }
        // Tags that were all deleted are an entry too.
        if view.tags_rev > Revision::ZERO {
            let key = Key::Tags(service.clone()).render();
            self.add("serviceTags", key, view.tags_rev, json!(view.tags));
        }
        for (id, rule) in view.rules.iter() {
            let key = Key::Rule(service.clone(), id.clone()).render();
            self.add("serviceRules", key, rule.mod_rev, json!(rule.rule));
            let key = keys::rule_index(service, &rule.rule.attribute, &rule.rule.pattern);
            // Both are written in one transaction.
            self.add("serviceRuleIndexes", Some(key), rule.mod_rev, json!(id));
        }
        for (id, schema) in view.schemas.iter() {
            if let Some(summary) = &schema.summary {
                let key = Key::SchemaSummary(service.clone(), id.clone()).render();
                self.add("summaries", key, schema.summary_rev, json!(summary));
            }
        }
    }
}
