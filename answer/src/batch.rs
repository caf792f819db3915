//! Batches of finds: the elements of a request, and the reply with an outcome for each of them.
//!
//! ```text
//! body of the request ─▶ Batch ─▶ elements, each found by itself ─▶ Outcome ─▶ BatchReply ─▶ body
//! ```
//!
//! The index of each element is in exactly one list of the reply. Instances come from bodies that are JSON already, and
//! are shared with them or copied, so the reply is written by hand.

use std::borrow::Cow;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::model::{Instance, ServiceKey, null_default};

use crate::pieces::{Pieces, PiecesWriter};
use crate::{FindBody, is_current};

/// The most elements of one list of a request.
pub const MOST_ELEMENTS: usize = 10_000;
/// The most bytes of all instances in one reply. A body of some kilobytes can name a large service many
/// times.
pub const REPLY_BYTES: usize = 32 << 20;

/// Finds by the provider's key, and by the instance's id.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "BatchBody")]
pub struct Batch {
    /// Finds by the provider's key.
    #[serde(default, deserialize_with = "null_default")]
    pub services: Vec<ServiceElement>,
    /// Finds by the instance's id.
    #[serde(default, deserialize_with = "null_default")]
    pub instances: Vec<InstanceElement>,
}

/// One find by the provider's key.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ServiceElement {
    /// The key. Without it the whole batch is refused.
    pub service: Option<ServiceKey>,
    /// The revision of the reply that the client already has; empty for none.
    #[serde(default, deserialize_with = "null_default")]
    pub rev: String,
}

/// One find by the instance's id.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct InstanceElement {
    /// The ids. Without them the whole batch is refused.
    pub instance: Option<InstanceId>,
    /// The revision of the reply that the client already has; empty for none.
    #[serde(default, deserialize_with = "null_default")]
    pub rev: String,
}

/// The ids of an instance.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct InstanceId {
    /// The id of its service.
    #[serde(deserialize_with = "null_default")]
    pub service_id: String,
    /// Its own id.
    #[serde(deserialize_with = "null_default")]
    pub instance_id: String,
}

impl Batch {
    /// Reads a body. `None` for one that is no batch.
    pub fn read(body: &[u8]) -> Option<Self> {
        // By way of a value, as a control plane reads every body: a struct would refuse repeated members and
        // also take an array.
        let value: Value = serde_json::from_slice(body).ok()?;
        value.is_object().then(|| serde_json::from_value(value).ok())?
    }
}

/// The outcome of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has exactly this already.
    NotModified,
    /// The instances, with the revision of this outcome.
    Updated {
        /// The revision.
        rev: String,
        /// Lists of instances in JSON, without brackets and none of them empty.
        lists: Vec<Bytes>,
    },
    /// The element is refused.
    Failed(Refusal),
}

/// The reason for which an element is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The contract's code, six digits.
    pub code: &'static str,
    /// The constant text of the code.
    pub message: &'static str,
    /// A public sentence about this case.
    pub detail: Cow<'static, str>,
}

impl Outcome {
    /// The outcome of a find with these bodies, one of each service that has instances. `sent` is the
    /// revision that the client has.
    pub fn found<'a>(sent: &str, rev: String, bodies: impl Iterator<Item = &'a FindBody>) -> Self {
        match is_current(sent, &rev) {
            true => Self::NotModified,
            false => Self::Updated { rev, lists: bodies.map(FindBody::list).collect() },
        }
    }

    /// The outcome of a find of one instance, which is JSON already.
    pub fn found_one(sent: &str, rev: String, instance: &str) -> Self {
        match is_current(sent, &rev) {
            true => Self::NotModified,
            false => Self::Updated { rev, lists: vec![Bytes::copy_from_slice(instance.as_bytes())] },
        }
    }
}

/// The list of a request that an element is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// That of finds by the provider's key.
    Services,
    /// That of finds by the instance's id.
    Instances,
}

/// The outcomes of one list of the request. The index of every element is in exactly one of these lists.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct Section {
    #[schemars(default, skip_serializing_if = "Vec::is_empty")]
    failed: Vec<FailedGroup>,
    #[schemars(default, skip_serializing_if = "Vec::is_empty")]
    not_modified: Vec<usize>,
    #[schemars(default, skip_serializing_if = "Vec::is_empty")]
    updated: Vec<Updated>,
}

