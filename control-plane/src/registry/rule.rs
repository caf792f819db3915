//! Black and white rules of a service: who may see its instances.
//!
//! A service's rules have one type, so whoever changes any of them excludes everybody else who does: a request
//! happens as a whole, at one revision, or not at all.

use std::collections::BTreeSet;

use shared::model::ServiceRef;
use uuid::Uuid;

use super::quota::exceeded;
use super::service::{exclusive, existing};
use super::{Caller, Registry, validate};
use crate::failure::{Code, Failure};
use crate::keys::{self, Key};
use crate::record;
use crate::store::{Compare, Op};
use crate::view::{ServiceRule, ServiceView};

/// Rules that a request may add.
const RULES_AT_ONCE: usize = 100;

impl Registry {
    /// The rules of a service.
    pub async fn rules(&self, caller: &Caller, service: &ServiceRef) -> Result<Vec<ServiceRule>, Failure> {
        self.answer(caller, |snapshot| Ok(existing(snapshot, service)?.rules.values().cloned().collect()))
            .await
    }

    /// Adds rules; one whose attribute and pattern exist already is passed over. Returns the new ids.
    pub async fn add_rules(
        &self,
        service: &ServiceRef,
        rules: Vec<ServiceRule>,
    ) -> Result<Vec<String>, Failure> {
        if rules.is_empty() || rules.len() > RULES_AT_ONCE {
            return Err(Failure::invalid("field 'rules' must have 1 to 100 items"));
        }
        rules.iter().try_for_each(validate::rule)?;
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        // Here, and only here, a missing service is an invalid parameter: the old contract.
        let absent = |failure: Failure| match failure.code {
            Code::ServiceNotFound => Failure::invalid(failure.detail),
            _ => failure,
        };
        self.answer(&caller, |snapshot| existing(snapshot, service).map(drop)).await.map_err(absent)?;
        let rules = &rules;
        self.until_won(|snapshot| async move {
            let view = existing(&snapshot, service).map_err(absent)?;
            let new = self.new_rules(view, rules)?;
            if new.is_empty() {
                return Ok(Some(Vec::new()));
            }
            let mut txn = exclusive(service, view);
            for rule in &new {
                let index = keys::rule_index(service, &rule.attribute, &rule.pattern);
                txn.then.extend(put_rule(service, rule));
                // A Service-Center that adds the same rule does not write the record.
                txn.compare.push(Compare::Absent(index.clone()));
                txn.then.push(Op::put(index, rule.rule_id.clone()));
            }
            let ids = new.into_iter().map(|rule| rule.rule_id).collect();
            Ok(self.commit(txn).await?.succeeded.then_some(ids))
        })
        .await
    }

    fn new_rules(&self, view: &ServiceView, rules: &[ServiceRule]) -> Result<Vec<ServiceRule>, Failure> {
        let mut new: Vec<ServiceRule> = Vec::new();
        let kind = view.rules.values().next().or(rules.first()).map(|rule| rule.rule_type.clone());
        for rule in rules {
            if Some(&rule.rule_type) != kind.as_ref() {
                return Err(Failure::new(Code::MixedRules, "rules of a service have one type"));
            }
            let same = |r: &ServiceRule| r.attribute == rule.attribute && r.pattern == rule.pattern;
            if view.rules.values().any(same) || new.iter().any(same) {
                continue;
            }
            let now = self.seconds();
            let rule_id = Uuid::new_v4().simple().to_string();
            new.push(ServiceRule { rule_id, timestamp: now.clone(), mod_timestamp: now, ..rule.clone() });
        }
        let (used, limit) = (view.rules.len(), self.quotas.now().schemas);
        if used + new.len() > limit { Err(exceeded("RULE", limit, used)) } else { Ok(new) }
    }

    /// Changes a rule; its type stays.
    pub async fn update_rule(
        &self,
        service: &ServiceRef,
        id: &str,
        rule: ServiceRule,
    ) -> Result<(), Failure> {
        validate::rule(&rule)?;
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        self.answer(&caller, |snapshot| known_rule(existing(snapshot, service)?, id).map(drop)).await?;
        let rule = &rule;
        self.until_won(|snapshot| async move {
            let view = existing(&snapshot, service)?;
            let known = known_rule(view, id)?;
            if known.rule_type != rule.rule_type {
                return Err(Failure::new(Code::RuleTypeFixed, "a rule keeps its type"));
            }
            let changed = ServiceRule {
                rule_id: id.to_owned(),
                timestamp: known.timestamp.clone(),
                mod_timestamp: self.seconds(),
                ..rule.clone()
            };
            let mut txn = exclusive(service, view);
            txn.then.extend(put_rule(service, &changed));
            let old = keys::rule_index(service, &known.attribute, &known.pattern);
            let new = keys::rule_index(service, &changed.attribute, &changed.pattern);
            if old != new {
                txn.then.push(Op::Delete(old));
            }
            txn.then.push(Op::put(new, id.to_owned()));
            Ok(self.commit(txn).await?.succeeded.then_some(()))
        })
        .await
    }

    /// Deletes rules, all of which must exist.
    pub async fn delete_rules(&self, service: &ServiceRef, ids: &[String]) -> Result<(), Failure> {
        let caller = Caller { tenant: service.tenant.clone(), ..Caller::default() };
        let all_known = |view: &ServiceView| ids.iter().try_for_each(|id| known_rule(view, id).map(drop));
        self.answer(&caller, |snapshot| all_known(existing(snapshot, service)?)).await?;
        let ids: &BTreeSet<&String> = &ids.iter().collect();
        self.until_won(|snapshot| async move {
            let view = existing(&snapshot, service)?;
            let mut txn = exclusive(service, view);
            for id in ids {
                let rule = known_rule(view, id)?;
                txn.then.extend(Key::Rule(service.clone(), rule.rule_id.clone()).render().map(Op::Delete));
                txn.then.push(Op::Delete(keys::rule_index(service, &rule.attribute, &rule.pattern)));
            }
            Ok(self.commit(txn).await?.succeeded.then_some(()))
        })
        .await
    }
}

fn known_rule<'a>(view: &'a ServiceView, id: &str) -> Result<&'a ServiceRule, Failure> {
    view.rules.get(id).ok_or_else(|| Failure::new(Code::RuleNotFound, "rule does not exist."))
}

fn put_rule(service: &ServiceRef, rule: &ServiceRule) -> Option<Op> {
    let key = Key::Rule(service.clone(), rule.rule_id.clone()).render()?;
    Some(Op::put(key, record::render(rule, None)))
}
