//! Applies written and deleted records to the view: everything but instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::event::Action;
use shared::model::{Incarnation, Revision, Service, ServiceRef, Tenant};

use super::{Applying, ViewWriter};
use crate::carriage::LONGEST_NAMES;
use crate::keys::{Key, Name};
use crate::record::DependencySet;
use crate::store::KeyValue;
use crate::version::Version;
use crate::view::entry::{RuleSet, RuleView, SchemaView, ServiceRule, VersionEntry};
use crate::view::list::ListCell;

impl ViewWriter {
    pub(super) fn apply_put(&mut self, key: &Key, kv: &KeyValue, applying: &mut Applying) {
        match key {
            Key::Service(service) => self.apply_service(service, kv, applying),
            Key::ServiceIndex(tenant, name, version) => {
                let entry = version_entry(version, kv);
                let tenant_view = self.tenant_mut(tenant);
                insert_version(&mut tenant_view.names, name, entry);
                applying.affected.names.insert((tenant.clone(), name.clone()));
            }
            Key::ServiceAlias(tenant, name, version) => {
                insert_version(&mut self.tenant_mut(tenant).aliases, name, version_entry(version, kv));
                applying.affected.names.insert((tenant.clone(), name.clone()));
            }
            Key::Tags(service) => {
                let Some(tags) = self.parse::<BTreeMap<String, String>>(kv) else { return };
                let view = self.service_mut(service);
                view.tags = Arc::new(tags.value);
                view.tags_rev = kv.mod_rev;
                applying.affected.consumers.insert(service.clone());
            }
            Key::Rule(service, id) => {
                let Some(rule) = self.parse::<ServiceRule>(kv) else { return };
                let rule = ServiceRule { rule_id: id.clone(), ..rule.value };
                let rule = Arc::new(RuleView::new(rule, kv.mod_rev));
                Arc::make_mut(&mut self.service_mut(service).rules).insert(id.clone(), rule);
                self.mark_name(service, applying);
            }
            Key::Schema(service, id) | Key::SchemaRef(service, id) => {
                self.schema_mut(service, id).content = true;
            }
            Key::SchemaSummary(service, id) => {
                let summary = String::from_utf8_lossy(&kv.value).into_owned();
                let schema = self.schema_mut(service, id);
                schema.summary = Some(summary);
                schema.summary_rev = kv.mod_rev;
            }
            Key::ConsumerRule(tenant, name, version) => {
                let Some(set) = self.parse_rule_set(kv) else { return };
                self.tenant_mut(tenant).consumer_rules.insert_mut((name.clone(), version.clone()), set);
                applying.affected.consumer_names.insert((tenant.clone(), name.clone(), version.clone()));
            }
            Key::ProviderRule(tenant, name, rule) => {
                let Some(set) = self.parse_rule_set(kv) else { return };
                let rules = &mut self.tenant_mut(tenant).provider_rules;
                let mut by_rule = rules.get(name).cloned().unwrap_or_default();
                Arc::make_mut(&mut by_rule).insert(rule.clone(), set);
                rules.insert_mut(name.clone(), by_rule);
            }
            Key::ProviderRuleAll(tenant, environment) => {
                let Some(set) = self.parse_rule_set(kv) else { return };
                self.tenant_mut(tenant).provider_rules_all.insert_mut(environment.clone(), set);
            }
            Key::Domain(domain) => self.current.domains.insert_mut(domain.clone(), ()),
            Key::Project(tenant) => self.current.projects.insert_mut(tenant.clone(), ()),
            Key::Wanted(consumer, tenant, name) => {
                let versions = String::from_utf8_lossy(&kv.value);
                self.add_wanted(consumer, (tenant.clone(), name.clone()), &versions, applying);
            }
            Key::Size(service) => self.apply_size(service, kv, applying),
            Key::Held(service, id) => self.apply_held(service, id, kv, applying),
            Key::Shift(tenant, id) => self.apply_shift(tenant, id, kv),
            Key::Account(name) => self.apply_account(name, kv, applying.rev),
            Key::Role(name) => self.apply_role(name, kv, applying.rev),
            Key::AccountExtra(name) => self.apply_account_extra(name, kv, applying.rev),
            Key::RevokedToken(id) => self.apply_revoked_token(id, kv, applying.rev),
            Key::ServiceToken(_, id) => {
                self.policy_mut(applying.rev).service_tokens.insert(id.clone());
            }
            Key::IssuerKeys => self.apply_issuer_keys(kv, applying.rev),
            Key::Incarnation => match Incarnation::parse(&kv.value) {
                Some(incarnation) => self.current.incarnation = incarnation,
                None => self.skip(kv, &"not the number of an incarnation"),
            },
            // Instances and overrides are applied apart. The text of a lease is for Service-Center nodes
            // only, and the dependency queue is read from the store by its own task.
            Key::Instance(..)
            | Key::Override(..)
            | Key::Lease(..)
            | Key::DependencyQueue(..)
            | Key::Other => {}
        }
    }

