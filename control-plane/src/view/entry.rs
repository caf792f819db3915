//! The view's entry of one service.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use answer::FindBody;
use regex::{Regex, RegexBuilder};
use rpds::RedBlackTreeMapSync;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::event::{Position, digest_of};
use shared::model::{Instance, Revision, Service, ServiceKey, null_default};

use crate::store::LeaseId;
use crate::version::Version;

/// An instance of the view.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// The instance as clients see it.
    pub instance: Arc<Instance>,
    /// Stored fields that this program does not know, to be kept when the record is rewritten.
    pub unknown: Option<Box<Map<String, Value>>>,
    /// The revision that wrote the record last.
    pub mod_rev: Revision,
    /// The lease that ends the instance, unless heartbeats renew it.
    pub lease: Option<LeaseId>,
}

/// A black or white rule of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceRule {
    /// The rule's id.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub rule_id: String,
    /// `WHITE` or `BLACK`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub rule_type: String,
    /// `tag_{key}` or the name of a field of the consumer.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub attribute: String,
    /// A regular expression searched in the attribute's value.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub pattern: String,
    /// Free text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Creation, unix seconds.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub timestamp: String,
    /// Last change, unix seconds.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mod_timestamp: String,
}

/// The most bytes of a compiled pattern. Clients send the patterns, so the regex engine has to refuse a
/// hostile one before it fills the memory.
const PATTERN_SIZE: usize = 64 << 10;

/// A rule of a service as the view keeps it.
#[derive(Debug)]
pub struct RuleView {
    /// The rule as clients see it.
    pub rule: ServiceRule,
    /// The revision that wrote it last.
    pub mod_rev: Revision,
    /// Compiled when a consumer is first held against it; most rules never are. `None` if it does not
    /// compile.
    pattern: OnceLock<Option<Regex>>,
}

impl RuleView {
    pub(crate) fn new(rule: ServiceRule, mod_rev: Revision) -> Self {
        Self { rule, mod_rev, pattern: OnceLock::new() }
    }

    /// The compiled pattern, or `None` for one that does not compile. It is compiled once, however many finds
    /// look at the rule.
    pub fn pattern(&self) -> Option<&Regex> {
        let compile = || {
            RegexBuilder::new(&self.rule.pattern)
                .size_limit(PATTERN_SIZE)
                // The engine's cache of states lives as long as the rule.
                .dfa_size_limit(PATTERN_SIZE)
                .build()
                .ok()
        };
        self.pattern.get_or_init(compile).as_ref()
    }
}

/// The hold of an expired instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The revision at which it expired.
    pub since: Revision,
    /// True once the hold is recorded in the store. Before that it is this replica's own conclusion.
    pub recorded: bool,
}

/// A schema without its content. Contents are large and rarely read, so they stay in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaView {
    /// The summary. Old writers store a content without one.
    pub summary: Option<String>,
    /// The revision that wrote the summary last.
    pub summary_rev: Revision,
    /// True when a content is stored.
    pub content: bool,
}

/// A service with everything that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct ServiceView {
    /// The record. It is absent while the view knows only instances, tags or other parts of the service.
    pub service: Option<Arc<Service>>,
    /// Stored fields that this program does not know, to be kept when the record is rewritten.
    pub unknown: Option<Arc<Map<String, Value>>>,
    /// The service key that events carry.
    pub key: Arc<ServiceKey>,
    /// The revision that wrote the record last.
    pub mod_rev: Revision,
    /// The instances, by id.
    pub instances: RedBlackTreeMapSync<String, Arc<InstanceView>>,
    /// Wrapping sum of [`digest_of`] over the instances: equal on every replica that has the same state.
    pub digest: u64,
    /// The position of the last event.
    pub last: Position,
    /// The number of instances in normal operation; 0 when it is unknown.
    pub usual_size: usize,
    /// The holds of those `instances` that have expired, by id.
    pub held: RedBlackTreeMapSync<String, Held>,
    /// Its tags.
    pub tags: Arc<BTreeMap<String, String>>,
    /// The revision that wrote the tags last; 0 when there are none.
    pub tags_rev: Revision,
    /// Its black/white rules, by id. Snapshots share each rule, and with it the compiled pattern.
    pub rules: Arc<BTreeMap<String, Arc<RuleView>>>,
    /// Its schemas, by id.
    pub schemas: Arc<BTreeMap<String, SchemaView>>,
    /// Made at the first find after each change of an instance. Snapshots with the same instances share it.
    pub(crate) body: Arc<OnceLock<FindBody>>,
}

impl ServiceView {
    /// The body of a find response with this service alone, made once for each state of its instances. `None`
    /// without instances.
    pub fn answer(&self) -> Option<&FindBody> {
        (!self.instances.is_empty()).then(|| {
            self.body.get_or_init(|| FindBody::of(self.instances.values().map(|view| &*view.instance)))
        })
    }

    /// The number of instances that are not held.
    pub fn living(&self) -> usize {
        self.instances.size() - self.held.size()
    }

    /// An instance, unless it is held.
    pub fn instance(&self, id: &str) -> Option<&Arc<InstanceView>> {
        if self.held.contains_key(id) { None } else { self.instances.get(id) }
    }

    /// True when neither the record nor any part of the service is left.
    pub fn is_void(&self) -> bool {
        self.service.is_none()
            && self.instances.is_empty()
            && self.tags.is_empty()
            && self.rules.is_empty()
            && self.schemas.is_empty()
    }

    pub(crate) fn put_instance(&mut self, view: InstanceView) -> Option<Arc<InstanceView>> {
        let id = view.instance.instance_id.clone();
        let before = self.take_instance(&id);
        // A sum, because it can be updated without visiting the other instances, in any order of changes.
        self.digest = self.digest.wrapping_add(digest_of(&id, view.mod_rev));
        self.instances.insert_mut(id, Arc::new(view));
        // A new cell, not a cleared one: older snapshots share the old cell and its body.
        self.body = Arc::default();
        before
    }

    pub(super) fn take_instance(&mut self, id: &str) -> Option<Arc<InstanceView>> {
        let before = self.instances.get(id)?.clone();
        self.instances.remove_mut(id);
        self.held.remove_mut(id);
        self.digest = self.digest.wrapping_sub(digest_of(id, before.mod_rev));
        self.body = Arc::default();
        Some(before)
    }
}

/// A version of a name. Lists of versions are ordered newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEntry {
    /// The version as a number.
    pub version: Version,
    /// The version as it was registered.
    pub text: String,
    /// The service's id.
    pub id: String,
    /// The revision that wrote the entry last.
    pub mod_rev: Revision,
}

/// The service keys of one stored dependency rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// The providers of a consumer, with version rules; or the consumers of a provider, with exact versions.
    pub keys: Arc<Vec<ServiceKey>>,
    /// The revision that wrote the rule last. A writer compares with it.
    pub mod_rev: Revision,
}
