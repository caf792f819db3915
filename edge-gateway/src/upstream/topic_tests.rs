//! A random history of one provider, told badly, against a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::model::{ServiceRef, Tenant};

use super::*;

/// The truth: every change so far, and the instances after each.
struct Truth {
    events: Vec<InstanceEvent>,
    states: Vec<BTreeMap<String, Revision>>,
}

fn instance(id: &str, rev: Revision) -> Arc<Instance> {
    let (instance_id, host_name) = (id.to_owned(), rev.to_string());
    Arc::new(Instance { instance_id, host_name, ..Instance::default() })
}

impl Truth {
    fn of(changes: &[(u8, bool)]) -> Self {
        let mut it = Self { events: Vec::new(), states: vec![BTreeMap::new()] };
        let mut prev = Position::default();
        for (index, (id, delete)) in changes.iter().enumerate() {
            let (id, rev) = (id.to_string(), index as u64 + 10);
            let mut state = it.states[index].clone();
            let action = match (state.contains_key(&id), delete) {
                (false, _) => Action::Create,
                (true, false) => Action::Update,
                (true, true) => Action::Delete,
            };
            match action {
                Action::Delete => state.remove(&id),
                Action::Create | Action::Update => state.insert(id.clone(), rev),
            };
            let at = Position::first_of(rev);
            let event = InstanceEvent {
                provider: ServiceRef::new(Tenant::default(), "p"),
                at,
                prev,
                action,
                key: Arc::default(),
                instance: instance(&id, rev),
                mod_rev: rev,
                committed_at: 0,
                via: shared::event::Via::default(),
            };
            prev = at;
            it.events.push(event);
            it.states.push(state);
        }
        it
    }

    /// What a replica that has seen `upto` changes answers; with few recent events it only has the state.
    fn replayed(&self, since: Position, upto: usize, history: usize, snapshot: bool) -> Replayed {
        let known_from = upto.saturating_sub(history);
        let after = self.events[..upto].partition_point(|event| event.at <= since);
        let continuous = after >= known_from;
        let state = self.states[upto].iter().map(|(id, rev)| (instance(id, *rev), *rev)).collect();
        Replayed {
            key: Some(Arc::default()),
            continuous,
            events: if continuous { self.events[after.min(upto)..upto].to_vec() } else { Vec::new() },
            snapshot: (snapshot || !continuous).then_some(state),
            at: upto.checked_sub(1).map_or(Position::default(), |last| self.events[last].at),
        }
    }
}

/// What a watcher knows who applies what it is told, and minds what cannot be.
#[derive(Default)]
struct Watcher {
    known: BTreeMap<String, Revision>,
    last: Position,
}

