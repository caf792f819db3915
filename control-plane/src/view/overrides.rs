//! Overrides: what operators want of instances, beside what the instances report.
//!
//! Both are records of the store, and `merged` is the one place where they become what clients see. The
//! view holds merged instances only, so events, replays, snapshots, finds and digests agree about them.
//!
//! A merged instance has a revision of its own, because gateways order and compare states by it: the last one
//! that wrote the instance's record or an override that takes the instance. It must grow with each change and
//! follow from the store alone, or a replica that started later would show another one. Therefore an override
//! does not go when it ends: its record stays, marked as ended, and counts for the revision only. The steward
//! (`crate::steward`) removes such records once no instance needs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::model::{Instance, Revision, Service, ServiceRef, WEIGHT, null_default, null_texts};

use crate::carriage::{LARGEST_INSTANCE, weight};

/// Bytes of an override's id, before they become text.
const ID_BYTES: usize = 12;

/// The overrides of a service, by id.
pub type Overrides = BTreeMap<String, Arc<OverrideView>>;

/// A drain, one instance, and the number of conditions.
type Narrowness = (bool, bool, usize);

/// The instances that an override takes: those of its service that have everything that is named here.
/// The reported properties decide, never those that another override shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct OverrideTarget {
    /// The id of one instance.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// The version of the instances.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The available zone of the instances' data centre.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Properties of the instances.
    #[serde(deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// True for the mark of a drain, which is an override beside the operators' own of the same instance.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

impl OverrideTarget {
    /// The target of the mark of a drain.
    pub fn drain_of(instance: &str) -> Self {
        Self { instance_id: instance.to_owned(), drain: true, ..Self::default() }
    }

    /// The one instance that it takes, if it names one.
    pub(super) fn instance(&self) -> Option<&str> {
        (!self.instance_id.is_empty()).then_some(self.instance_id.as_str())
    }

    /// True for an instance, as it is reported.
    pub fn takes(&self, reported: &Instance) -> bool {
        let zone = reported.data_center_info.as_ref().map_or("", |center| center.available_zone.as_str());
        (self.instance_id.is_empty() || self.instance_id == reported.instance_id)
            && (self.version.is_empty() || self.version == reported.version)
            && (self.zone.is_empty() || self.zone == zone)
            && self.properties.iter().all(|(key, value)| reported.properties.get(key) == Some(value))
    }

    /// True for all instances of the service.
    pub fn is_whole_service(&self) -> bool {
        *self == Self::default()
    }

    /// The id of the override of these instances. There is one for each target, so that setting it again
    /// replaces it.
    pub fn id(&self, service: &ServiceRef) -> String {
        let text = serde_json::json!([service.to_string(), self]).to_string();
        HEXLOWER.encode(&digest(&SHA256, text.as_bytes()).as_ref()[..ID_BYTES])
    }

    /// How narrow the target is. What a narrower override says has precedence, and a drain before all others:
    /// its proof would be false if another override could bring the traffic back.
    fn narrowness(&self) -> Narrowness {
        let conditions = usize::from(!self.version.is_empty()) + usize::from(!self.zone.is_empty());
        (self.drain, !self.instance_id.is_empty(), conditions + self.properties.len())
    }
}

/// The value of an override's key. The field names in the store must not change: other versions of this
/// program read them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct OverrideRecord {
    /// The instances.
    #[serde(flatten)]
    pub target: OverrideTarget,
    /// The status that they are to have; empty to leave it.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The weight that they are to have, from 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// Properties that they are to have, instead of theirs or beside them.
    #[serde(deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Properties or tags of the consumers that are not to find the service. A consumer must have all of
    /// them.
    #[serde(deserialize_with = "null_texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub hidden_from: BTreeMap<String, String>,
    /// The account that has set the override.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// The reason, for people.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The second since 1970 at which it was set.
    #[serde(deserialize_with = "null_default")]
    pub since: u64,
    /// The second since 1970 at which it is to end; 0 for never.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub until: u64,
    /// The account that has ended it, or a word for the reason. Empty while it is in force.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub ended_by: String,
    /// The id of the shift whose step it is; empty for every other override.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub shift: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl OverrideRecord {
    /// True until it has ended. Its time alone does not end it: that would let wall clocks decide what
    /// replicas show.
    pub fn is_in_force(&self) -> bool {
        self.ended_by.is_empty()
    }
}

/// An override of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideView {
    /// The record.
    pub record: OverrideRecord,
    /// The revision that wrote it last.
    pub mod_rev: Revision,
    /// The bytes that it has in the store.
    pub bytes: usize,
}

