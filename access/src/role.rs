//! Roles: which verbs on which resources an account may use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The role that may do everything, whatever its stored record says.
pub const ADMIN: &str = "admin";
/// The role that may do everything but manage accounts and roles.
pub const DEVELOPER: &str = "developer";
/// The word that stands for every verb.
pub const ANY_VERB: &str = "*";

/// The stored record of a role. Empty members are absent, and times are seconds since 1970 as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Role {
    /// The id.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub id: String,
    /// The unique name.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub name: String,
    /// The permissions; each one is an alternative.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "shared::model::null_default")]
    pub perms: Vec<Permission>,
    /// The time of creation.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub create_time: String,
    /// The time of the last change.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "shared::model::null_default")]
    pub update_time: String,
}

/// Verbs on resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Permission {
    /// The resources.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "shared::model::null_default")]
    pub resources: Vec<Resource>,
    /// The verbs, or `*`. Others than those of [`Verb`] are kept and permit nothing.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "shared::model::null_default")]
    pub verbs: Vec<String>,
}

/// A type of resource, and labels that limit the permission to some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resource {
    /// The type. Others than those of [`ResourceType`] are kept and permit nothing.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    #[serde(deserialize_with = "shared::model::null_default")]
    pub kind: String,
    /// The labels that must all match: `environment`, `appId`, `serviceName`. None: no limit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "shared::model::null_default")]
    pub labels: BTreeMap<String, String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$each])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in records and settings.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Reads the word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words! {
    /// A type of resource.
    ResourceType {
        /// Accounts and their locks.
        Account = "account",
        /// Roles.
        Role = "role",
        /// Services, instances, tags, rules, dependencies, and watches over them.
        Service = "service",
        /// Schemas of services.
        Schema = "service/schema",
        /// Rules of traffic.
        Governance = "governance",
        /// The registry's own operation.
        Ops = "ops",
        /// Configuration, which another program of the same family keeps.
        Config = "config",
    }
}

words! {
    /// Something that is done to a resource.
    Verb {
        /// Reading and watching.
        Get = "get",
        /// Making.
        Create = "create",
        /// Changing; heartbeats too.
        Update = "update",
        /// Removing.
        Delete = "delete",
    }
}

/// One verb on one type of resource, which a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Need {
    /// The type of resource.
    pub resource: ResourceType,
    /// The verb.
    pub verb: Verb,
}

impl Permission {
    /// The resources of this permission that a need is about.
    pub fn matching(&self, need: Need) -> impl Iterator<Item = &Resource> {
        let has_verb = self.verbs.iter().any(|verb| verb == need.verb.word() || verb == ANY_VERB);
        let kind = need.resource.word();
        self.resources.iter().filter(move |resource| has_verb && resource.kind == kind)
    }
}

impl Role {
    /// The two roles that always exist.
    pub fn built_in() -> [Self; 2] {
        let with = |name: &str, kinds: &[ResourceType]| Self {
            name: name.to_owned(),
            perms: vec![Permission {
                resources: kinds
                    .iter()
                    .map(|kind| Resource { kind: kind.word().to_owned(), ..Resource::default() })
                    .collect(),
                verbs: vec![ANY_VERB.to_owned()],
            }],
            ..Self::default()
        };
        use ResourceType as T;
        // In the order in which Service-Center stores them.
        let all = [T::Account, T::Config, T::Role, T::Service, T::Governance, T::Ops, T::Schema];
        let without_accounts = [T::Config, T::Service, T::Governance, T::Ops, T::Schema];
        [with(ADMIN, &all), with(DEVELOPER, &without_accounts)]
    }
}
