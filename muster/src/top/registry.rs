//! The services as a resumable watch tells of them: instances by status, and changes. Pure.
//!
//! It counts as the console does: the state at the beginning is no change, and a state that is sent whole
//! counts its differences.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use shared::model::{Instance, Revision, ServiceKey};

use super::model::Moment;
use super::sheet::{Column, Listed, Value};
use crate::client::follow::WatchFrame;

/// Seconds over which changes per second are counted.
const RATE_SECONDS: u64 = 10;
/// Seconds of one bar of a service's history.
const BAR_SECONDS: u64 = 5;
/// Bars of a service's history: one minute.
const BARS: u64 = 12;

/// Time for which a service that has lost its last instance stays in the table.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// A service with its instances.
#[derive(Debug, Default)]
pub(super) struct Service {
    key: ServiceKey,
    /// Status and digest of each instance, by id.
    instances: HashMap<String, (String, u64)>,
    /// Changes, by the number of their bar since the start.
    bars: VecDeque<(u64, u32)>,
    changed: Option<Moment>,
    /// Its state is not among those that were sent since the last beginning.
    is_stale: bool,
}

/// Everything that the watch has told.
#[derive(Debug, Default)]
pub(super) struct Registry {
    services: BTreeMap<[String; 4], Service>,
    /// Instances by status.
    pub(super) by_status: BTreeMap<String, usize>,
    /// The highest revision in any message.
    pub(super) revision: u64,
    /// The highest confirmed revision.
    pub(super) confirmed: u64,
    is_loaded: bool,
    /// Changes, by second since the start.
    seconds: VecDeque<(u64, u64)>,
}

impl Registry {
    /// The services by name.
    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The number of services that have an instance.
    pub(super) fn count(&self) -> usize {
        self.services.values().filter(|service| !service.instances.is_empty()).count()
    }

    /// Changes of instances per second, over the last ten.
    pub(super) fn changes_per_second(&self, now: Moment) -> f64 {
        let now = now.running.as_secs();
        let recent = self.seconds.iter().filter(|(second, _)| second + RATE_SECONDS > now);
        let counted: u64 = recent.map(|(_, count)| count).sum();
        counted as f64 / RATE_SECONDS as f64
    }

    /// Takes a frame.
    pub(super) fn apply(&mut self, frame: &WatchFrame, now: Moment) {
        let rev = frame.rev.map_or(0, Revision::get);
        match frame.action.as_str() {
            "BOOKMARK" => self.bookmark(rev, now),
            "RESET" => self.reset(frame, rev, now),
            "CREATE" | "UPDATE" | "DELETE" => self.event(frame, rev, now),
            _ => {}
        }
    }

    fn bookmark(&mut self, rev: u64, now: Moment) {
        self.revision = self.revision.max(rev);
        self.confirmed = self.confirmed.max(rev);
        let stale: Vec<_> = self
            .services
            .iter()
            .filter(|(_, service)| service.is_stale)
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            // Its state was not among those that were sent, so it has none.
            self.replace(&name, &[], self.is_loaded.then_some(now));
        }
        self.is_loaded = true;
        self.forget_empty(now);
    }

    fn reset(&mut self, frame: &WatchFrame, rev: u64, now: Moment) {
        if frame.key.service_name.is_empty() || (self.confirmed > 0 && rev < self.confirmed) {
            // Everything is sent anew, or the store was set back to a backup. What is known stays readable.
            self.services.values_mut().for_each(|service| service.is_stale = true);
            self.confirmed = 0;
            self.revision = rev;
        }
        if frame.key.service_name.is_empty() {
            return;
        }
        self.revision = self.revision.max(rev);
        let name = self.service(&frame.key);
        let at = self.is_loaded.then_some(now);
        self.replace(&name, &frame.instances, at);
    }

    fn event(&mut self, frame: &WatchFrame, rev: u64, now: Moment) {
        let Some(instance) = &frame.instance else { return };
        self.revision = self.revision.max(rev);
        self.confirmed = self.confirmed.max(frame.since.map_or(rev, Revision::get));
        let name = self.service(&frame.key);
        match frame.action.as_str() {
            "DELETE" => self.remove(&name, &instance.instance_id, Some(now)),
            _ => self.put(&name, instance, Some(now)),
        }
    }

    fn service(&mut self, key: &ServiceKey) -> [String; 4] {
        let name =
            [&key.app_id, &key.service_name, &key.version, &key.environment].map(|part| part.to_owned());
        self.services
            .entry(name.clone())
            .or_insert_with(|| Service { key: key.clone(), ..Service::default() });
        name
    }

    /// Takes all instances of a service.
    fn replace(&mut self, name: &[String; 4], instances: &[Instance], at: Option<Moment>) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.is_stale = false;
        let known: HashMap<String, u64> =
            service.instances.iter().map(|(id, (_, digest))| (id.clone(), *digest)).collect();
        let kept: HashSet<&str> = instances.iter().map(|instance| instance.instance_id.as_str()).collect();
        for id in known.keys() {
            if !kept.contains(id.as_str()) {
                self.remove(name, id, at);
            }
        }
        for instance in instances {
            if known.get(&instance.instance_id) != Some(&digest(instance)) {
                self.put(name, instance, at);
            }
        }
    }

    fn put(&mut self, name: &[String; 4], instance: &Instance, at: Option<Moment>) {
        let Some(service) = self.services.get_mut(name) else { return };
        let state = (instance.status.clone(), digest(instance));
        if let Some((status, _)) = service.instances.insert(instance.instance_id.clone(), state) {
            uncount(&mut self.by_status, &status);
        }
        *self.by_status.entry(instance.status.clone()).or_default() += 1;
        self.note(name, at);
    }

    fn remove(&mut self, name: &[String; 4], id: &str, at: Option<Moment>) {
        let Some(service) = self.services.get_mut(name) else { return };
        if let Some((status, _)) = service.instances.remove(id) {
            uncount(&mut self.by_status, &status);
            self.note(name, at);
        }
    }

    /// Counts a change. The state at the beginning is none.
    fn note(&mut self, name: &[String; 4], at: Option<Moment>) {
        let Some(at) = at else { return };
        let second = at.running.as_secs();
        count_at(&mut self.seconds, second, RATE_SECONDS as usize + 1);
        if let Some(service) = self.services.get_mut(name) {
            service.changed = Some(at);
            count_at(&mut service.bars, second / BAR_SECONDS, BARS as usize);
        }
    }

    /// The watch does not tell when a service is deleted, so one without instances would stay for ever.
    fn forget_empty(&mut self, now: Moment) {
        let is_recent = |changed: Moment| now.running.saturating_sub(changed.running) < FORGOTTEN_AFTER;
        self.services
            .retain(|_, service| !service.instances.is_empty() || service.changed.is_some_and(is_recent));
    }
}

