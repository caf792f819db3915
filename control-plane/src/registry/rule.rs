//! Black and white rules of a service. They decide which consumers see its instances.
//!
//! All rules of a service have one type. A request that changes some of them therefore excludes every other
//! such request: it takes effect as a whole at one revision, or not at all.

use std::collections::BTreeSet;

use shared::model::ServiceRef;
use uuid::Uuid;

use super::service::{exclusive, existing};
use super::{Caller, Registry, RegistryError, validate};
use crate::keys::{self, Key};
use crate::record;
use crate::store::{Compare, Op};
use crate::view::{ServiceRule, ServiceView};

/// Rules that one request may add or delete.
const RULES_PER_REQUEST: usize = 100;

impl Registry {
    pub(crate) async fn rules(
        &self,
        caller: &Caller,
        service: &ServiceRef,
    ) -> Result<Vec<ServiceRule>, RegistryError> {
        self.answer(caller, |snapshot| {
            let rules = existing(snapshot, service)?.rules.values();
            Ok(rules.map(|entry| entry.rule.clone()).collect())
        })
        .await
    }

    /// Adds rules and returns the new ids. A rule whose attribute and pattern exist already is skipped.
    pub(crate) async fn add_rules(
        &self,
        service: &ServiceRef,
        rules: Vec<ServiceRule>,
    ) -> Result<Vec<String>, RegistryError> {
        if rules.is_empty() || rules.len() > RULES_PER_REQUEST {
            return Err(RegistryError::invalid("field 'rules' must have 1 to 100 items"));
        }
        rules.iter().try_for_each(validate::rule)?;
        let caller = Caller::of_tenant(&service.tenant);
        let found = self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await;
        found.map_err(missing_service_is_invalid)?;
        let rules = &rules;
        self.until_won(keys::service(service), |snapshot| async move {
            let view = existing(&snapshot, service).map_err(missing_service_is_invalid)?;
            let new = self.new_rules(view, rules)?;
            if new.is_empty() {
                let settled = self.settled().await?;
                let view = existing(&settled, service).map_err(missing_service_is_invalid)?;
                return Ok(self.new_rules(view, rules)?.is_empty().then(Vec::new));
            }
            let mut txn = exclusive(service, view);
            for rule in &new {
                let index = keys::rule_index(service, &rule.attribute, &rule.pattern);
                txn.then.extend(put_rule(service, rule));
                // A Service-Center node that adds the same rule does not rewrite the service's record, so the
                // record's revision alone would not show its write.
                txn.compare.push(Compare::Absent(index.clone()));
                txn.then.push(Op::put(index, rule.rule_id.clone()));
            }
            let records = records(service, new.iter().map(|rule| &rule.rule_id));
            let ids = new.into_iter().map(|rule| rule.rule_id).collect();
            Ok(self.commit_noting(txn, &records).await?.succeeded.then_some(ids))
        })
        .await
    }

    /// The rules of a request that do not exist yet, with ids and timestamps.
    fn new_rules(
        &self,
        view: &ServiceView,
        rules: &[ServiceRule],
    ) -> Result<Vec<ServiceRule>, RegistryError> {
        let mut new: Vec<ServiceRule> = Vec::new();
        let kind = stored(view).next().or(rules.first()).map(|rule| rule.rule_type.clone());
        for rule in rules {
            if Some(&rule.rule_type) != kind.as_ref() {
                return Err(RegistryError::MixedRules);
            }
            let alike =
                |other: &ServiceRule| other.attribute == rule.attribute && other.pattern == rule.pattern;
            if stored(view).chain(&new).any(alike) {
                continue;
            }
            let now = self.seconds();
            let rule_id = Uuid::new_v4().simple().to_string();
            new.push(ServiceRule { rule_id, timestamp: now.clone(), mod_timestamp: now, ..rule.clone() });
        }
        // One quota limits schemas, tags and rules alike.
        let used = view.rules.len();
        let limit = self.quotas.now().schemas;
        if used + new.len() > limit {
            return Err(RegistryError::QuotaExceeded { resource: "RULE", limit, used });
        }
        Ok(new)
    }