impl Watcher {
    fn hear(&mut self, pushes: &[Arc<Push>]) -> Result<(), TestCaseError> {
        for push in pushes {
            let id = push.instance.instance_id.clone();
            let rev: Revision = push.instance.host_name.parse().expect("a revision");
            prop_assert!(push.at >= self.last, "in order: {:?} after {:?}", push.at, self.last);
            self.last = push.at;
            match push.action {
                Action::Create => prop_assert!(self.known.insert(id, rev).is_none(), "created once"),
                Action::Update => {
                    let before = self.known.insert(id, rev);
                    prop_assert!(before.is_none_or(|before| before < rev), "never back");
                }
                Action::Delete => prop_assert!(self.known.remove(&id).is_some(), "only what is there goes"),
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The bus delivers this change (of those that have happened), again or late or early.
    Deliver(usize),
    /// A replica that is so many changes behind answers.
    Answer { behind: usize, snapshot: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..40_usize).prop_map(Step::Deliver),
        1 => (0..4_usize, any::<bool>()).prop_map(|(behind, snapshot)| Step::Answer { behind, snapshot }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever the bus loses, repeats or mixes up: a watcher never sees an impossible step, and after one good
    /// answer it knows the truth.
    #[test]
    fn a_badly_told_history_ends_in_the_truth(
        changes in prop::collection::vec((0..4_u8, prop::bool::weighted(0.3)), 1..40),
        loaded_at in 0..40_usize, history in 0..30_usize, steps in steps(),
    ) {
        let truth = Truth::of(&changes);
        let loaded_at = loaded_at.min(changes.len());
        let first = truth.replayed(Position::default(), loaded_at, usize::MAX, true);
        let (mut topic, mut out) = (Topic::load(1, Position::default(), first, &mut Vec::new()), Vec::new());
        let mut watcher = Watcher { known: truth.states[loaded_at].clone(), last: Position::default() };
        for step in steps {
            match step {
                Step::Deliver(index) => {
                    topic.on_event(truth.events[index % truth.events.len()].clone(), &mut out);
                }
                Step::Answer { behind, snapshot } => {
                    let upto = truth.events.len().saturating_sub(behind);
                    topic.on_replayed(truth.replayed(topic.at(), upto, history, snapshot), &mut out);
                }
            }
            watcher.hear(&std::mem::take(&mut out))?;
            let expected = topic.instances().map(|(it, rev)| digest_of(&it.instance_id, rev));
            prop_assert_eq!(topic.digest(), expected.fold(0, u64::wrapping_add));
        }
        let last = truth.replayed(topic.at(), truth.events.len(), history, true);
        let again = topic.on_replayed(last, &mut out);
        watcher.hear(&out)?;
        prop_assert!(!again.needed);
        prop_assert_eq!(&watcher.known, truth.states.last().expect("one"));
    }

    /// A chain without holes is passed on as it is: nothing lost, merged or renamed.
    #[test]
    fn a_well_told_history_is_passed_on_unchanged(
        changes in prop::collection::vec((0..4_u8, prop::bool::weighted(0.3)), 1..40), twice in any::<bool>(),
    ) {
        let truth = Truth::of(&changes);
        let mut topic = Topic::load(1, Position::default(), Replayed { continuous: true, ..Replayed::default() }, &mut Vec::new());
        let mut out = Vec::new();
        for event in &truth.events {
            prop_assert_eq!(topic.on_event(event.clone(), &mut out), Fate::Applied);
            if twice {
                prop_assert_eq!(topic.on_event(event.clone(), &mut out), Fate::Duplicate);
            }
        }
        let told: Vec<_> = out.iter().map(|push| (push.at, push.action)).collect();
        prop_assert_eq!(told, truth.events.iter().map(|event| (event.at, event.action)).collect::<Vec<_>>());
        let half = truth.events[truth.events.len() / 2].at;
        let later = topic.since(half).map(|later| later.iter().map(|push| push.at).collect::<Vec<_>>());
        let expected = truth.events.iter().map(|event| event.at).filter(|at| *at > half).collect::<Vec<_>>();
        prop_assert_eq!(later, Some(expected));
    }
}

#[test]
fn what_happened_since_the_interest_is_told_at_the_beginning() {
    let truth = Truth::of(&[(1, false), (2, false), (1, true), (3, false)]);
    let since = truth.events[1].at;
    let mut out = Vec::new();
    Topic::load(1, since, truth.replayed(since, 4, 10, true), &mut out);
    let told: Vec<_> = out.iter().map(|push| (push.instance.instance_id.as_str(), push.action)).collect();
    assert_eq!(told, [("1", Action::Delete), ("3", Action::Create)]);

    // Without the events: what is newer, as updates.
    let mut out = Vec::new();
    Topic::load(1, since, truth.replayed(since, 4, 0, true), &mut out);
    let told: Vec<_> = out.iter().map(|push| (push.instance.instance_id.as_str(), push.action)).collect();
    assert_eq!(told, [("3", Action::Update)]);
}

#[test]
fn a_flood_behind_a_hole_is_bounded_and_asked_for() {
    let changes: Vec<_> = (0..HELD + 50).map(|_| (1_u8, false)).collect();
    let truth = Truth::of(&changes);
    let first = truth.replayed(Position::default(), 1, usize::MAX, true);
    let mut topic = Topic::load(1, Position::default(), first, &mut Vec::new());
    let mut out = Vec::new();
    for event in &truth.events[2..] {
        assert_eq!(topic.on_event(event.clone(), &mut out), Fate::Gap);
    }
    assert_eq!(topic.held.len(), HELD);
    assert!(topic.on_replayed(truth.replayed(topic.at(), 10, 1000, false), &mut out).needed);
    assert!(!topic.on_replayed(truth.replayed(topic.at(), changes.len(), 1000, false), &mut out).needed);
    assert_eq!(topic.at(), truth.events.last().expect("many").at);
}