impl OverrideView {
    /// Of two overrides of an instance, the one with the greater precedence wins field by field: the narrower
    /// one, or of two alike the later one.
    fn precedence(&self) -> (Narrowness, Revision) {
        (self.record.target.narrowness(), self.mod_rev)
    }
}

/// The overrides in force that take a reported instance, with their ids, and the winning one first.
pub(crate) fn taking<'a>(
    overrides: &'a Overrides,
    reported: &Instance,
) -> Vec<(&'a String, &'a OverrideView)> {
    let mut taking: Vec<_> = overrides
        .iter()
        .map(|(id, entry)| (id, &**entry))
        .filter(|(_, entry)| entry.record.is_in_force() && entry.record.target.takes(reported))
        .collect();
    taking.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.precedence()));
    taking
}

/// An instance as clients see it, with the revision that changed it last.
pub(super) struct Merged {
    pub(super) instance: Arc<Instance>,
    pub(super) mod_rev: Revision,
}

/// The one merge of the reported instance, which its record's `mod_rev` wrote, and the service's overrides.
pub(super) fn merged(overrides: &Overrides, reported: &Arc<Instance>, mod_rev: Revision) -> Merged {
    // Nearly always there are none, and then nothing is copied.
    if overrides.is_empty() {
        return Merged { instance: reported.clone(), mod_rev };
    }
    let mut taking: Vec<&OverrideView> = Vec::new();
    taking
        .extend(overrides.values().map(|entry| &**entry).filter(|entry| entry.record.target.takes(reported)));
    let mod_rev = taking.iter().map(|entry| entry.mod_rev).fold(mod_rev, Ord::max);
    taking.retain(|entry| entry.record.is_in_force());
    // The widest first, so that narrower ones replace what it says.
    taking.sort_by_key(|entry| entry.precedence());
    let mut shown = (**reported).clone();
    for entry in &taking {
        shown.properties.extend(entry.record.metadata.clone());
    }
    if weight(&shown) > LARGEST_INSTANCE {
        // Its events would not fit on the bus or in a frame.
        shown.properties = reported.properties.clone();
    }
    for entry in &taking {
        if !entry.record.status.is_empty() {
            shown.status.clone_from(&entry.record.status);
        }
        if let Some(weight) = entry.record.weight {
            shown.properties.insert(WEIGHT.to_owned(), weight.to_string());
        }
    }
    let instance = if shown == **reported { reported.clone() } else { Arc::new(shown) };
    Merged { instance, mod_rev }
}