    /// Changes a rule. Its type cannot change.
    pub(crate) async fn update_rule(
        &self,
        service: &ServiceRef,
        id: &str,
        rule: ServiceRule,
    ) -> Result<(), RegistryError> {
        validate::rule_id(id)?;
        validate::rule(&rule)?;
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| existing_rule(existing(snapshot, service)?, id).map(drop)).await?;
        let rule = &rule;
        self.until_won(keys::service(service), |snapshot| async move {
            let view = existing(&snapshot, service)?;
            let before = existing_rule(view, id)?;
            if before.rule_type != rule.rule_type {
                return Err(RegistryError::RuleTypeFixed);
            }
            let changed = ServiceRule {
                rule_id: id.to_owned(),
                timestamp: before.timestamp.clone(),
                mod_timestamp: self.seconds(),
                ..rule.clone()
            };
            let mut txn = exclusive(service, view);
            txn.then.extend(put_rule(service, &changed));
            let old_index = keys::rule_index(service, &before.attribute, &before.pattern);
            let new_index = keys::rule_index(service, &changed.attribute, &changed.pattern);
            // A transaction may not write one key twice.
            if old_index != new_index {
                txn.then.push(Op::Delete(old_index));
            }
            txn.then.push(Op::put(new_index, id.to_owned()));
            let records = records(service, [&changed.rule_id]);
            Ok(self.commit_noting(txn, &records).await?.succeeded.then_some(()))
        })
        .await
    }

    /// Deletes rules, all of which must exist.
    pub(crate) async fn delete_rules(
        &self,
        service: &ServiceRef,
        ids: &[String],
    ) -> Result<(), RegistryError> {
        validate::listed("ruleIds", ids, RULES_PER_REQUEST)?;
        ids.iter().try_for_each(|id| validate::rule_id(id))?;
        let caller = Caller::of_tenant(&service.tenant);
        self.answer(&caller, |snapshot| {
            let view = existing(snapshot, service)?;
            ids.iter().try_for_each(|id| existing_rule(view, id).map(drop))
        })
        .await?;
        // A set, because a transaction may not delete one key twice.
        let ids: &BTreeSet<&String> = &ids.iter().collect();
        self.until_won(keys::service(service), |snapshot| async move {
            let view = existing(&snapshot, service)?;
            let mut txn = exclusive(service, view);
            for id in ids {
                let rule = existing_rule(view, id)?;
                txn.then.extend(Key::Rule(service.clone(), rule.rule_id.clone()).render().map(Op::Delete));
                txn.then.push(Op::Delete(keys::rule_index(service, &rule.attribute, &rule.pattern)));
            }
            let records = records(service, ids.iter().copied());
            Ok(self.commit_noting(txn, &records).await?.succeeded.then_some(()))
        })
        .await
    }
}

/// Only when rules are added does the contract report a missing service as an invalid parameter.
fn missing_service_is_invalid(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::ServiceNotFound(detail) => RegistryError::Invalid(detail),
        error => error,
    }
}

fn stored(view: &ServiceView) -> impl Iterator<Item = &ServiceRule> {
    view.rules.values().map(|entry| &entry.rule)
}

fn existing_rule<'a>(view: &'a ServiceView, id: &str) -> Result<&'a ServiceRule, RegistryError> {
    view.rules.get(id).map(|entry| &entry.rule).ok_or(RegistryError::RuleNotFound)
}

/// The keys of rules.
fn records<'a>(service: &ServiceRef, ids: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    ids.into_iter().filter_map(|id| Key::Rule(service.clone(), id.clone()).render()).collect()
}

fn put_rule(service: &ServiceRef, rule: &ServiceRule) -> Option<Op> {
    let key = Key::Rule(service.clone(), rule.rule_id.clone()).render()?;
    Some(Op::put(key, record::render(rule, None)))
}