impl Service {
    fn up(&self) -> usize {
        // A status that is absent counts as UP.
        self.instances.values().filter(|(status, _)| status == "UP" || status.is_empty()).count()
    }

    /// Changes in the last minute.
    fn changes(&self, now: Moment) -> u32 {
        let first = first_bar(now);
        self.bars.iter().filter(|(bar, _)| *bar >= first).map(|(_, count)| count).sum()
    }

    /// Changes in each bar of the last minute, the oldest first.
    fn trend(&self, now: Moment) -> Vec<Option<f64>> {
        let last = now.running.as_secs() / BAR_SECONDS;
        let first = first_bar(now);
        let count = |bar| self.bars.iter().find(|(at, _)| *at == bar).map_or(0, |(_, count)| *count);
        (first..=last).map(|bar| Some(f64::from(count(bar)))).collect()
    }

    /// Name and application, for people.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.key.app_id, self.key.service_name)
    }

    /// Everything about it in one line.
    pub(super) fn detail(&self, now: Moment) -> String {
        let mut statuses: BTreeMap<&str, usize> = BTreeMap::new();
        for (status, _) in self.instances.values() {
            *statuses.entry(status).or_default() += 1;
        }
        let statuses: Vec<_> = statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
        let mut parts = vec![format!("{} {}", self.name(), self.key.version)];
        if !self.key.environment.is_empty() {
            parts.push(self.key.environment.clone());
        }
        parts.push(if statuses.is_empty() { "no instance".to_owned() } else { statuses.join(", ") });
        if let Some(changed) = self.changed {
            parts.push(format!("changed {} ago", now.age_of(changed)));
        }
        parts.join(" · ")
    }
}

impl Listed for Service {
    fn words(&self) -> String {
        format!("{} {} {}", self.name(), self.key.version, self.key.environment)
    }
}

/// The columns of the services.
pub(super) const COLUMNS: [Column<Service>; 8] = [
    Column { name: "SERVICE", width: 28, rank: 0, value: |service, _| Value::text(&service.name()) },
    Column { name: "VERSION", width: 9, rank: 0, value: |service, _| Value::text(&service.key.version) },
    Column { name: "ENV", width: 11, rank: 3, value: |service, _| Value::text(&service.key.environment) },
    Column { name: "UP", width: 6, rank: 0, value: |service, _| Value::Number(Some(service.up() as f64), 0) },
    Column {
        name: "INSTANCES",
        width: 9,
        rank: 0,
        value: |service, _| Value::Number(Some(service.instances.len() as f64), 0),
    },
    Column {
        name: "CHANGES/MIN",
        width: 11,
        rank: 0,
        value: |service, now| Value::Number(Some(f64::from(service.changes(now))), 0),
    },
    Column { name: "CHANGES", width: 10, rank: 1, value: |service, now| Value::Trend(service.trend(now)) },
    Column {
        name: "LAST",
        width: 8,
        rank: 2,
        value: |service, now| {
            Value::text(&service.changed.map_or_else(|| "-".to_owned(), |at| now.age_of(at)))
        },
    },
];
/// The column that the services are sorted by at first: the most changed ones come first.
pub(super) const MOST_CHANGED: usize = 5;

