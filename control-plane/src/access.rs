//! Who may see whom: application, environment, black and white rules.

use std::collections::BTreeMap;

use shared::model::Service;

use crate::view::{ServiceRule, ServiceView};

/// A compiled pattern may take this many bytes; a hostile one is refused by the engine, not by our memory.
const PATTERN_SIZE: usize = 64 << 10;

/// Whether `consumer` may see the instances of `provider`.
///
/// `shared` services are open to every environment.
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
    rules_allow(&provider.rules, consumer, tags)
}

/// Whether a provider's black and white rules let the consumer in. All rules of a service have one type; where a
/// foreign writer mixed them, both must let it in.
pub fn rules_allow(
    rules: &BTreeMap<String, ServiceRule>,
    consumer: &Service,
    tags: &BTreeMap<String, String>,
) -> bool {
    let hits =
        |kind: &str| rules.values().filter(|r| r.rule_type == kind).any(|r| matches(r, consumer, tags));
    let has_white = rules.values().any(|r| r.rule_type == "WHITE");
    !hits("BLACK") && (!has_white || hits("WHITE"))
}

fn matches(rule: &ServiceRule, consumer: &Service, tags: &BTreeMap<String, String>) -> bool {
    let value = match rule.attribute.strip_prefix("tag_") {
        Some(tag) => tags.get(tag).map_or("", String::as_str),
        None => match rule.attribute.as_str() {
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
    if value.is_empty() {
        return false;
    }
    let pattern = regex::RegexBuilder::new(&rule.pattern).size_limit(PATTERN_SIZE).build();
    pattern.is_ok_and(|pattern| pattern.is_match(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: &str, attribute: &str, pattern: &str) -> BTreeMap<String, ServiceRule> {
        let rule = ServiceRule {
            rule_type: kind.into(),
            attribute: attribute.into(),
            pattern: pattern.into(),
            ..Default::default()
        };
        [("r".to_owned(), rule)].into()
    }

    #[test]
    fn black_shuts_out_and_white_lets_in() {
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

    #[test]
    fn another_application_needs_the_providers_leave() {
        let provider = |open: Option<&str>| ServiceView {
            service: Some(std::sync::Arc::new(Service {
                app_id: "b".into(),
                properties: open.map(|v| ("allowCrossApp".to_owned(), v.to_owned())).into_iter().collect(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let consumer = Service { app_id: "a".into(), ..Default::default() };
        let none = BTreeMap::new();
        assert!(!allows(&provider(None), &consumer, &none, false));
        assert!(!allows(&provider(Some("false")), &consumer, &none, false));
        assert!(allows(&provider(Some("TRUE")), &consumer, &none, false));
    }
}
