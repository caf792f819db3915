//! A random history of one provider, delivered badly, against a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::event::Via;

use super::held::MOST_HELD;
use super::*;
use crate::testing::{first_of, service};

/// Every change so far, and the instances after each.
struct Truth {
    events: Vec<InstanceEvent>,
    states: Vec<BTreeMap<String, Revision>>,
}

fn instance(id: &str, written_at: Revision) -> Arc<Instance> {
    let instance_id = id.to_owned();
    let host_name = written_at.to_string();
    Arc::new(Instance { instance_id, host_name, ..Instance::default() })
}

impl Truth {
    fn of(changes: &[(u8, bool)]) -> Self {
        let mut truth = Self { events: Vec::new(), states: vec![BTreeMap::new()] };
        let mut prev = Position::default();
        for (index, (id, delete)) in changes.iter().enumerate() {
            let id = id.to_string();
            let at = first_of(index as u64 + 10);
            let mut state = truth.states[index].clone();
            let action = match (state.contains_key(&id), delete) {
                (false, _) => Action::Create,
                (true, false) => Action::Update,
                (true, true) => Action::Delete,
            };
            match action {
                Action::Delete => state.remove(&id),
                Action::Create | Action::Update => state.insert(id.clone(), at.rev),
            };
            truth.events.push(InstanceEvent {
                provider: service("p"),
                at,
                prev,
                action,
                key: Arc::default(),
                instance: instance(&id, at.rev),
                mod_rev: at.rev,
                committed_at: 0,
                via: Via::default(),
            });
            prev = at;
            truth.states.push(state);
        }
        truth
    }

    /// The replay of a replica that has seen `upto` changes and remembers the last `history` of them.
    fn replay(&self, since: Position, upto: usize, history: usize, snapshot: bool) -> TopicReplay {
        let known_from = upto.saturating_sub(history);
        let after = self.events[..upto].partition_point(|event| event.at <= since);
        let continuous = after >= known_from;
        let state = self.states[upto].iter().map(|(id, rev)| (instance(id, *rev), *rev)).collect();
        TopicReplay {
            key: Some(Arc::default()),
            continuous,
            events: if continuous { self.events[after.min(upto)..upto].to_vec() } else { Vec::new() },
            snapshot: (snapshot || !continuous).then_some(state),
            at: upto.checked_sub(1).map_or(Position::default(), |last| self.events[last].at),
            shortened: false,
        }
    }
}

/// A client that applies what it receives, and objects to impossible steps.
#[derive(Default)]
struct Watcher {
    instances: BTreeMap<String, Revision>,
    last: Position,
}

