//! The grammar of store keys: built and parsed here, nowhere else.
//!
//! The grammar is Service-Center's, so that both can share an etcd. Segments are not escaped. The segment of
//! the default environment is empty, which leaves `//`, so keys are split by position and never normalised.
//! Keys that only this program uses are under `/cse-sr/muster/`, which Service-Center does not read.

use shared::model::{ServiceRef, Tenant};

/// The prefix of all keys that the view follows.
pub const ROOT: &str = "/cse-sr/";
/// The key of the trace context of the last sampled request, written in the same transaction as its change.
pub const TRACE: &str = "/cse-sr/muster/trace";
/// The incarnation of the store, as decimal text. Absent before the first restore.
pub const INCARNATION: &str = "/cse-sr/muster/incarnation";
/// The seat of the publisher. It is outside the root, because its changes do not concern the view.
pub const PUBLISHER: &str = "/muster/publisher";

/// The locks under which Service-Center nodes rewrite dependency rules, in their two generations. Such a node
/// reads the rules under the lock and writes them without a comparison, so no other program may write them
/// meanwhile.
pub const DEPENDENCY_LOCKS: [&str; 2] = ["/cse/etcdsync/cse-sr/lock/dep-queue", "/lock//dep-queue"];

/// The prefix under which Service-Center nodes queue dependencies.
pub const DEPENDENCY_QUEUE: &str = "/cse-sr/ms/dep-queue/";

/// The most bytes of a key. The longest that the API makes is a wanted key of some 3 KB. Ids in longer ones
/// would make subjects and messages that the bus refuses.
const LONGEST_KEY: usize = 4 << 10;

/// All versions of one name: environment, application and service name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The environment; empty for the default one.
    pub environment: String,
    /// The application.
    pub app_id: String,
    /// The service name, or the alias.
    pub name: String,
}

impl Name {
    /// A name in its environment and application.
    pub fn new(environment: &str, app_id: &str, name: &str) -> Self {
        Self { environment: environment.into(), app_id: app_id.into(), name: name.into() }
    }
}

/// A parsed key of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The record of a service.
    Service(ServiceRef),
    /// The service id of a version of a name.
    ServiceIndex(Tenant, Name, String),
    /// The service id of a version of an alias.
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
    /// The providers of a consumer, by the consumer's name and version.
    ConsumerRule(Tenant, Name, String),
    /// The consumers of a provider, by the provider's name and a version rule.
    ProviderRule(Tenant, Name, String),
    /// The consumers of all services of an environment.
    ProviderRuleAll(Tenant, String),
    /// A dependency that a Service-Center node has queued.
    DependencyQueue(ServiceRef, String),
    /// A domain.
    Domain(String),
    /// A project.
    Project(Tenant),
    /// A wanted key: a consumer waits for a name that nobody has registered yet.
    Wanted(ServiceRef, Tenant, Name),
    /// The usual number of instances of a service, and the id of the last one that unregistered.
    Size(ServiceRef),
    /// The record of a held instance.
    Held(ServiceRef, String),
    /// An override of a service, by its id.
    Override(ServiceRef, String),
    /// A shift of a tenant, by its id.
    Shift(Tenant, String),
    /// The record of an account, by its name.
    Account(String),
    /// The record of a role, by its name.
    Role(String),
    /// Facts of this program about an account beyond its record, by its name.
    AccountExtra(String),
    /// A revoked token, by its id.
    RevokedToken(String),
    /// A long-lived token that counts: the name of its account, and its id.
    ServiceToken(String, String),
    /// The public keys of the external issuer of tokens.
    IssuerKeys,
    /// The incarnation of the store.
    Incarnation,
    /// A key without meaning for the view.
    Other,
}

impl Key {
    /// Parses a key. Every unknown form is [`Key::Other`], and so is a key that no program could have made
    /// of acceptable names.
    pub fn parse(key: &str) -> Self {
        if key.len() > LONGEST_KEY {
            return Self::Other;
        }
        Self::parse_known(key).unwrap_or(Self::Other)
    }

