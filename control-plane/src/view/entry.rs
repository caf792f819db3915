//! The view's entry of one service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use answer::FindBody;
use regex::{Regex, RegexBuilder};
use rpds::RedBlackTreeMapSync;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::event::{Position, digest_of};
use shared::model::{Instance, Revision, Service, ServiceKey, null_default};

use super::overrides::{Merged, OverrideView, Overrides, merged};
use super::packed::PackedInstance;
use crate::store::LeaseId;
use crate::version::Version;

/// An instance of the view.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// The instance as clients see it: the reported one with its overrides.
    pub instance: PackedInstance,
    /// The revision that changed it last, be it in its record or by an override.
    pub mod_rev: Revision,
    /// The instance as its record has it. Without overrides it is the same text in memory.
    pub reported: PackedInstance,
    /// The revision that wrote the record last.
    pub reported_rev: Revision,
    /// Stored fields that this program does not know, to be kept when the record is rewritten.
    pub unknown: Option<Box<Map<String, Value>>>,
    /// The lease that ends the instance, unless heartbeats renew it.
    pub lease: Option<LeaseId>,
}

/// An instance as its record has it, to be put into the view.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    /// The instance.
    pub(crate) instance: Arc<Instance>,
    /// The revision that wrote the record.
    pub(crate) mod_rev: Revision,
    /// Stored fields that this program does not know.
    pub(crate) unknown: Option<Box<Map<String, Value>>>,
    /// The lease that ends the instance.
    pub(crate) lease: Option<LeaseId>,
}

impl Reported {
    /// An instance without a lease and without unknown fields.
    pub(crate) fn new(instance: Instance, mod_rev: Revision) -> Self {
        Self { instance: Arc::new(instance), mod_rev, unknown: None, lease: None }
    }
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
    /// Its overrides, by id, ended ones included.
    pub overrides: Arc<Overrides>,
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
            self.body
                .get_or_init(|| FindBody::of_texts(self.instances.values().map(|view| view.instance.json())))
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

    /// True while a record of an override has to stay: it is in force, or it is the last change of an
    /// instance.
    pub fn needs(&self, entry: &OverrideView) -> bool {
        // An instance that it takes is no older than it. Asked first, because the fields of an instance have to
        // be read from its text, and a sweep asks this of every ended override.
        entry.record.is_in_force()
            || self.instances.values().any(|view| {
                view.reported_rev < entry.mod_rev
                    && entry.mod_rev <= view.mod_rev
                    && entry.record.target.takes(&view.reported.unpack())
            })
    }

    /// True when neither the record nor any part of the service is left.
    pub fn is_void(&self) -> bool {
        self.service.is_none()
            && self.instances.is_empty()
            && self.tags.is_empty()
            && self.rules.is_empty()
            && self.schemas.is_empty()
            && self.overrides.is_empty()
    }

    /// Puts an instance as its record has it, with the service's overrides.
    pub(crate) fn put_instance(&mut self, put: Reported) -> PutInstance {
        let id = put.instance.instance_id.clone();
        let is_held = self.held.contains_key(&id);
        let before = self.take_instance(&id);
        let Merged { instance, mod_rev } = merged(&self.overrides, &put.instance, put.mod_rev);
        let reported = PackedInstance::of(&put.instance);
        let shown = InstanceView {
            instance: packed(&instance, &put.instance, &reported),
            mod_rev,
            reported,
            reported_rev: put.mod_rev,
            unknown: put.unknown,
            lease: put.lease,
        };
        self.show(id, Arc::new(shown));
        PutInstance { shown: instance, mod_rev, reported: put.instance, before, is_held }
    }

    /// Shows an instance that is not shown. Holds are left alone.
    fn show(&mut self, id: String, shown: Arc<InstanceView>) {
        // A sum, because it can be updated without visiting the other instances, in any order of changes.
        self.digest = self.digest.wrapping_add(digest_of(&id, shown.mod_rev));
        self.instances.insert_mut(id, shown);
        // A new cell, not a cleared one: older snapshots share the old cell and its body.
        self.body = Arc::default();
    }

    /// Merges instances again, after a change of overrides: those that are named, or all. `at` is the revision
    /// of that change; `None` while a list is read, which shows a state and no change.
    pub(super) fn merge_again(
        &mut self,
        at: Option<Revision>,
        named: Option<&BTreeSet<&str>>,
    ) -> MergedAgain {
        let mut outcome = MergedAgain::default();
        let mut views = Vec::new();
        let all = named.is_none().then(|| self.instances.iter());
        let some = named.into_iter().flatten().filter_map(|id| self.instances.get_key_value(*id));
        for (id, view) in all.into_iter().flatten().chain(some) {
            let reported = Arc::new(view.reported.unpack());
            let Merged { instance, mod_rev } = merged(&self.overrides, &reported, view.reported_rev);
            let packed = packed(&instance, &reported, &view.reported);
            let is_same = packed == view.instance;
            let mod_rev = match at {
                // Only another program deletes an override that is in force: our own are ended first. The
                // revision of a deletion stands nowhere in the store, so a later replica cannot know it.
                Some(at) if mod_rev < view.mod_rev || (mod_rev == view.mod_rev && !is_same) => {
                    outcome.is_torn = true;
                    if is_same { view.mod_rev } else { at }
                }
                _ => mod_rev,
            };
            if !is_same || mod_rev != view.mod_rev {
                let shown = InstanceView { instance: packed, mod_rev, ..(**view).clone() };
                views.push((id.clone(), Arc::new(shown)));
                outcome.changed.push(Remerged { shown: instance, mod_rev, reported });
            }
        }
        for (id, shown) in views {
            if let Some(before) = self.instances.get(&id) {
                self.digest = self.digest.wrapping_sub(digest_of(&id, before.mod_rev));
            }
            self.show(id, shown);
        }
        outcome
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

/// The text of an instance as clients see it: that of the reported one, unless overrides made another.
fn packed(shown: &Arc<Instance>, reported: &Arc<Instance>, text: &PackedInstance) -> PackedInstance {
    if Arc::ptr_eq(shown, reported) { text.clone() } else { PackedInstance::of(shown) }
}

/// An instance that was put into the view.
pub(crate) struct PutInstance {
    /// The instance as clients see it.
    pub(crate) shown: Arc<Instance>,
    /// The revision that changed it last.
    pub(crate) mod_rev: Revision,
    /// The instance as its record has it.
    pub(crate) reported: Arc<Instance>,
    /// The instance as the view had it.
    pub(crate) before: Option<Arc<InstanceView>>,
    /// True when that one was held.
    pub(crate) is_held: bool,
}

/// The instances that a change of overrides changed.
#[derive(Default)]
pub(super) struct MergedAgain {
    pub(super) changed: Vec<Remerged>,
    /// True when replicas that list the store later would show another revision of an instance.
    pub(super) is_torn: bool,
}

/// An instance that a change of overrides changed.
pub(super) struct Remerged {
    /// The instance as clients see it.
    pub(super) shown: Arc<Instance>,
    /// The revision that changed it last.
    pub(super) mod_rev: Revision,
    /// The instance as its record has it.
    pub(super) reported: Arc<Instance>,
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
