//! Visibility of providers to consumers, by application, environment and black and white rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::model::{Service, Tenant};

use super::{RuleView, ServiceView, overrides};

/// The services of the default tenant that every consumer finds, by name or alias.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedServices(BTreeSet<String>);

impl SharedServices {
    /// The shared services with these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// True for the name of a shared service.
    pub fn contains(&self, tenant: &Tenant, app_id: &str, name: &str) -> bool {
        *tenant == Tenant::default() && app_id == "default" && self.0.contains(name)
    }
}

/// True when `consumer`, with its `tags`, may see the instances of `provider`. A `shared` provider is visible
/// in every environment.
pub fn allows(
    provider: &ServiceView,
    consumer: &Service,
    tags: &BTreeMap<String, String>,
    shared: bool,
) -> bool {
    let Some(service) = &provider.service else { return false };
    let crosses = service.app_id != consumer.app_id;
    if crosses
        && !service.properties.get("allowCrossApp").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return false;
    }
    if service.environment != consumer.environment && !shared {
        return false;
    }
    rules_allow(&provider.rules, consumer, tags) && !overrides::hide(&provider.overrides, consumer, tags)
}

/// True when a provider's black and white rules admit the consumer. All rules of a service have one type; if
/// a foreign writer mixed them, both types must admit it.
pub fn rules_allow(
    rules: &BTreeMap<String, Arc<RuleView>>,
    consumer: &Service,
    tags: &BTreeMap<String, String>,
) -> bool {
    let mut has_white = false;
    let mut is_listed = false;
    for rule in rules.values() {
        match rule.rule.rule_type.as_str() {
            "BLACK" if matches(rule, consumer, tags) => return false,
            "WHITE" => {
                has_white = true;
                is_listed = is_listed || matches(rule, consumer, tags);
            }
            _ => {}
        }
    }
    // A provider without white rules is open to all.
    !has_white || is_listed
}

fn matches(rule: &RuleView, consumer: &Service, tags: &BTreeMap<String, String>) -> bool {
    let attribute = rule.rule.attribute.as_str();
    let value = match attribute.strip_prefix("tag_") {
        Some(tag) => tags.get(tag).map_or("", String::as_str),
        None => match attribute {
            "ServiceId" => &consumer.service_id,
            "AppId" => &consumer.app_id,
            "ServiceName" => &consumer.service_name,
            "Version" => &consumer.version,
            "Description" => &consumer.description,
            "Level" => &consumer.level,
            "Status" => &consumer.status,
            _ => "",
        },
    };
    // A consumer without the attribute matches no rule, not even `.*`.
    if value.is_empty() {
        return false;
    }
    // A pattern that does not compile matches nothing: a black rule then excludes nobody, a white one admits
    // nobody.
    rule.pattern().is_some_and(|pattern| pattern.is_match(value))
}

#[cfg(test)]
mod tests {
    use shared::model::Revision;

    use super::*;
    use crate::view::ServiceRule;

    fn rule(kind: &str, attribute: &str, pattern: &str) -> BTreeMap<String, Arc<RuleView>> {
        let rule = ServiceRule {
            rule_type: kind.into(),
            attribute: attribute.into(),
            pattern: pattern.into(),
            ..Default::default()
        };
        [("r".to_owned(), Arc::new(RuleView::new(rule, Revision::ZERO)))].into()
    }

    #[test]
    fn a_pattern_is_compiled_once_and_kept() {
        let rules = rule("BLACK", "AppId", "shop");
        let consumer = Service { app_id: "shop".into(), ..Default::default() };
        assert!(!rules_allow(&rules, &consumer, &BTreeMap::new()));
        let compiled: *const _ = rules["r"].pattern().expect("compiles");
        // As a later snapshot has it.
        let later = rules.clone();
        assert!(!rules_allow(&later, &consumer, &BTreeMap::new()));
        assert!(std::ptr::eq(compiled, later["r"].pattern().expect("compiles")));
    }

    #[test]
    fn black_rules_exclude_and_white_rules_admit() {
        let consumer = Service { app_id: "shop-test".into(), ..Default::default() };
        let tags = BTreeMap::from([("zone".to_owned(), "east".to_owned())]);
        for (kind, attribute, pattern, allowed) in [
            ("BLACK", "AppId", "test", false),
            ("BLACK", "AppId", "^test", true),
            ("WHITE", "tag_zone", "ea.*", true),
            ("WHITE", "tag_zone", "west", false),
            ("WHITE", "tag_missing", ".*", false),
            ("BLACK", "Description", ".*", true),
            ("BLACK", "AppId", "(unclosed", true),
            ("WHITE", "AppId", "(unclosed", false),
        ] {
            assert_eq!(
                rules_allow(&rule(kind, attribute, pattern), &consumer, &tags),
                allowed,
                "{kind} {pattern}"
            );
        }
        assert!(rules_allow(&BTreeMap::new(), &consumer, &tags));
    }

    fn provider(allow_cross_app: Option<&str>) -> ServiceView {
        let property = allow_cross_app.map(|value| ("allowCrossApp".to_owned(), value.to_owned()));
        let service =
            Service { app_id: "b".into(), properties: property.into_iter().collect(), ..Default::default() };
        ServiceView { service: Some(Arc::new(service)), ..Default::default() }
    }

    #[test]
    fn another_application_is_admitted_only_by_allow_cross_app() {
        let consumer = Service { app_id: "a".into(), ..Default::default() };
        let none = BTreeMap::new();
        assert!(!allows(&provider(None), &consumer, &none, false));
        assert!(!allows(&provider(Some("false")), &consumer, &none, false));
        assert!(allows(&provider(Some("TRUE")), &consumer, &none, false));
    }
}
