//! What operators are told went wrong: one alarm per kind, activated until it is over.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

/// What may go wrong; the names are the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum AlarmId {
    /// The store does not answer. Over when it does.
    BackendConnectionRefuse,
    /// A request was answered with a status of 500 or more. Over when an operator says so.
    InternalError,
}

#[derive(Clone, Debug)]
struct Alarm {
    active: bool,
    detail: Cow<'static, str>,
}

/// The alarms of this replica. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Alarms(Arc<Mutex<BTreeMap<AlarmId, Alarm>>>);

impl Alarms {
    /// Activates an alarm, or changes what it says.
    pub fn raise(&self, id: AlarmId, detail: impl Into<Cow<'static, str>>) {
        self.0.lock().insert(id, Alarm { active: true, detail: detail.into() });
    }

    /// Marks an alarm as over, if it was raised.
    pub fn clear(&self, id: AlarmId) {
        if let Some(alarm) = self.0.lock().get_mut(&id) {
            alarm.active = false;
        }
    }

    /// Forgets all alarms.
    pub fn forget(&self) {
        self.0.lock().clear();
    }

    /// The alarms as the old server shows them.
    pub fn list(&self) -> Vec<Value> {
        let alarms = self.0.lock();
        let shown = alarms.iter().map(|(id, alarm)| {
            let status = if alarm.active { "ACTIVATED" } else { "CLEARED" };
            json!({ "status": status, "id": id, "fields": { "detail": alarm.detail } })
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_active_until_it_is_over_and_there_until_it_is_forgotten() {
        let alarms = Alarms::default();
        alarms.clear(AlarmId::BackendConnectionRefuse);
        assert!(alarms.list().is_empty());
        alarms.raise(AlarmId::BackendConnectionRefuse, "no answer");
        assert_eq!(
            alarms.list(),
            [
                json!({"status": "ACTIVATED", "id": "BackendConnectionRefuse", "fields": {"detail": "no answer"}})
            ]
        );
        alarms.clear(AlarmId::BackendConnectionRefuse);
        assert_eq!(alarms.list()[0]["status"], "CLEARED");
        alarms.forget();
        assert!(alarms.list().is_empty());
    }
}