impl Watcher {
    fn receive(&mut self, pushes: &[Arc<Push>]) -> Result<(), TestCaseError> {
        for push in pushes {
            let id = push.instance.instance_id.clone();
            let written_at: Revision = push.instance.host_name.parse().expect("a revision");
            prop_assert!(push.at >= self.last, "order: {:?} came after {:?}", push.at, self.last);
            self.last = push.at;
            match push.action {
                Action::Create => {
                    let before = self.instances.insert(id, written_at);
                    prop_assert!(before.is_none(), "an instance is created once");
                }
                Action::Update => {
                    let before = self.instances.insert(id, written_at);
                    prop_assert!(
                        before.is_none_or(|before| before < written_at),
                        "an update never goes back"
                    );
                }
                Action::Delete => {
                    prop_assert!(self.instances.remove(&id).is_some(), "only a present instance is deleted");
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The bus delivers this change, perhaps again, late or early.
    Deliver(usize),
    /// A replica replies that is this number of changes behind.
    Reply { behind: usize, snapshot: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..40_usize).prop_map(Step::Deliver),
        1 => (0..4_usize, any::<bool>()).prop_map(|(behind, snapshot)| Step::Reply { behind, snapshot }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever the bus loses, repeats or reorders, a watcher never sees an impossible step. After one good
    /// reply it knows the truth.
    #[test]
    fn a_badly_delivered_history_ends_in_the_truth(
        changes in prop::collection::vec((0..4_u8, prop::bool::weighted(0.3)), 1..40),
        loaded_at in 0..40_usize, history in 0..30_usize, steps in steps(),
    ) {
        let truth = Truth::of(&changes);
        let loaded_at = loaded_at.min(changes.len());
        let first = truth.replay(Position::default(), loaded_at, usize::MAX, true);
        let mut topic = Topic::load(1, Position::default(), first, &mut Vec::new());
        let mut out = Vec::new();
        let mut watcher =
            Watcher { instances: truth.states[loaded_at].clone(), last: Position::default() };
        for step in steps {
            match step {
                Step::Deliver(index) => {
                    topic.on_event(truth.events[index % truth.events.len()].clone(), &mut out);
                }
                Step::Reply { behind, snapshot } => {
                    let upto = truth.events.len().saturating_sub(behind);
                    topic.on_replay(truth.replay(topic.at(), upto, history, snapshot), &mut out);
                }
            }
            watcher.receive(&std::mem::take(&mut out))?;
            let digests =
                topic.instances().map(|(instance, rev)| digest_of(&instance.instance_id, rev));
            prop_assert_eq!(topic.digest(), digests.fold(0, u64::wrapping_add));
        }
        let last = truth.replay(topic.at(), truth.events.len(), history, true);
        let outcome = topic.on_replay(last, &mut out);
        watcher.receive(&out)?;
        prop_assert!(!outcome.repeat);
        prop_assert_eq!(&watcher.instances, truth.states.last().expect("there is a first state"));
    }

    /// A history without gaps is passed on as it is: nothing is lost, merged or renamed.
    #[test]
    fn a_complete_history_is_passed_on_unchanged(
        changes in prop::collection::vec((0..4_u8, prop::bool::weighted(0.3)), 1..40), twice in any::<bool>(),
    ) {
        let truth = Truth::of(&changes);
        let nothing = TopicReplay { continuous: true, ..TopicReplay::default() };
        let mut topic = Topic::load(1, Position::default(), nothing, &mut Vec::new());
        let mut out = Vec::new();
        for event in &truth.events {
            prop_assert_eq!(topic.on_event(event.clone(), &mut out), Fate::Applied);
            if twice {
                prop_assert_eq!(topic.on_event(event.clone(), &mut out), Fate::Duplicate);
            }
        }
        let pushed: Vec<_> = out.iter().map(|push| (push.at, push.action)).collect();
        let expected: Vec<_> = truth.events.iter().map(|event| (event.at, event.action)).collect();
        prop_assert_eq!(pushed, expected);
        let half = truth.events[truth.events.len() / 2].at;
        let later = topic.since(half).map(|later| later.iter().map(|push| push.at).collect::<Vec<_>>());
        let expected = truth.events.iter().map(|event| event.at).filter(|at| *at > half).collect::<Vec<_>>();
        prop_assert_eq!(later, Some(expected));
    }
}

#[test]
fn loading_delivers_what_happened_since_the_interest() {
    let truth = Truth::of(&[(1, false), (2, false), (1, true), (3, false)]);
    let since = truth.events[1].at;
    let mut out = Vec::new();
    Topic::load(1, since, truth.replay(since, 4, 10, true), &mut out);
    let pushed: Vec<_> = out.iter().map(|push| (push.instance.instance_id.as_str(), push.action)).collect();
    assert_eq!(pushed, [("1", Action::Delete), ("3", Action::Create)]);

    // Without the events, only the instances that were written since are known. They go out as updates.
    let mut out = Vec::new();
    Topic::load(1, since, truth.replay(since, 4, 0, true), &mut out);
    let pushed: Vec<_> = out.iter().map(|push| (push.instance.instance_id.as_str(), push.action)).collect();
    assert_eq!(pushed, [("3", Action::Update)]);
}

#[test]
fn a_flood_behind_a_gap_is_bounded_and_requested_later() {
    let changes: Vec<_> = (0..MOST_HELD + 50).map(|_| (1_u8, false)).collect();
    let truth = Truth::of(&changes);
    let first = truth.replay(Position::default(), 1, usize::MAX, true);
    let mut topic = Topic::load(1, Position::default(), first, &mut Vec::new());
    let mut out = Vec::new();
    for event in &truth.events[2..] {
        assert_eq!(topic.on_event(event.clone(), &mut out), Fate::Gap);
    }
    assert_eq!(topic.held.len(), MOST_HELD);
    assert!(topic.on_replay(truth.replay(topic.at(), 10, 1000, false), &mut out).repeat);
    assert!(!topic.on_replay(truth.replay(topic.at(), changes.len(), 1000, false), &mut out).repeat);
    assert_eq!(topic.at(), truth.events.last().expect("there are many").at);
}
