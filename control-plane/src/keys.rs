//! The grammar of store keys: built and parsed here, nowhere else.
//!
//! It is Service-Center's own, so that both can share an etcd. Segments are not escaped; the environment
//! segment of the default environment is empty, which leaves `//`: keys are split by position, never
//! normalised. What is ours alone lies under `/cse-sr/muster/`, which Service-Center does not read.

use shared::model::{ServiceRef, Tenant};

/// The prefix of everything the view follows.
pub const ROOT: &str = "/cse-sr/";
/// The context of the last sampled request that changed something, written with the change.
pub const TRACE: &str = "/cse-sr/muster/trace";
/// The seat of the publisher; outside the root, because its changes are no registry changes.
pub const PUBLISHER: &str = "/muster/publisher";

/// What a Service-Center node holds while it rewrites dependency rules, in its two generations. It reads the rules
/// after it has the lock and writes them without a comparison, so nobody else may write meanwhile.
pub const DEPENDENCY_LOCKS: [&str; 2] = ["/cse/etcdsync/cse-sr/lock/dep-queue", "/lock//dep-queue"];

/// Where Service-Center nodes queue dependencies.
pub const DEPENDENCY_QUEUE: &str = "/cse-sr/ms/dep-queue/";

/// All versions of one name: environment, application and service name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Environment; the default one is empty.
    pub environment: String,
    /// Application.
    pub app_id: String,
    /// Service name, or an alias where an alias is meant.
    pub name: String,
}

impl Name {
    /// A name in its environment and application.
    pub fn new(environment: &str, app_id: &str, name: &str) -> Self {
        Self { environment: environment.into(), app_id: app_id.into(), name: name.into() }
    }
}

/// A key of the store, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The record of a service.
    Service(ServiceRef),
    /// Which id a version of a name has.
    ServiceIndex(Tenant, Name, String),
    /// Which id a version of an alias has.
    ServiceAlias(Tenant, Name, String),
    /// The record of an instance.
    Instance(ServiceRef, String),
    /// The lease of an instance, as decimal text.
    Lease(ServiceRef, String),
    /// The content of a schema.
    Schema(ServiceRef, String),
    /// The summary of a schema.
    SchemaSummary(ServiceRef, String),
    /// The hash of a schema's content (newer Service-Center).
    SchemaRef(ServiceRef, String),
    /// The tags of a service.
    Tags(ServiceRef),
    /// A black/white rule.
    Rule(ServiceRef, String),
    /// Whom a version of a name depends on.
    ConsumerRule(Tenant, Name, String),
    /// Who depends on a name, by version rule.
    ProviderRule(Tenant, Name, String),
    /// Who depends on everything in an environment.
    ProviderRuleAll(Tenant, String),
    /// A dependency that an older node has queued.
    DependencyQueue(ServiceRef, String),
    /// A domain.
    Domain(String),
    /// A project.
    Project(Tenant),
    /// A consumer wants to hear of a name although no dependency rule says so.
    Wanted(ServiceRef, Tenant, Name),
    /// How many instances a service has when nothing is wrong, and who left it last.
    Size(ServiceRef),
    /// An instance that expired together with too many others and is held.
    Held(ServiceRef, String),
    /// Something the view does not use.
    Other,
}

impl Key {
    /// Takes a key apart. What has another shape is [`Key::Other`].
    pub fn parse(key: &str) -> Self {
        Self::parse_known(key).unwrap_or(Self::Other)
    }