/// True when an override in force hides the service from a consumer.
pub(super) fn hide(overrides: &Overrides, consumer: &Service, tags: &BTreeMap<String, String>) -> bool {
    overrides.values().any(|entry| {
        let OverrideRecord { target, hidden_from, .. } = &entry.record;
        entry.record.is_in_force()
            // A part of a service cannot be hidden: all consumers share the answers with its instances.
            && target.is_whole_service()
            && !hidden_from.is_empty()
            && hidden_from.iter().all(|(key, value)| {
                consumer.properties.get(key) == Some(value) || tags.get(key) == Some(value)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, mod_rev: u64, record: OverrideRecord) -> (String, Arc<OverrideView>) {
        (id.to_owned(), Arc::new(OverrideView { record, mod_rev: mod_rev.into(), bytes: 0 }))
    }

    fn reported() -> Arc<Instance> {
        let properties = [("colour".to_owned(), "blue".to_owned())].into();
        Arc::new(Instance { instance_id: "i".into(), status: "UP".into(), properties, ..Default::default() })
    }

    #[test]
    fn a_narrower_override_has_precedence_field_by_field() {
        let whole = OverrideRecord {
            status: "DOWN".into(),
            weight: Some(10),
            metadata: [("colour".to_owned(), "red".to_owned())].into(),
            ..OverrideRecord::default()
        };
        let one = OverrideRecord {
            target: OverrideTarget { instance_id: "i".into(), ..OverrideTarget::default() },
            weight: Some(0),
            ..OverrideRecord::default()
        };
        let blue = OverrideRecord {
            target: OverrideTarget { properties: reported().properties.clone(), ..OverrideTarget::default() },
            weight: Some(50),
            status: "TESTING".into(),
            ..OverrideRecord::default()
        };
        // The property that another override shows does not count for a target.
        let overrides = Overrides::from([entry("a", 9, whole), entry("b", 7, one), entry("c", 8, blue)]);
        let Merged { instance, mod_rev } = merged(&overrides, &reported(), 3.into());
        assert_eq!((instance.status.as_str(), mod_rev), ("TESTING", 9.into()));
        let order: Vec<_> = taking(&overrides, &reported()).into_iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(order, ["b", "c", "a"], "the winning one is the first");
        let properties = [("colour".to_owned(), "red".to_owned()), ("weight".to_owned(), "0".to_owned())];
        assert_eq!(instance.properties, properties.into());
    }

    #[test]
    fn a_drain_wins_beside_an_override_of_the_same_instance() {
        let service = ServiceRef::new(shared::model::Tenant::default(), "s");
        let own = OverrideTarget { instance_id: "i".into(), ..OverrideTarget::default() };
        assert_ne!(own.id(&service), OverrideTarget::drain_of("i").id(&service));
        let properties = reported().properties.clone();
        let narrow = OverrideTarget { properties, ..own };
        let up =
            OverrideRecord { target: narrow, status: "UP".into(), weight: Some(7), ..Default::default() };
        let drain = OverrideRecord {
            target: OverrideTarget::drain_of("i"),
            status: "OUTOFSERVICE".into(),
            ..OverrideRecord::default()
        };
        // The later one, with more conditions, leaves the drain in place, and its weight is seen all the same.
        let overrides = Overrides::from([entry("a", 9, up), entry("b", 7, drain)]);
        let shown = merged(&overrides, &reported(), 3.into()).instance;
        assert_eq!((shown.status.as_str(), shown.properties["weight"].as_str()), ("OUTOFSERVICE", "7"));
        let text = serde_json::to_string(&OverrideTarget::drain_of("i")).expect("plain fields");
        assert_eq!(text, r#"{"instanceId":"i","drain":true}"#, "the stored form is fixed");
    }

    #[test]
    fn an_ended_override_counts_for_the_revision_alone() {
        let ended =
            OverrideRecord { status: "DOWN".into(), ended_by: "root".into(), ..OverrideRecord::default() };
        let overrides = Overrides::from([entry("a", 9, ended)]);
        let reported = reported();
        let Merged { instance, mod_rev } = merged(&overrides, &reported, 3.into());
        assert!(Arc::ptr_eq(&instance, &reported));
        assert!(taking(&overrides, &reported).is_empty());
        assert_eq!((mod_rev, merged(&overrides, &reported, 11.into()).mod_rev), (9.into(), 11.into()));
    }

    #[test]
    fn metadata_never_make_an_instance_too_large() {
        let large = Instance {
            properties: [("k".to_owned(), "x".repeat(LARGEST_INSTANCE - 1000))].into(),
            ..(*reported()).clone()
        };
        let record = OverrideRecord {
            metadata: [("more".to_owned(), "y".repeat(1000))].into(),
            weight: Some(1),
            ..OverrideRecord::default()
        };
        let shown = merged(&Overrides::from([entry("a", 9, record)]), &Arc::new(large), 3.into()).instance;
        assert_eq!(shown.properties.keys().collect::<Vec<_>>(), ["k", "weight"]);
    }

    #[test]
    fn a_service_is_hidden_from_consumers_with_all_of_the_labels() {
        let labels = [("team", "a"), ("zone", "east")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut record = OverrideRecord { hidden_from: labels.clone().into(), ..OverrideRecord::default() };
        let consumer = Service { properties: [labels[0].clone()].into(), ..Service::default() };
        let tags = BTreeMap::from([labels[1].clone()]);
        let hides = |record: &OverrideRecord, tags: &BTreeMap<String, String>| {
            hide(&Overrides::from([entry("a", 9, record.clone())]), &consumer, tags)
        };
        assert!(hides(&record, &tags));
        assert!(!hides(&record, &BTreeMap::new()));
        record.ended_by = "root".into();
        assert!(!hides(&record, &tags));
    }

    #[test]
    fn the_stored_form_of_an_override_is_fixed() {
        let record = OverrideRecord {
            target: OverrideTarget { zone: "east".into(), ..OverrideTarget::default() },
            status: "DOWN".into(),
            weight: Some(5),
            owner: "root".into(),
            since: 7,
            until: 9,
            ..OverrideRecord::default()
        };
        let text = r#"{"zone":"east","status":"DOWN","weight":5,"owner":"root","since":7,"until":9}"#;
        assert_eq!(serde_json::to_string(&record).expect("plain fields"), text);
        assert_eq!(serde_json::from_str::<OverrideRecord>(text).expect("parses"), record);
    }
}