    fn parse_known(key: &str) -> Option<Self> {
        let mut segments = key.strip_prefix(ROOT)?.split('/');
        let root = segments.next()?;
        let kind = segments.next()?;
        // Empty segments stay: the default environment is one.
        let rest: Vec<&str> = segments.collect();
        Some(match (root, kind, rest.as_slice()) {
            ("domains", domain, []) => Self::Domain(domain.into()),
            ("projects", domain, [project]) => Self::Project(Tenant::new(domain, *project)),
            ("ms", "files", [_, _, _]) => Self::Service(service_in(&rest)),
            ("ms", "indexes", [_, _, env, app, name, version]) => {
                Self::ServiceIndex(tenant_in(&rest), Name::new(env, app, name), (*version).into())
            }
            ("ms", "alias", [_, _, env, app, name, version]) => {
                Self::ServiceAlias(tenant_in(&rest), Name::new(env, app, name), (*version).into())
            }
            ("inst", "files", [_, _, _, id]) => Self::Instance(service_in(&rest), (*id).into()),
            ("inst", "leases", [_, _, _, id]) => Self::Lease(service_in(&rest), (*id).into()),
            ("ms", "schemas", [_, _, _, id]) => Self::Schema(service_in(&rest), (*id).into()),
            ("ms", "schema-sum", [_, _, _, id]) => Self::SchemaSummary(service_in(&rest), (*id).into()),
            ("ms", "schema-ref", [_, _, _, id]) => Self::SchemaRef(service_in(&rest), (*id).into()),
            ("ms", "tags", [_, _, _]) => Self::Tags(service_in(&rest)),
            ("ms", "rules", [_, _, _, id]) => Self::Rule(service_in(&rest), (*id).into()),
            ("ms", "dep-queue", [_, _, _, id]) => Self::DependencyQueue(service_in(&rest), (*id).into()),
            ("ms", "dep-rules", [_, _, "c", env, app, name, version]) => {
                Self::ConsumerRule(tenant_in(&rest), Name::new(env, app, name), (*version).into())
            }
            // Shorter than a rule on a name: here `*` stands for the application and the name.
            ("ms", "dep-rules", [_, _, "p", env, "*"]) => {
                Self::ProviderRuleAll(tenant_in(&rest), (*env).into())
            }
            ("ms", "dep-rules", [_, _, "p", env, app, name, rule]) => {
                Self::ProviderRule(tenant_in(&rest), Name::new(env, app, name), (*rule).into())
            }
            ("accounts", name, []) => Self::Account(name.into()),
            ("roles", name, []) => Self::Role(name.into()),
            ("muster", "access", ["account", name]) => Self::AccountExtra((*name).into()),
            ("muster", "access", ["revoked", id]) => Self::RevokedToken((*id).into()),
            ("muster", "access", ["token", account, id]) => {
                Self::ServiceToken((*account).into(), (*id).into())
            }
            ("muster", "access", ["issuer-keys"]) => Self::IssuerKeys,
            ("muster", "incarnation", []) => Self::Incarnation,
            ("muster", "size", [_, _, _]) => Self::Size(service_in(&rest)),
            ("muster", "override", [_, _, _, id]) => Self::Override(service_in(&rest), (*id).into()),
            ("muster", "shift", [_, _, id]) => Self::Shift(tenant_in(&rest), (*id).into()),
            ("muster", "held", [_, _, _, id]) => Self::Held(service_in(&rest), (*id).into()),
            ("muster", "wanted", [_, _, _, domain, project, env, app, name]) => {
                Self::Wanted(service_in(&rest), Tenant::new(*domain, *project), Name::new(env, app, name))
            }
            _ => return None,
        })
    }

