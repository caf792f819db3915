//! What a written or deleted key means for the view, instances excepted.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::event::Action;
use shared::model::{Service, ServiceRef, Tenant};

use super::{Round, Writer};
use crate::keys::{Key, Name};
use crate::record::DependencySet;
use crate::store::KeyValue;
use crate::version::Version;
use crate::view::entry::{RuleSet, SchemaView, ServiceRule, VersionEntry};

impl Writer {
    pub(super) fn put(&mut self, key: &Key, kv: &KeyValue, round: &mut Round) {
        match key {
            Key::Service(service) => self.put_service(service, kv, round),
            Key::ServiceIndex(tenant, name, version) => {
                let entry = version_entry(version, kv);
                let tenant_view = self.tenant_mut(tenant);
                insert_version(&mut tenant_view.names, name, entry);
                round.names.insert((tenant.clone(), name.clone()));
            }
            Key::ServiceAlias(tenant, name, version) => {
                insert_version(&mut self.tenant_mut(tenant).aliases, name, version_entry(version, kv));
                round.names.insert((tenant.clone(), name.clone()));
            }
            Key::Tags(service) => {
                let Some(tags) = self.parse::<BTreeMap<String, String>>(kv) else { return };
                let view = self.service_mut(service);
                view.tags = Arc::new(tags.value);
                view.tags_rev = kv.mod_rev;
                round.consumers.insert(service.clone());
            }
            Key::Rule(service, id) => {
                let Some(rule) = self.parse::<ServiceRule>(kv) else { return };
                let rule = ServiceRule { rule_id: id.clone(), ..rule.value };
                Arc::make_mut(&mut self.service_mut(service).rules).insert(id.clone(), rule);
                self.note_name(service, round);
            }
            Key::Schema(service, id) | Key::SchemaRef(service, id) => {
                self.schema_mut(service, id).content = true;
            }
            Key::SchemaSummary(service, id) => {
                let summary = String::from_utf8_lossy(&kv.value).into_owned();
                self.schema_mut(service, id).summary = Some(summary);
            }
            Key::ConsumerRule(tenant, name, version) => {
                let Some(set) = self.rule_set(kv) else { return };
                self.tenant_mut(tenant).consumer_rules.insert_mut((name.clone(), version.clone()), set);
                round.named_consumers.insert((tenant.clone(), name.clone(), version.clone()));
            }
            Key::ProviderRule(tenant, name, rule) => {
                let Some(set) = self.rule_set(kv) else { return };
                let rules = &mut self.tenant_mut(tenant).provider_rules;
                let mut by_rule = rules.get(name).cloned().unwrap_or_default();
                Arc::make_mut(&mut by_rule).insert(rule.clone(), set);
                rules.insert_mut(name.clone(), by_rule);
            }
            Key::ProviderRuleAll(tenant, environment) => {
                let Some(set) = self.rule_set(kv) else { return };
                self.tenant_mut(tenant).provider_rules_all.insert_mut(environment.clone(), set);
            }
            Key::Domain(domain) => self.current.domains.insert_mut(domain.clone(), ()),
            Key::Project(tenant) => self.current.projects.insert_mut(tenant.clone(), ()),
            Key::Wanted(consumer, tenant, name) => self.put_wanted(consumer, tenant, name, round),
            Key::Size(service) => self.put_size(service, kv, round),
            Key::Held(service, id) => self.put_held(service, id, kv, round),
            Key::Instance(..) | Key::Lease(..) | Key::DependencyQueue(..) | Key::Other => {}
        }
    }

