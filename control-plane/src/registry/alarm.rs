//! Alarms of this replica: one for each kind of trouble, active until the trouble is over.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

/// A kind of trouble. The names are Service-Center's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum AlarmId {
    /// The store does not answer. Cleared by its next answer.
    BackendConnectionRefuse,
    /// A request was answered with a status of 500 or more. Cleared by an operator.
    InternalError,
}

#[derive(Clone, Debug)]
struct Alarm {
    active: bool,
    detail: Cow<'static, str>,
}

/// The alarms of this replica. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarms(Arc<Mutex<BTreeMap<AlarmId, Alarm>>>);

impl Alarms {
    /// Activates an alarm, or changes its detail.
    pub(crate) fn raise(&self, id: AlarmId, detail: impl Into<Cow<'static, str>>) {
        // The latest detail replaces the earlier one: there is one alarm of each kind, as in Service-Center.
        self.0.lock().insert(id, Alarm { active: true, detail: detail.into() });
    }

    /// Marks an alarm as over. It stays listed until it is forgotten.
    pub(crate) fn clear(&self, id: AlarmId) {
        if let Some(alarm) = self.0.lock().get_mut(&id) {
            alarm.active = false;
        }
    }

    /// Removes all alarms from the list.
    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }

    /// The alarms in the form in which Service-Center shows them.
    pub(crate) fn list(&self) -> Vec<Value> {
        let mut shown = Vec::new();
        for (id, alarm) in self.0.lock().iter() {
            let status = if alarm.active { "ACTIVATED" } else { "CLEARED" };
            shown.push(json!({ "status": status, "id": id, "fields": { "detail": alarm.detail } }));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stays_listed_after_it_is_over() {
        let alarms = Alarms::default();
        alarms.clear(AlarmId::BackendConnectionRefuse);
        assert!(alarms.list().is_empty(), "an alarm that was never raised is not listed");
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