    /// The tenant to which the key belongs. A wanted key belongs to the consumer that waits.
    pub fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::Service(of)
            | Self::Instance(of, _)
            | Self::Lease(of, _)
            | Self::Schema(of, _)
            | Self::SchemaSummary(of, _)
            | Self::SchemaRef(of, _)
            | Self::Tags(of)
            | Self::Rule(of, _)
            | Self::DependencyQueue(of, _)
            | Self::Wanted(of, _, _)
            | Self::Size(of)
            | Self::Held(of, _)
            | Self::Override(of, _) => Some(&of.tenant),
            Self::ServiceIndex(tenant, _, _)
            | Self::ServiceAlias(tenant, _, _)
            | Self::ConsumerRule(tenant, _, _)
            | Self::ProviderRule(tenant, _, _)
            | Self::ProviderRuleAll(tenant, _)
            | Self::Project(tenant)
            | Self::Shift(tenant, _) => Some(tenant),
            Self::Domain(_)
            | Self::Account(_)
            | Self::Role(_)
            | Self::AccountExtra(_)
            | Self::RevokedToken(_)
            | Self::ServiceToken(..)
            | Self::IssuerKeys
            | Self::Incarnation
            | Self::Other => None,
        }
    }

    /// The key as the store has it; `None` for [`Key::Other`].
    pub fn render(&self) -> Option<String> {
        Some(match self {
            Self::Service(s) => service(s),
            Self::ServiceIndex(t, n, version) => index(t, n, version),
            Self::ServiceAlias(t, n, version) => alias(t, n, version),
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
            Self::Override(s, id) => override_of(s, id),
            Self::Shift(t, id) => shift(t, id),
            Self::Account(name) => account(name),
            Self::Role(name) => role(name),
            Self::AccountExtra(name) => account_extra(name),
            Self::RevokedToken(id) => revoked_token(id),
            Self::ServiceToken(account, id) => service_token(account, id),
            Self::IssuerKeys => ISSUER_KEYS.to_owned(),
            Self::Incarnation => INCARNATION.to_owned(),
            Self::Other => return None,
        })
    }
}

/// The tenant in the first two segments after the kind.
fn tenant_in(rest: &[&str]) -> Tenant {
    Tenant::new(rest[0], rest[1])
}

/// The service in the first three segments after the kind.
fn service_in(rest: &[&str]) -> ServiceRef {
    ServiceRef::new(tenant_in(rest), rest[2])
}

/// The key of a service's record.
pub fn service(service: &ServiceRef) -> String {
    format!("{ROOT}ms/files/{service}")
}

/// The key with the service id of a version. The SHA-1 of this key is the default service id.
pub fn index(tenant: &Tenant, name: &Name, version: &str) -> String {
    format!("{ROOT}ms/indexes/{tenant}/{}/{}/{}/{version}", name.environment, name.app_id, name.name)
}

/// The key with the service id of an alias.
pub fn alias(tenant: &Tenant, name: &Name, version: &str) -> String {
    format!("{ROOT}ms/alias/{tenant}/{}/{}/{}/{version}", name.environment, name.app_id, name.name)
}

/// The key of an instance's record.
pub fn instance(service: &ServiceRef, id: &str) -> String {
    format!("{ROOT}inst/files/{service}/{id}")
}

/// The prefix of a service's instances.
pub fn instances_of(service: &ServiceRef) -> String {
    format!("{ROOT}inst/files/{service}/")
}

/// The prefixes of the rules under a provider's name, and of those that name every provider.
pub fn consumers_of(tenant: &Tenant, name: &Name) -> [String; 2] {
    let rules = format!("{ROOT}ms/dep-rules/{tenant}/p/{}", name.environment);
    [format!("{rules}/{}/{}/", name.app_id, name.name), format!("{rules}/*")]
}

/// The key of an instance's lease.
pub fn lease(service: &ServiceRef, id: &str) -> String {
    format!("{ROOT}inst/leases/{service}/{id}")
}

/// The key of a schema's content by its hash, as newer Service-Center stores it.
pub fn schema_content(tenant: &Tenant, hash: &str) -> String {
    format!("{ROOT}ms/schema-content/{tenant}/{hash}")
}

/// The key with the id of the rule for an attribute and a pattern.
pub fn rule_index(service: &ServiceRef, attribute: &str, pattern: &str) -> String {
    format!("{ROOT}ms/rule-indexes/{service}/{attribute}/{pattern}")
}