    fn parse_known(key: &str) -> Option<Self> {
        let mut segments = key.strip_prefix(ROOT)?.split('/');
        let (root, kind) = (segments.next()?, segments.next()?);
        let rest: Vec<&str> = segments.collect();
        let tenant = |rest: &[&str]| Tenant::new(rest[0], rest[1]);
        let service = |rest: &[&str]| ServiceRef::new(tenant(rest), rest[2]);
        Some(match (root, kind, rest.as_slice()) {
            ("domains", domain, []) => Self::Domain(domain.into()),
            ("projects", domain, [project]) => Self::Project(Tenant::new(domain, *project)),
            ("ms", "files", [_, _, _]) => Self::Service(service(&rest)),
            ("ms", "indexes", [_, _, env, app, name, version]) => {
                Self::ServiceIndex(tenant(&rest), Name::new(env, app, name), (*version).into())
            }
            ("ms", "alias", [_, _, env, app, name, version]) => {
                Self::ServiceAlias(tenant(&rest), Name::new(env, app, name), (*version).into())
            }
            ("inst", "files", [_, _, _, id]) => Self::Instance(service(&rest), (*id).into()),
            ("inst", "leases", [_, _, _, id]) => Self::Lease(service(&rest), (*id).into()),
            ("ms", "schemas", [_, _, _, id]) => Self::Schema(service(&rest), (*id).into()),
            ("ms", "schema-sum", [_, _, _, id]) => Self::SchemaSummary(service(&rest), (*id).into()),
            ("ms", "schema-ref", [_, _, _, id]) => Self::SchemaRef(service(&rest), (*id).into()),
            ("ms", "tags", [_, _, _]) => Self::Tags(service(&rest)),
            ("ms", "rules", [_, _, _, id]) => Self::Rule(service(&rest), (*id).into()),
            ("ms", "dep-queue", [_, _, _, id]) => Self::DependencyQueue(service(&rest), (*id).into()),
            ("ms", "dep-rules", [_, _, "c", env, app, name, version]) => {
                Self::ConsumerRule(tenant(&rest), Name::new(env, app, name), (*version).into())
            }
            ("ms", "dep-rules", [_, _, "p", env, "*"]) => Self::ProviderRuleAll(tenant(&rest), (*env).into()),
            ("ms", "dep-rules", [_, _, "p", env, app, name, rule]) => {
                Self::ProviderRule(tenant(&rest), Name::new(env, app, name), (*rule).into())
            }
            ("muster", "size", [_, _, _]) => Self::Size(service(&rest)),
            ("muster", "held", [_, _, _, id]) => Self::Held(service(&rest), (*id).into()),
            ("muster", "wanted", [_, _, _, domain, project, env, app, name]) => {
                Self::Wanted(service(&rest), Tenant::new(*domain, *project), Name::new(env, app, name))
            }
            _ => return None,
        })
    }

    /// The key as the store has it; `None` for [`Key::Other`].
    pub fn render(&self) -> Option<String> {
        let of_name = |kind: &str, t: &Tenant, n: &Name, version: &str| {
            format!("{ROOT}ms/{kind}/{t}/{}/{}/{}/{version}", n.environment, n.app_id, n.name)
        };
        Some(match self {
            Self::Service(s) => service(s),
            Self::ServiceIndex(t, n, version) => of_name("indexes", t, n, version),
            Self::ServiceAlias(t, n, version) => of_name("alias", t, n, version),
            Self::Instance(s, id) => instance(s, id),
            Self::Lease(s, id) => lease(s, id),
            Self::Schema(s, id) => format!("{ROOT}ms/schemas/{s}/{id}"),
            Self::SchemaSummary(s, id) => format!("{ROOT}ms/schema-sum/{s}/{id}"),
            Self::SchemaRef(s, id) => format!("{ROOT}ms/schema-ref/{s}/{id}"),
            Self::Tags(s) => format!("{ROOT}ms/tags/{s}"),
            Self::Rule(s, id) => format!("{ROOT}ms/rules/{s}/{id}"),
            Self::ConsumerRule(t, n, version) => {
                format!("{ROOT}ms/dep-rules/{t}/c/{}/{}/{}/{version}", n.environment, n.app_id, n.name)
            }
            Self::ProviderRule(t, n, rule) => {
                format!("{ROOT}ms/dep-rules/{t}/p/{}/{}/{}/{rule}", n.environment, n.app_id, n.name)
            }
            Self::ProviderRuleAll(t, env) => format!("{ROOT}ms/dep-rules/{t}/p/{env}/*"),
            Self::DependencyQueue(s, id) => format!("{ROOT}ms/dep-queue/{s}/{id}"),
            Self::Domain(domain) => format!("{ROOT}domains/{domain}"),
            Self::Project(t) => format!("{ROOT}projects/{t}"),
            Self::Wanted(consumer, t, n) => {
                format!("{ROOT}muster/wanted/{consumer}/{t}/{}/{}/{}", n.environment, n.app_id, n.name)
            }
            Self::Size(s) => format!("{ROOT}muster/size/{s}"),
            Self::Held(s, id) => format!("{ROOT}muster/held/{s}/{id}"),
            Self::Other => return None,
        })
    }
}

/// The key of a service's record.
pub fn service(service: &ServiceRef) -> String {
    format!("{ROOT}ms/files/{service}")
}

/// The key of a version's id; its SHA-1 is the id that the registry gives by default.
pub fn index(tenant: &Tenant, name: &Name, version: &str) -> String {
    format!("{ROOT}ms/indexes/{tenant}/{}/{}/{}/{version}", name.environment, name.app_id, name.name)
}

/// The key of an alias' id.
pub fn alias(tenant: &Tenant, name: &Name, version: &str) -> String {
    format!("{ROOT}ms/alias/{tenant}/{}/{}/{}/{version}", name.environment, name.app_id, name.name)
}