/// Elements that failed with the same code. The error is that of the first.
#[derive(Debug, JsonSchema)]
struct FailedGroup {
    indexes: Vec<usize>,
    error: Value,
    #[schemars(skip)]
    code: &'static str,
}

#[derive(Debug, JsonSchema)]
struct Updated {
    index: usize,
    rev: String,
    #[schemars(rename = "instances", with = "Vec<Instance>", default, skip_serializing_if = "Vec::is_empty")]
    lists: Vec<Bytes>,
}

/// The reply would have more instances than [`REPLY_BYTES`] hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// The reply to a batch, with a section for each list of the request that is not empty.
#[derive(Debug, Default)]
pub struct BatchReply {
    services: Section,
    instances: Section,
    bytes: usize,
}

impl BatchReply {
    /// Adds the outcome of an element.
    ///
    /// # Errors
    /// The reply becomes too large with it.
    pub fn add(&mut self, list: List, index: usize, outcome: Outcome) -> Result<(), TooLarge> {
        let section = match list {
            List::Services => &mut self.services,
            List::Instances => &mut self.instances,
        };
        match outcome {
            Outcome::NotModified => section.not_modified.push(index),
            Outcome::Failed(refusal) => section.add_failure(index, refusal),
            Outcome::Updated { rev, lists } => {
                self.bytes += lists.iter().map(Bytes::len).sum::<usize>();
                if self.bytes > REPLY_BYTES {
                    return Err(TooLarge);
                }
                section.updated.push(Updated { index, rev, lists });
            }
        }
        Ok(())
    }

    /// The bytes of all instances.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when the client has everything already.
    pub fn is_unchanged(&self) -> bool {
        [&self.services, &self.instances]
            .iter()
            .all(|section| section.updated.is_empty() && section.failed.is_empty())
    }

    /// The body. It shares the instances with all other answers that have them, because a batch may name a large service
    /// many times, and a client may leave the answer unread.
    pub fn body(&self) -> Pieces {
        let mut body = PiecesWriter::default();
        let mut object = Object::begin(&mut body);
        for (name, section) in [("services", &self.services), ("instances", &self.instances)] {
            if !section.is_empty() {
                section.write(object.member(name));
            }
        }
        object.end();
        body.finish()
    }
}

impl Section {
    fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.not_modified.is_empty() && self.updated.is_empty()
    }

    fn add_failure(&mut self, index: usize, Refusal { code, message, detail }: Refusal) {
        // One group for each code, as in the contract.
        if let Some(group) = self.failed.iter_mut().find(|group| group.code == code) {
            group.indexes.push(index);
            return;
        }
        let error = json!({ "errorCode": code, "errorMessage": message, "detail": detail });
        self.failed.push(FailedGroup { indexes: vec![index], error, code });
    }

    fn write(&self, out: &mut PiecesWriter) {
        let mut object = Object::begin(out);
        if !self.failed.is_empty() {
            write_list(object.member("failed"), &self.failed, |out, group| {
                let mut object = Object::begin(out);
                value(object.member("indexes"), &group.indexes);
                value(object.member("error"), &group.error);
                object.end();
            });
        }
        if !self.not_modified.is_empty() {
            value(object.member("notModified"), &self.not_modified);
        }
        if !self.updated.is_empty() {
            write_list(object.member("updated"), &self.updated, |out, updated| {
                let mut object = Object::begin(out);
                value(object.member("index"), &updated.index);
                value(object.member("rev"), &updated.rev);
                if !updated.lists.is_empty() {
                    let instances = object.member("instances");
                    write_list(instances, &updated.lists, PiecesWriter::share);
                }
                object.end();
            });
        }
        object.end();
    }
}

/// A JSON object that is being written.
struct Object<'a> {
    out: &'a mut PiecesWriter,
    is_first: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut PiecesWriter) -> Self {
        out.extend(b"{");
        Self { out, is_first: true }
    }

    /// The place for the value of one more member. Its name needs no escape.
    fn member(&mut self, name: &str) -> &mut PiecesWriter {
        if !std::mem::take(&mut self.is_first) {
            self.out.extend(b",");
        }
        self.out.extend(b"\"");
        self.out.extend(name.as_bytes());
        self.out.extend(b"\":");
        self.out
    }

    fn end(self) {
        self.out.extend(b"}");
    }
}

