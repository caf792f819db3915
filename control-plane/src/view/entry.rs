//! What the view knows of one service.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rpds::RedBlackTreeMapSync;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::event::{Position, digest_of};
use shared::model::{Instance, Revision, Service, ServiceKey, null_default};

use crate::store::LeaseId;
use crate::version::Version;

/// An answer that is ready to be sent, plain and compressed.
#[derive(Debug)]
pub struct FindBody {
    plain: Bytes,
    gzip: OnceLock<Bytes>,
}

const OPENING: &[u8] = br#"{"instances":["#;
const CLOSING: &[u8] = b"]}";

impl FindBody {
    fn of(instances: &RedBlackTreeMapSync<String, Arc<InstanceView>>) -> Self {
        let mut plain = OPENING.to_vec();
        for (index, view) in instances.values().enumerate() {
            if index > 0 {
                plain.push(b',');
            }
            serde_json::to_writer(&mut plain, &*view.instance).expect("plain fields always serialise");
        }
        plain.extend_from_slice(CLOSING);
        Self { plain: plain.into(), gzip: OnceLock::new() }
    }

    /// The whole answer.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The whole answer, compressed once.
    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| {
            let mut encoder =
                GzEncoder::new(Vec::with_capacity(self.plain.len() / 4), Compression::default());
            encoder
                .write_all(&self.plain)
                .and_then(|()| encoder.finish())
                .expect("memory takes what is written")
                .into()
        })
    }

    /// One answer out of several services' answers.
    pub fn joined<'a>(bodies: impl Iterator<Item = &'a Self>) -> Vec<u8> {
        let mut joined = OPENING.to_vec();
        for (index, body) in bodies.enumerate() {
            if index > 0 {
                joined.push(b',');
            }
            joined.extend_from_slice(&body.plain[OPENING.len()..body.plain.len() - CLOSING.len()]);
        }
        joined.extend_from_slice(CLOSING);
        joined
    }
}

/// An instance as stored.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// What clients see.
    pub instance: Arc<Instance>,
    /// Fields of another writer, to be written back.
    pub unknown: Option<Box<Map<String, Value>>>,
    /// The revision that wrote it last.
    pub mod_rev: Revision,
    /// The lease it lives on.
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

/// How an expired instance is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The revision at which it expired.
    pub since: Revision,
    /// The store says so too; until then it is this replica's conclusion.
    pub recorded: bool,
}

/// What is known of a schema without its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaView {
    /// Its summary; absent for contents of old writers.
    pub summary: Option<String>,
    /// A content is stored.
    pub content: bool,
}

/// A service with everything that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct ServiceView {
    /// The record; absent while only belongings have been seen.
    pub service: Option<Arc<Service>>,
    /// Fields of another writer, to be written back.
    pub unknown: Option<Arc<Map<String, Value>>>,
    /// The name, as events carry it.
    pub key: Arc<ServiceKey>,
    /// The revision that wrote the record last.
    pub mod_rev: Revision,
    /// The instances, by id.
    pub instances: RedBlackTreeMapSync<String, Arc<InstanceView>>,
    /// Wrapping sum of [`digest_of`] over the instances: equal on every replica that has the same state.
    pub digest: u64,
    /// Where the last change of an instance stands.
    pub last: Position,
    /// How many instances it has when nothing is wrong; 0 when nobody said so.
    pub size: usize,
    /// Which of `instances` have expired and are held.
    pub held: RedBlackTreeMapSync<String, Held>,
    /// Its tags.
    pub tags: Arc<BTreeMap<String, String>>,
    /// The revision that wrote the tags last; 0 when there are none.
    pub tags_rev: Revision,
    /// Its black/white rules, by id.
    pub rules: Arc<BTreeMap<String, ServiceRule>>,
    /// Its schemas, by id.
    pub schemas: Arc<BTreeMap<String, SchemaView>>,
    pub(crate) body: Arc<OnceLock<FindBody>>,
}

impl ServiceView {
    /// The answer to a find of this service alone, made once per state of the service. `None` without instances.
    pub fn answer(&self) -> Option<&FindBody> {
        (!self.instances.is_empty()).then(|| self.body.get_or_init(|| FindBody::of(&self.instances)))
    }

    /// Instances that live, as opposed to held ones.
    pub fn living(&self) -> usize {
        self.instances.size() - self.held.size()
    }

    /// An instance that lives.
    pub fn instance(&self, id: &str) -> Option<&Arc<InstanceView>> {
        if self.held.contains_key(id) { None } else { self.instances.get(id) }
    }

    /// Nothing is known of it any more.
    pub fn is_void(&self) -> bool {
        self.service.is_none()
            && self.instances.is_empty()
            && self.tags.is_empty()
            && self.rules.is_empty()
            && self.schemas.is_empty()
    }

    pub(super) fn put_instance(&mut self, view: InstanceView) -> Option<Arc<InstanceView>> {
        let id = view.instance.instance_id.clone();
        let before = self.take_instance(&id);
        self.digest = self.digest.wrapping_add(digest_of(&id, view.mod_rev));
        self.instances.insert_mut(id, Arc::new(view));
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

/// A version of a name. Lists of them are ordered newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEntry {
    /// As a number.
    pub version: Version,
    /// As registered.
    pub text: String,
    /// The service's id.
    pub id: String,
}

/// A stored dependency rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Providers of a consumer (versions are rules), or consumers of a provider (versions are exact).
    pub keys: Arc<Vec<ServiceKey>>,
    /// The revision that wrote it last; a change compares with it.
    pub mod_rev: Revision,
}