    pub(super) fn apply_delete(&mut self, key: &Key, applying: &mut Applying) {
        match key {
            Key::Service(service) => {
                // Before the record goes: the name is read from it.
                self.mark_name(service, applying);
                if self.current.service(service).is_none() {
                    return;
                }
                // While the view still has the record, because the events carry its name.
                self.push_event_for_each_instance(service, Action::Delete, applying);
                let view = self.service_mut(service);
                view.service = None;
                view.unknown = None;
                let tenant = self.tenant_mut(&service.tenant);
                tenant.service_count -= 1;
                // A new cell, here and below: older snapshots share the old one and its list.
                tenant.listed = ListCell::default();
                applying.affected.records.insert(service.clone());
                applying.affected.consumers.insert(service.clone());
                applying.affected.services.insert(service.clone());
            }
            Key::ServiceIndex(tenant, name, version) => {
                remove_version(&mut self.tenant_mut(tenant).names, name, version);
                applying.affected.names.insert((tenant.clone(), name.clone()));
                applying.affected.consumer_names.insert((tenant.clone(), name.clone(), version.clone()));
            }
            Key::ServiceAlias(tenant, name, version) => {
                remove_version(&mut self.tenant_mut(tenant).aliases, name, version);
                applying.affected.names.insert((tenant.clone(), name.clone()));
            }
            // The conditions here and below: `service_mut` would make an entry for a service that has already
            // gone.
            Key::Tags(service) if self.current.any_service(service).is_some() => {
                let view = self.service_mut(service);
                view.tags = Arc::default();
                view.tags_rev = Revision::ZERO;
                applying.affected.consumers.insert(service.clone());
                applying.affected.services.insert(service.clone());
            }
            Key::Rule(service, id) if self.current.any_service(service).is_some() => {
                Arc::make_mut(&mut self.service_mut(service).rules).remove(id);
                self.mark_name(service, applying);
                applying.affected.services.insert(service.clone());
            }
            Key::Schema(service, id) | Key::SchemaRef(service, id) | Key::SchemaSummary(service, id)
                if self.current.any_service(service).is_some() =>
            {
                let is_summary = matches!(key, Key::SchemaSummary(..));
                let schemas = Arc::make_mut(&mut self.service_mut(service).schemas);
                if let Some(schema) = schemas.get_mut(id) {
                    if is_summary {
                        schema.summary = None;
                        schema.summary_rev = Revision::ZERO;
                    } else {
                        schema.content = false;
                    }
                    if *schema == SchemaView::default() {
                        schemas.remove(id);
                    }
                }
                applying.affected.services.insert(service.clone());
            }
            Key::ConsumerRule(tenant, name, version) => {
                self.tenant_mut(tenant).consumer_rules.remove_mut(&(name.clone(), version.clone()));
                applying.affected.consumer_names.insert((tenant.clone(), name.clone(), version.clone()));
            }
            Key::ProviderRule(tenant, name, rule) => {
                let rules = &mut self.tenant_mut(tenant).provider_rules;
                let Some(mut by_rule) = rules.get(name).cloned() else { return };
                Arc::make_mut(&mut by_rule).remove(rule);
                // Empty entries must go, or names that nobody uses any more would fill the memory.
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
            Key::Wanted(consumer, tenant, name) => self.remove_wanted(consumer, tenant, name, applying),
            Key::Size(service) if self.current.any_service(service).is_some() => {
                self.service_mut(service).usual_size = 0;
                self.current.shrunk.remove_mut(service);
                applying.affected.services.insert(service.clone());
            }
            Key::Held(service, id) => self.end_hold(service, id, applying),
            Key::Shift(tenant, id) => self.remove_shift(tenant, id),
            Key::Account(name) => self.remove_account(name, applying.rev),
            Key::Role(name) => self.remove_role(name, applying.rev),
            Key::AccountExtra(name) => self.remove_account_extra(name, applying.rev),
            Key::RevokedToken(id) => {
                self.policy_mut(applying.rev).revoked.remove(id);
            }
            Key::ServiceToken(_, id) => {
                self.policy_mut(applying.rev).service_tokens.remove(id);
            }
            _ => {}
        }
    }

    fn apply_service(&mut self, service: &ServiceRef, kv: &KeyValue, applying: &mut Applying) {
        let Some(record) = self.parse::<Service>(kv) else { return };
        let value = Service { service_id: service.id.clone(), ..record.value };
        let names = [&value.environment, &value.app_id, &value.service_name, &value.alias, &value.version];
        if names.into_iter().map(String::len).sum::<usize>() > LONGEST_NAMES {
            // Every event of its instances carries them, so the bus could carry none of these events.
            self.skip(kv, &"the names of the service are too long");
            return;
        }
        // Our own API never renames a service, but foreign writers may. Then the old name is affected too.
        self.mark_name(service, applying);
        let view = self.service_mut(service);
        let is_new = view.service.is_none();
        view.key = Arc::new(value.key(&service.tenant));
        view.service = Some(Arc::new(value));
        view.unknown = (!record.unknown.is_empty()).then(|| Arc::new(record.unknown));
        view.mod_rev = kv.mod_rev;
        self.tenant_mut(&service.tenant).listed = ListCell::default();
        applying.affected.records.insert(service.clone());
        // Rules of providers look at many of its fields.
        applying.affected.consumers.insert(service.clone());
        if is_new {
            self.tenant_mut(&service.tenant).service_count += 1;
            self.push_event_for_each_instance(service, Action::Create, applying);
        }
        self.mark_name(service, applying);
    }

    fn add_wanted(
        &mut self,
        consumer: &ServiceRef,
        provider: (Tenant, Name),
        versions: &str,
        applying: &mut Applying,
    ) {
        let wanted = &mut self.tenant_mut(&consumer.tenant).wanted;
        let mut names = wanted.get(&consumer.id).cloned().unwrap_or_default();
        Arc::make_mut(&mut names).insert(provider.clone(), versions.to_owned());
        wanted.insert_mut(consumer.id.clone(), names);
        let mut consumers = self.current.wanted.get(&provider).cloned().unwrap_or_default();
        Arc::make_mut(&mut consumers).insert(consumer.clone());
        self.current.wanted.insert_mut(provider, consumers);
        applying.affected.consumers.insert(consumer.clone());
    }

    fn remove_wanted(
        &mut self,
        consumer: &ServiceRef,
        tenant: &Tenant,
        name: &Name,
        applying: &mut Applying,
    ) {
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
        applying.affected.consumers.insert(consumer.clone());
    }

    /// Marks the name and the alias of a provider as affected: the consumers that are interested in it may
    /// have changed.
    pub(super) fn mark_name(&self, service: &ServiceRef, applying: &mut Applying) {
        let Some((_, record)) = self.current.service(service) else { return };
        for name in [&record.service_name, &record.alias] {
            if !name.is_empty() {
                let name = Name::new(&record.environment, &record.app_id, name);
                applying.affected.names.insert((service.tenant.clone(), name));
            }
        }
    }

    fn schema_mut(&mut self, service: &ServiceRef, id: &str) -> &mut SchemaView {
        Arc::make_mut(&mut self.service_mut(service).schemas).entry(id.to_owned()).or_default()
    }

    fn parse_rule_set(&mut self, kv: &KeyValue) -> Option<RuleSet> {
        let set = self.parse::<DependencySet>(kv)?;
        Some(RuleSet { keys: Arc::new(set.value.keys), mod_rev: kv.mod_rev })
    }
}

type Versions = rpds::HashTrieMapSync<Name, Arc<Vec<VersionEntry>>>;

fn version_entry(version: &str, kv: &KeyValue) -> VersionEntry {
    VersionEntry {
        // A text that is no number counts as the lowest version. It can still be found by its exact text.
        version: Version::parse(version).unwrap_or_default(),
        text: version.to_owned(),
        id: String::from_utf8_lossy(&kv.value).into_owned(),
        mod_rev: kv.mod_rev,
    }
}

/// Inserts a version, and keeps the list newest first. Texts that stand for the same number are ordered as
/// text.
fn insert_version(versions: &mut Versions, name: &Name, entry: VersionEntry) {
    let mut list = versions.get(name).cloned().unwrap_or_default();
    let entries = Arc::make_mut(&mut list);
    // The same version may be written again with another id.
    entries.retain(|e| e.text != entry.text);
    let index = entries.partition_point(|e| (e.version, &e.text) > (entry.version, &entry.text));
    entries.insert(index, entry);
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
