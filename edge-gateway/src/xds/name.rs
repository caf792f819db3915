//! The names of resources: `[environment/]app/service[@rule][:protocol]`.
//!
//! All kinds use the same names. The rule is a version rule of the registry (`latest`, `1.2+`, `1.0-2.0`,
//! `1.2.3`); without one every version counts. The protocol chooses among the endpoints of each instance
//! (`rest`, `grpc`, …); without one the first endpoint counts. None of the signs can stand in a name that the
//! registry takes.

use shared::version::VersionRule;

/// The most bytes of a name that can exist.
const LONGEST: usize = 1024;
/// The protocol by which routes lead to instances when the name says none: only gRPC reads these.
const OF_ROUTES: &str = ":grpc";

/// A name, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    /// The service in all its versions: `[environment/]app/service`.
    pub(crate) group: &'a str,
    /// The versions that count.
    pub(crate) rule: Option<VersionRule>,
    /// The protocol of the endpoints that count.
    pub(crate) protocol: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// Reads a name. `None` when no resource can have it.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let group = group_of(text);
        if !(2..=3).contains(&group.split('/').count()) || group.split('/').any(str::is_empty) {
            return None;
        }
        let rest = &text[group.len()..];
        let (rule, protocol) = match rest.split_once(':') {
            Some((rule, protocol)) => (rule, Some(protocol)),
            None => (rest, None),
        };
        let rule = match rule.strip_prefix('@') {
            Some(rule) => Some(VersionRule::parse(rule)?),
            None => None,
        };
        if protocol.is_some_and(|protocol| protocol.is_empty() || protocol.contains([':', '@', '/'])) {
            return None;
        }
        Some(Self { group, rule, protocol })
    }
}

/// The part of a name that says the service.
pub(crate) fn group_of(text: &str) -> &str {
    text.split(['@', ':']).next().unwrap_or_default()
}

/// The name of the cluster that the route with this name leads to.
pub(crate) fn routed(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}{OF_ROUTES}") }
}

/// The name of a service in all its versions.
pub(crate) fn group_name(environment: &str, app_id: &str, service_name: &str) -> String {
    if environment.is_empty() {
        format!("{app_id}/{service_name}")
    } else {
        format!("{environment}/{app_id}/{service_name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_service_a_rule_and_a_protocol() {
        let parse = |text| Name::parse(text).map(|name| (name.group, name.rule, name.protocol));
        assert_eq!(parse("shop/order"), Some(("shop/order", None, None)));
        assert_eq!(parse("production/shop/order:rest"), Some(("production/shop/order", None, Some("rest"))));
        let rule = VersionRule::parse("1.0-2.0");
        assert_eq!(parse("shop/order@1.0-2.0"), Some(("shop/order", rule, None)));
        let rule = VersionRule::parse("1+");
        assert_eq!(parse("shop/order@1+:grpc"), Some(("shop/order", rule, Some("grpc"))));
        assert_eq!(routed("shop/order@1+"), "shop/order@1+:grpc");
        assert_eq!(routed("shop/order:h2c"), "shop/order:h2c");
        assert_eq!(group_name("", "shop", "order"), "shop/order");
    }

    #[test]
    fn other_texts_are_no_names() {
        let long = format!("shop/{}", "x".repeat(LONGEST));
        for text in [
            "",
            "*",
            "order",
            "/order",
            "shop/",
            "a/b/c/d",
            "shop/order@",
            "shop/order@x",
            "shop/order:",
            "shop/order:a:b",
            "shop/order:grpc@1.0",
            "xdstp://a/b/c/d",
            &long,
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