/// The key of an instance's record.
pub fn instance(service: &ServiceRef, id: &str) -> String {
    format!("{ROOT}inst/files/{service}/{id}")
}

/// The key of an instance's lease.
pub fn lease(service: &ServiceRef, id: &str) -> String {
    format!("{ROOT}inst/leases/{service}/{id}")
}

/// The key of a schema's content by its hash, as newer Service-Center stores it.
pub fn schema_content(tenant: &Tenant, hash: &str) -> String {
    format!("{ROOT}ms/schema-content/{tenant}/{hash}")
}

/// The key that holds the id of the rule with an attribute and a pattern.
pub fn rule_index(service: &ServiceRef, attribute: &str, pattern: &str) -> String {
    format!("{ROOT}ms/rule-indexes/{service}/{attribute}/{pattern}")
}

/// The prefixes of everything that belongs to a service and goes with it, its record and names excepted.
pub fn belongings(service: &ServiceRef) -> Vec<String> {
    [
        "inst/files",
        "inst/leases",
        "ms/schemas",
        "ms/schema-sum",
        "ms/schema-ref",
        "ms/rules",
        "ms/rule-indexes",
    ]
    .map(|kind| format!("{ROOT}{kind}/{service}/"))
    .to_vec()
}

/// The key of a service's usual size.
pub fn size(service: &ServiceRef) -> String {
    format!("{ROOT}muster/size/{service}")
}

/// The key of a held instance.
pub fn held(service: &ServiceRef, id: &str) -> String {
    format!("{ROOT}muster/held/{service}/{id}")
}

/// The prefix of a service's held instances.
pub fn held_of(service: &ServiceRef) -> String {
    format!("{ROOT}muster/held/{service}/")
}

/// The prefix of what a consumer wants to hear of.
pub fn wanted_by(consumer: &ServiceRef) -> String {
    format!("{ROOT}muster/wanted/{consumer}/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_environment_leaves_an_empty_segment() {
        let key = index(&Tenant::default(), &Name::new("", "default", "demo"), "1.0.0");
        assert_eq!(key, "/cse-sr/ms/indexes/default/default//default/demo/1.0.0");
        assert_eq!(
            Key::parse(&key),
            Key::ServiceIndex(Tenant::default(), Name::new("", "default", "demo"), "1.0.0".into())
        );
    }

    #[test]
    fn a_rule_on_everything_is_told_from_a_rule_on_a_name() {
        assert_eq!(
            Key::parse("/cse-sr/ms/dep-rules/d/p/p//*"),
            Key::ProviderRuleAll(Tenant::new("d", "p"), String::new())
        );
        assert_eq!(
            Key::parse("/cse-sr/ms/dep-rules/d/p/p/production/shop/order/0+"),
            Key::ProviderRule(Tenant::new("d", "p"), Name::new("production", "shop", "order"), "0+".into())
        );
    }

    #[test]
    fn foreign_keys_are_other() {
        for key in
            ["", "/", "/cse-sr/", "/cse-sr/ms/files/a/b", "/cse-sr/ms/files/a/b/c/d", "/lock//dep-queue"]
        {
            assert_eq!(Key::parse(key), Key::Other, "{key}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(segments in prop::collection::vec("[a-zA-Z0-9_.:-]{1,8}", 9), env in "[a-z]{0,4}", kind in 0..19) {
            let [d, p, sid, id, app, name, version, d2, p2] =
                <[String; 9]>::try_from(segments).expect("nine segments");
            let tenant = Tenant::new(d, p);
            let service = ServiceRef::new(tenant.clone(), sid);
            let name = Name { environment: env.clone(), app_id: app, name };
            let key = match kind {
                0 => Key::Service(service),
                1 => Key::ServiceIndex(tenant, name, version),
                2 => Key::ServiceAlias(tenant, name, version),
                3 => Key::Instance(service, id),
                4 => Key::Lease(service, id),
                5 => Key::Schema(service, id),
                6 => Key::SchemaSummary(service, id),
                7 => Key::SchemaRef(service, id),
                8 => Key::Tags(service),
                9 => Key::Rule(service, id),
                10 => Key::ConsumerRule(tenant, name, version),
                11 => Key::ProviderRule(tenant, name, version),
                12 => Key::ProviderRuleAll(tenant, env),
                13 => Key::DependencyQueue(service, id),
                14 => Key::Domain(tenant.domain),
                15 => Key::Project(tenant),
                16 => Key::Size(service),
                17 => Key::Held(service, id),
                _ => Key::Wanted(service, Tenant::new(d2, p2), name),
            };
            prop_assert_eq!(Key::parse(&key.render().expect("known")), key);
        }
    }
}