fn write_list<T>(out: &mut PiecesWriter, items: &[T], write: impl Fn(&mut PiecesWriter, &T)) {
    out.extend(b"[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.extend(b",");
        }
        write(out, item);
    }
    out.extend(b"]");
}

fn value<T: serde::Serialize>(out: &mut PiecesWriter, value: &T) {
    serde_json::to_writer(out, value).expect("plain values always serialise");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(ids: &[&str]) -> FindBody {
        let instances: Vec<_> =
            ids.iter().map(|id| Instance { instance_id: (*id).to_owned(), ..Instance::default() }).collect();
        FindBody::of(instances.iter())
    }

    fn refusal(code: &'static str, detail: &'static str) -> Outcome {
        Outcome::Failed(Refusal { code, message: "m \"x\"", detail: detail.into() })
    }

    #[test]
    fn every_element_has_its_outcome_in_one_list() {
        let mut reply = BatchReply::default();
        assert!(reply.is_unchanged());
        let [first, second] = [body(&["a", "b"]), body(&["c"])];
        let outcomes = [
            Outcome::found("", "r0".into(), [&first, &second].into_iter()),
            Outcome::found("r1", "r1".into(), [&first].into_iter()),
            refusal("400012", "no \\"),
            Outcome::found("r", "r3".into(), std::iter::empty()),
            refusal("400001", "bad"),
            refusal("400012", "another"),
        ];
        for (index, outcome) in outcomes.into_iter().enumerate() {
            reply.add(List::Services, index, outcome).expect("fits");
        }
        reply.add(List::Instances, 0, Outcome::found_one("r", "r".into(), "{}")).expect("fits");
        reply.add(List::Instances, 1, Outcome::found_one("", "r".into(), r#"{"a":1}"#)).expect("fits");
        assert!(!reply.is_unchanged());
        let instances = |body: &FindBody| {
            let all: Value = serde_json::from_slice(body.plain()).expect("JSON");
            all["instances"].as_array().expect("a list").clone()
        };
        let of_both = [instances(&first), instances(&second)].concat();
        let error = |code, detail| json!({"errorCode": code, "errorMessage": "m \"x\"", "detail": detail});
        let right = json!({
            "services": {
                "failed": [
                    {"indexes": [2, 5], "error": error("400012", "no \\")},
                    {"indexes": [4], "error": error("400001", "bad")},
                ],
                "notModified": [1],
                "updated": [
                    {"index": 0, "rev": "r0", "instances": of_both},
                    {"index": 3, "rev": "r3"},
                ],
            },
            "instances": {"notModified": [0], "updated": [{"index": 1, "rev": "r", "instances": [{"a": 1}]}]},
        });
        assert_eq!(serde_json::from_slice::<Value>(&reply.body().joined()).expect("JSON"), right);
        assert_eq!(BatchReply::default().body().joined(), "{}");
    }

    #[test]
    fn a_reply_has_a_bound() {
        let mut reply = BatchReply::default();
        let half = Outcome::Updated { rev: "r".into(), lists: vec![vec![b'1'; REPLY_BYTES / 2].into()] };
        for index in 0..2 {
            assert_eq!(reply.add(List::Services, index, half.clone()), Ok(()));
        }
        let byte = Outcome::found_one("", "r".into(), "1");
        assert_eq!(reply.add(List::Instances, 0, Outcome::NotModified), Ok(()));
        assert_eq!(reply.add(List::Instances, 1, byte), Err(TooLarge));
    }

    #[test]
    fn a_body_is_read_as_a_control_plane_reads_it() {
        let read = |body: &str| Batch::read(body.as_bytes());
        let twice = read(r#"{"services":[],"services":[{"service":{"serviceName":"a"},"rev":null}],"x":1}"#);
        let twice = twice.expect("a batch");
        assert_eq!(twice.services[0].service.as_ref().expect("a key").service_name, "a");
        assert!(twice.services[0].rev.is_empty() && twice.instances.is_empty());
        for bad in ["", "[]", "1", r#"{"services":{}}"#, r#"{"services":[1]}"#] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