/// The first bar of the last minute.
fn first_bar(now: Moment) -> u64 {
    (now.running.as_secs() / BAR_SECONDS + 1).saturating_sub(BARS)
}

fn uncount(counts: &mut BTreeMap<String, usize>, status: &str) {
    if let Some(count) = counts.get_mut(status) {
        *count -= 1;
        if *count == 0 {
            counts.remove(status);
        }
    }
}

/// Adds one at a place that is the last one or after it.
fn count_at<N: From<u8> + std::ops::AddAssign>(counts: &mut VecDeque<(u64, N)>, at: u64, kept: usize) {
    match counts.back_mut() {
        Some((last, count)) if *last == at => *count += N::from(1),
        _ => {
            if counts.len() >= kept {
                counts.pop_front();
            }
            counts.push_back((at, N::from(1)));
        }
    }
}

/// Tells two states of an instance apart.
fn digest(instance: &Instance) -> u64 {
    let mut hasher = DefaultHasher::new();
    // An instance always has a text; if it had none, all such would be equal.
    serde_json::to_string(instance).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { running: Duration::from_secs(seconds), unix: seconds }
    }

    fn apply(registry: &mut Registry, seconds: u64, frame: &str) {
        registry.apply(&serde_json::from_str(frame).expect("is a frame"), at(seconds));
    }

    fn event(action: &str, id: &str, status: &str, rev: u64) -> String {
        format!(
            r#"{{"action":"{action}","key":{{"appId":"shop","serviceName":"order","version":"1"}},"rev":{rev},
                "instance":{{"instanceId":"{id}","status":"{status}"}}}}"#
        )
    }

    const STATE: &str = r#"{"action":"RESET","key":{"appId":"shop","serviceName":"order","version":"1"},"rev":5,
        "instances":[{"instanceId":"a","status":"UP"},{"instanceId":"b","status":"DOWN"}]}"#;

    #[test]
    fn the_state_at_the_beginning_is_no_change() {
        let mut registry = Registry::default();
        apply(&mut registry, 1, STATE);
        apply(&mut registry, 1, r#"{"action":"BOOKMARK","rev":7}"#);
        assert_eq!((registry.count(), registry.revision, registry.confirmed), (1, 7, 7));
        assert!(registry.changes_per_second(at(1)).abs() < 1e-9);
        apply(&mut registry, 20, &event("UPDATE", "b", "UP", 8));
        apply(&mut registry, 20, &event("DELETE", "a", "UP", 9));
        assert_eq!(registry.by_status, BTreeMap::from([("UP".to_owned(), 1)]));
        assert!((registry.changes_per_second(at(21)) - 0.2).abs() < 1e-9);
        assert!(registry.changes_per_second(at(40)).abs() < 1e-9, "ten seconds later there are none");
        let service = registry.services().next().expect("is there");
        assert_eq!((service.up(), service.trend(at(24)).iter().flatten().sum::<f64>()), (1, 2.0));
        assert_eq!((service.changes(at(24)), service.changes(at(200))), (2, 0));
        assert_eq!(service.trend(at(200)).iter().flatten().sum::<f64>(), 0.0);
    }

    #[test]
    fn a_state_sent_again_counts_only_its_differences() {
        let mut registry = Registry::default();
        apply(&mut registry, 1, STATE);
        apply(&mut registry, 1, r#"{"action":"BOOKMARK","rev":7}"#);
        apply(&mut registry, 2, &STATE.replace("\"rev\":5", "\"rev\":8"));
        assert!(registry.changes_per_second(at(2)).abs() < 1e-9);
        apply(&mut registry, 2, &STATE.replace("\"rev\":5", "\"rev\":9").replace("DOWN", "UP"));
        assert!((registry.changes_per_second(at(2)) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn things_that_a_full_reset_does_not_name_are_gone() {
        let mut registry = Registry::default();
        apply(&mut registry, 1, STATE);
        apply(&mut registry, 1, r#"{"action":"BOOKMARK","rev":7}"#);
        apply(&mut registry, 2, r#"{"action":"RESET","rev":3}"#);
        assert_eq!(registry.by_status.len(), 2, "it stays readable until the new state is there");
        apply(&mut registry, 2, r#"{"action":"BOOKMARK","rev":4}"#);
        assert!(registry.by_status.is_empty());
        assert_eq!((registry.revision, registry.confirmed), (4, 4));
    }
}
