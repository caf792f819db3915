//! The JSON texts of watches over WebSocket.
//!
//! Old clients get `action`, `key` and `instance`, byte for byte as Service-Center writes them. Clients that
//! asked to resume get revisions too, and two kinds of texts more: `BOOKMARK` and `RESET`.

use access::Denial;
use serde::{Deserialize, Serialize};
use shared::event::Action;
use shared::model::{Instance, Revision, ServiceKey};

#[derive(Serialize)]
struct Event<'a> {
    action: Action,
    key: &'a ServiceKey,
    /// Always present, also for a delete: Go clients read it without looking whether it is there.
    instance: &'a Instance,
    // Left out for old clients, whose text stays byte for byte Service-Center's.
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Revision>,
}

#[derive(Serialize)]
struct Bookmark {
    action: &'static str,
    rev: Revision,
}

#[derive(Serialize)]
struct Reset<'a> {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a ServiceKey>,
    instances: [&'a Instance; 0],
    rev: Revision,
    since: Revision,
}

/// A client's message that brings a new token for the watch. It has no `Debug`, so that no log line shows it.
#[derive(Deserialize)]
pub(crate) struct Renewal {
    /// The token.
    pub(crate) token: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Renewed<'a> {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

/// The answer to a new token: the second since 1970 at which it ends, or the refusal. The end is unknown
/// while access control is off.
pub(crate) fn renewed(result: &Result<Option<u64>, Denial>) -> Vec<u8> {
    let denial = result.as_ref().err();
    text(&Renewed {
        action: "TOKEN",
        expires_at: result.as_ref().ok().copied().flatten(),
        error_code: denial.map(|denial| denial.code.number()),
        error_message: denial.map(|denial| denial.code.message()),
        detail: denial.map(|denial| &*denial.detail).unwrap_or_default(),
    })
}

/// An event for old clients.
pub(crate) fn plain_event(action: Action, key: &ServiceKey, instance: &Instance) -> Vec<u8> {
    text(&Event { action, key, instance, rev: None, since: None })
}

/// An event for clients that can resume: with its revision, and with the revision to resume from unless that
/// is `rev` itself.
pub(crate) fn resumable_event(
    action: Action,
    key: &ServiceKey,
    instance: &Instance,
    rev: Revision,
    since: Option<Revision>,
) -> Vec<u8> {
    text(&Event { action, key, instance, rev: Some(rev), since })
}

/// A bookmark: the client has everything up to `rev`.
pub(crate) fn bookmark(rev: Revision) -> Vec<u8> {
    text(&Bookmark { action: "BOOKMARK", rev })
}

/// The complete state of a provider at `rev` without instances; of all other providers the client has everything up to
/// `since`. Without a `key` the client has to forget every provider.
pub(crate) fn reset(key: Option<&ServiceKey>, rev: Revision, since: Revision) -> Vec<u8> {
    text(&Reset { action: "RESET", key, instances: [], rev, since })
}

/// The same, before its instances and after them. A comma stands between two of these.
pub(crate) fn reset_ends(key: &ServiceKey, rev: Revision, since: Revision) -> (Vec<u8>, Vec<u8>) {
    let mut head = reset(Some(key), rev, since);
    // Only numbers follow the empty list.
    let end = head.iter().rposition(|byte| *byte == b']').unwrap_or(head.len());
    let tail = head.split_off(end);
    (head, tail)
}

/// Appends an instance.
pub(crate) fn put_instance(instance: &Instance, out: &mut Vec<u8>) {
    serde_json::to_writer(out, instance).expect("plain fields always serialise, and memory takes every byte");
}

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with text keys and plain fields always serialise")
}

#[cfg(test)]
mod tests {
    use shared::model::DataCenter;

    use super::*;

    #[test]
    fn an_event_for_an_old_client_has_exactly_the_old_fields() {
        let key = ServiceKey {
            tenant: "default/default".into(),
            app_id: "shop".into(),
            service_name: "order".into(),
            version: "1.0.0".into(),
            ..ServiceKey::default()
        };
        let instance = Instance {
            instance_id: "b0ff".into(),
            service_id: "7062".into(),
            endpoints: vec!["rest://10.0.0.7:8080".into()],
            status: "UP".into(),
            properties: [("tag".to_owned(), "1".to_owned())].into(),
            data_center_info: Some(DataCenter { name: "dc".into(), ..Default::default() }),
            ..Instance::default()
        };
        assert_eq!(
            String::from_utf8(plain_event(Action::Delete, &key, &instance)).expect("utf-8"),
            concat!(
                r#"{"action":"DELETE","key":{"tenant":"default/default","appId":"shop","serviceName":"order","version":"1.0.0"},"#,
                r#""instance":{"instanceId":"b0ff","serviceId":"7062","endpoints":["rest://10.0.0.7:8080"],"status":"UP","#,
                r#""properties":{"tag":"1"},"dataCenterInfo":{"name":"dc"}}}"#
            )
        );
    }
}