    pub(super) fn delete(&mut self, key: &Key, round: &mut Round) {
        match key {
            Key::Service(service) => {
                self.note_name(service, round);
                if self.current.service(service).is_none() {
                    return;
                }
                self.announce_all(service, Action::Delete, round);
                let view = self.service_mut(service);
                view.service = None;
                view.unknown = None;
                self.tenant_mut(&service.tenant).service_count -= 1;
                round.records.insert(service.clone());
                round.consumers.insert(service.clone());
                round.touched.insert(service.clone());
            }
            Key::ServiceIndex(tenant, name, version) => {
                remove_version(&mut self.tenant_mut(tenant).names, name, version);
                round.names.insert((tenant.clone(), name.clone()));
                round.named_consumers.insert((tenant.clone(), name.clone(), version.clone()));
            }
            Key::ServiceAlias(tenant, name, version) => {
                remove_version(&mut self.tenant_mut(tenant).aliases, name, version);
                round.names.insert((tenant.clone(), name.clone()));
            }
            Key::Tags(service) if self.current.any_service(service).is_some() => {
                let view = self.service_mut(service);
                (view.tags, view.tags_rev) = (Arc::default(), 0);
                round.consumers.insert(service.clone());
                round.touched.insert(service.clone());
            }
            Key::Rule(service, id) if self.current.any_service(service).is_some() => {
                Arc::make_mut(&mut self.service_mut(service).rules).remove(id);
                self.note_name(service, round);
                round.touched.insert(service.clone());
            }
            Key::Schema(service, id) | Key::SchemaRef(service, id) | Key::SchemaSummary(service, id)
                if self.current.any_service(service).is_some() =>
            {
                let summary = matches!(key, Key::SchemaSummary(..));
                let schemas = Arc::make_mut(&mut self.service_mut(service).schemas);
                if let Some(schema) = schemas.get_mut(id) {
                    if summary {
                        schema.summary = None
                    } else {
                        schema.content = false
                    }
                    if *schema == SchemaView::default() {
                        schemas.remove(id);
                    }
                }
                round.touched.insert(service.clone());
            }
            Key::ConsumerRule(tenant, name, version) => {
                self.tenant_mut(tenant).consumer_rules.remove_mut(&(name.clone(), version.clone()));
                round.named_consumers.insert((tenant.clone(), name.clone(), version.clone()));
            }
            Key::ProviderRule(tenant, name, rule) => {
                let rules = &mut self.tenant_mut(tenant).provider_rules;
                let Some(mut by_rule) = rules.get(name).cloned() else { return };
                Arc::make_mut(&mut by_rule).remove(rule);
                if by_rule.is_empty() {
                    rules.remove_mut(name);
                } else {
                    rules.insert_mut(name.clone(), by_rule);
                }
            }
            Key::ProviderRuleAll(tenant, environment) => {
                self.tenant_mut(tenant).provider_rules_all.remove_mut(environment);
            }
            Key::Domain(domain) => {
                self.current.domains.remove_mut(domain);
            }
            Key::Project(tenant) => {
                self.current.projects.remove_mut(tenant);
            }
            Key::Wanted(consumer, tenant, name) => self.delete_wanted(consumer, tenant, name, round),
            Key::Size(service) if self.current.any_service(service).is_some() => {
                self.service_mut(service).size = 0;
                self.current.shrunk.remove_mut(service);
                round.touched.insert(service.clone());
            }
            Key::Held(service, id) => self.delete_held(service, id, round),
            _ => {}
        }
    }

    fn put_service(&mut self, service: &ServiceRef, kv: &KeyValue, round: &mut Round) {
        let Some(record) = self.parse::<Service>(kv) else { return };
        let value = Service { service_id: service.id.clone(), ..record.value };
        let view = self.service_mut(service);
        let is_new = view.service.is_none();
        let key = value.key(&service.tenant);
        let is_renamed = *view.key != key;
        view.key = Arc::new(key);
        view.service = Some(Arc::new(value));
        view.unknown = (!record.unknown.is_empty()).then(|| Arc::new(record.unknown));
        view.mod_rev = kv.mod_rev;
        round.records.insert(service.clone());
        if is_new || is_renamed {
            round.consumers.insert(service.clone());
        }
        if is_new {
            self.tenant_mut(&service.tenant).service_count += 1;
            self.announce_all(service, Action::Create, round);
        }
        self.note_name(service, round);
    }

