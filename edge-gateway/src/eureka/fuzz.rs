//! The fuzz target of Eureka's requests: a line with method and path, then a body.

use std::str::from_utf8;

use serde_json::Value;
use shared::model::ServiceKey;

use super::json::Detail;
use super::model::{ActionType, Info};
use super::{Asked, is_eureka, is_renewal, json, record, xml};

/// A registration that is read becomes an instance, and its clients are told what was registered.
///
/// # Panics
/// When something is lost on the way, or an answer cannot be read.
pub fn registrations(input: &[u8]) {
    let split = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (head, body) = input.split_at(split);
    request(head);
    let Ok(info) = json::read(body.get(1..).unwrap_or_default()) else { return };
    let key = ServiceKey {
        app_id: "default".into(),
        service_name: record::service_name(&info),
        version: record::service_version(&info),
        ..ServiceKey::default()
    };
    let instance = record::to_instance(&info, info.status);
    assert!(!instance.instance_id.is_empty() && instance.instance_id.len() <= 64, "{instance:?}");
    assert!(instance.health_check.as_ref().is_some_and(|check| check.interval > 0 && check.times >= 0));
    let told = record::to_info(&key, &instance);
    shown(&told);
    // The registry refuses other names, and an id must be given.
    if info.instance_id.is_empty() || !info.app.is_ascii() {
        return;
    }
    assert_eq!(record::record_of(&instance).map(|own| own.instance_id), Some(info.instance_id.clone()));
    let mut expected = info;
    expected.metadata.remove(record::RECORD);
    assert_eq!(comparable(&told), comparable(&expected));
}

fn request(head: &[u8]) {
    let Ok(head) = from_utf8(head) else { return };
    let (method, path) = head.split_once(' ').unwrap_or(("GET", head));
    let Ok(method) = method.parse::<http::Method>() else { return };
    let asked = Asked::read(&method, path);
    assert!(asked.is_none() || is_eureka(path), "{path}");
    if is_renewal(&method, path) {
        assert!(asked.is_some(), "{path}");
    }
}

/// Everything but what the registry decides.
fn comparable(info: &Info) -> Info {
    let mut info = info.clone();
    (info.registered, info.last_updated, info.last_dirty) = (0, 0, 0);
    // The registry has no word for it, and shows such an instance as one that is up.
    info.status = super::Status::default();
    info
}

/// Both languages can tell it, and JSON is read again as the same.
fn shown(info: &Info) {
    for detail in [Detail::Full, Detail::Compact] {
        let body = json::instance(info, ActionType::Added, detail);
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(value["instance"]["app"].as_str().unwrap_or_default(), info.app);
        let text = xml::instance(info, ActionType::Added, detail);
        let text = from_utf8(&text).expect("text");
        let is_allowed = |c: char| !c.is_control() || ('\u{7f}'..='\u{9f}').contains(&c);
        assert!(text.chars().all(is_allowed), "{text:?}");
        assert_eq!(text.matches('<').count(), text.matches('>').count(), "{text}");
        if detail == Detail::Full {
            let again = json::read(&body).expect("what is told can be registered");
            assert_eq!(again.instance_id, info.instance_id);
            assert_eq!(again.metadata, without_class(info));
            assert_eq!((again.port, again.secure_port), (info.port, info.secure_port));
        }
    }
}

fn without_class(info: &Info) -> std::collections::BTreeMap<String, String> {
    let mut metadata = info.metadata.clone();
    metadata.remove("@class");
    metadata
}