/// The prefixes of the keys that are deleted with a service. Its record and its names have keys of their own.
pub fn belongings(service: &ServiceRef) -> Vec<String> {
    [
        "inst/files",
        "inst/leases",
        "ms/schemas",
        "ms/schema-sum",
        "ms/schema-ref",
        "ms/rules",
        "ms/rule-indexes",
        "muster/override",
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

/// The key of an override.
pub fn override_of(service: &ServiceRef, id: &str) -> String {
    format!("{ROOT}muster/override/{service}/{id}")
}

/// The key of a shift.
pub fn shift(tenant: &Tenant, id: &str) -> String {
    format!("{ROOT}muster/shift/{tenant}/{id}")
}

/// The prefix of a service's held instances.
pub fn held_of(service: &ServiceRef) -> String {
    format!("{ROOT}muster/held/{service}/")
}

/// The prefix of the records of accounts.
pub const ACCOUNTS: &str = "/cse-sr/accounts/";
/// The prefix of the records of roles.
pub const ROLES: &str = "/cse-sr/roles/";
/// The public keys of the external issuer of tokens.
pub const ISSUER_KEYS: &str = "/cse-sr/muster/access/issuer-keys";
/// Service-Center's mark that old roles have been given the resource `config`.
pub const ROLES_MIGRATED: &str = "/cse-sr/role-migrated";

/// The key of an account's record.
pub fn account(name: &str) -> String {
    format!("{ACCOUNTS}{name}")
}

/// The key of a role's record.
pub fn role(name: &str) -> String {
    format!("{ROLES}{name}")
}

/// The key by which Service-Center finds the accounts of a role.
pub fn role_of_account(role: &str, account: &str) -> String {
    format!("{}{account}", accounts_of_role(role))
}

/// The prefix of the keys by which Service-Center finds the accounts of a role.
pub fn accounts_of_role(role: &str) -> String {
    format!("{ROOT}idx-role-account/{role}/")
}

/// The key of what this program knows of an account beyond its record.
pub fn account_extra(name: &str) -> String {
    format!("{ROOT}muster/access/account/{name}")
}

/// The key of a revoked token.
pub fn revoked_token(id: &str) -> String {
    format!("{ROOT}muster/access/revoked/{id}")
}

/// The prefix of the locks of logins.
pub const LOGIN_LOCKS: &str = "/cse-sr/muster/access/lock/";

/// The key of the lock of an account and an address, or of an address alone.
pub fn login_lock(name: &str) -> String {
    format!("{LOGIN_LOCKS}{name}")
}

/// The key of a long-lived token.
pub fn service_token(account: &str, id: &str) -> String {
    format!("{}{id}", service_tokens_of(account))
}

/// The prefix of an account's long-lived tokens.
pub fn service_tokens_of(account: &str) -> String {
    format!("{ROOT}muster/access/token/{account}/")
}

/// The prefix of a consumer's wanted keys.
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
    fn a_rule_on_all_services_differs_from_a_rule_on_a_name() {
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
        fn every_rendered_key_is_parsed_back(segments in prop::collection::vec("[a-zA-Z0-9_.:-]{1,8}", 9), env in "[a-z]{0,4}", kind in 0..28) {
            let [d, p, sid, id, app, name, version, d2, p2] =
                <[String; 9]>::try_from(segments).expect("nine segments");
            let tenant = Tenant::new(d, p);
            let service = ServiceRef::new(tenant.clone(), sid.clone());
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
                18 => Key::Account(sid),
                19 => Key::Role(sid),
                20 => Key::AccountExtra(sid),
                21 => Key::RevokedToken(sid),
                22 => Key::ServiceToken(sid, id),
                23 => Key::IssuerKeys,
                24 => Key::Incarnation,
                25 => Key::Override(service, id),
                26 => Key::Shift(tenant, id),
                _ => Key::Wanted(service, Tenant::new(d2, p2), name),
            };
            prop_assert_eq!(Key::parse(&key.render().expect("known")), key);
        }
    }
}