    /// Announces every instance there is: those that came before their service's record, when it comes, and
    /// those that it leaves behind when it goes.
    fn announce_all(&mut self, service: &ServiceRef, action: Action, round: &mut Round) {
        let left: Vec<_> = self.service_mut(service).instances.values().cloned().collect();
        for view in left {
            let mod_rev = if action == Action::Delete { round.rev } else { view.mod_rev };
            self.announce(service, action, view.instance.clone(), mod_rev, round);
        }
    }

    fn put_wanted(&mut self, consumer: &ServiceRef, tenant: &Tenant, name: &Name, round: &mut Round) {
        let provider = (tenant.clone(), name.clone());
        let wanted = &mut self.tenant_mut(&consumer.tenant).wanted;
        let mut names = wanted.get(&consumer.id).cloned().unwrap_or_default();
        Arc::make_mut(&mut names).insert(provider.clone());
        wanted.insert_mut(consumer.id.clone(), names);
        let mut consumers = self.current.wanted.get(&provider).cloned().unwrap_or_default();
        Arc::make_mut(&mut consumers).insert(consumer.clone());
        self.current.wanted.insert_mut(provider, consumers);
        round.consumers.insert(consumer.clone());
    }

    fn delete_wanted(&mut self, consumer: &ServiceRef, tenant: &Tenant, name: &Name, round: &mut Round) {
        let provider = (tenant.clone(), name.clone());
        let wanted = &mut self.tenant_mut(&consumer.tenant).wanted;
        if let Some(mut names) = wanted.get(&consumer.id).cloned() {
            Arc::make_mut(&mut names).remove(&provider);
            if names.is_empty() {
                wanted.remove_mut(&consumer.id);
            } else {
                wanted.insert_mut(consumer.id.clone(), names);
            }
        }
        if let Some(mut consumers) = self.current.wanted.get(&provider).cloned() {
            Arc::make_mut(&mut consumers).remove(consumer);
            if consumers.is_empty() {
                self.current.wanted.remove_mut(&provider);
            } else {
                self.current.wanted.insert_mut(provider, consumers);
            }
        }
        round.consumers.insert(consumer.clone());
    }

    /// A provider's name is to be looked at again: who hears of it may have changed.
    fn note_name(&self, service: &ServiceRef, round: &mut Round) {
        if let Some((_, record)) = self.current.service(service) {
            let name = Name::new(&record.environment, &record.app_id, &record.service_name);
            round.names.insert((service.tenant.clone(), name));
        }
    }

    fn schema_mut(&mut self, service: &ServiceRef, id: &str) -> &mut SchemaView {
        Arc::make_mut(&mut self.service_mut(service).schemas).entry(id.to_owned()).or_default()
    }

    fn rule_set(&mut self, kv: &KeyValue) -> Option<RuleSet> {
        let set = self.parse::<DependencySet>(kv)?;
        Some(RuleSet { keys: Arc::new(set.value.keys), mod_rev: kv.mod_rev })
    }
}

type Versions = rpds::HashTrieMapSync<Name, Arc<Vec<VersionEntry>>>;

fn version_entry(version: &str, kv: &KeyValue) -> VersionEntry {
    VersionEntry {
        version: Version::parse(version).unwrap_or_default(),
        text: version.to_owned(),
        id: String::from_utf8_lossy(&kv.value).into_owned(),
    }
}

/// Keeps the list newest first; versions that stand for the same number by their text.
fn insert_version(versions: &mut Versions, name: &Name, entry: VersionEntry) {
    let mut list = versions.get(name).cloned().unwrap_or_default();
    let entries = Arc::make_mut(&mut list);
    entries.retain(|e| e.text != entry.text);
    let place = entries.partition_point(|e| (e.version, &e.text) > (entry.version, &entry.text));
    entries.insert(place, entry);
    versions.insert_mut(name.clone(), list);
}

fn remove_version(versions: &mut Versions, name: &Name, version: &str) {
    let Some(mut list) = versions.get(name).cloned() else { return };
    Arc::make_mut(&mut list).retain(|e| e.text != version);
    if list.is_empty() {
        versions.remove_mut(name);
    } else {
        versions.insert_mut(name.clone(), list);
    }
}
