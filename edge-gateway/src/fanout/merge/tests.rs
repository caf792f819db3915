use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::event::Position;
use shared::model::Instance;

use super::*;

/// A push that confirms this revision.
fn push(rev: u64, confirmed: u64, action: Action, (topic, id): Id) -> Arc<Push> {
    let instance = Arc::new(Instance { instance_id: id.to_string(), ..Instance::default() });
    let at = Position::first_of(Revision::new(rev));
    let push = Push::difference(topic, at, action, Arc::default(), instance);
    push.set_resume_point(Revision::new(confirmed));
    Arc::new(push)
}

pub(in crate::fanout) type Id = (u32, u8);

/// A step of a history. An instance is created when it is not there, else changed or deleted.
#[derive(Clone, Debug)]
pub(in crate::fanout) enum Step {
    Change {
        id: Id,
        delete: bool,
    },
    /// A bookmark confirms everything so far.
    Confirm,
    /// The watcher takes so many pushes or chunks.
    Read(usize),
}

pub(in crate::fanout) fn history() -> impl Strategy<Value = Vec<Step>> {
    let change = ((0..2_u32, 0..3_u8), any::<bool>()).prop_map(|(id, delete)| Step::Change { id, delete });
    let read = (1..4_usize).prop_map(Step::Read);
    prop::collection::vec(prop_oneof![6 => change, 1 => Just(Step::Confirm), 1 => read], 0..80)
}

/// All changes of the instances: whether each was there from a revision on.
#[derive(Default)]
pub(in crate::fanout) struct Truth(BTreeMap<Id, BTreeMap<u64, bool>>);

impl Truth {
    pub(in crate::fanout) fn change(&mut self, id: Id, delete: bool, rev: u64) -> Action {
        let action = match (self.is_there(id, rev), delete) {
            (false, _) => Action::Create,
            (true, true) => Action::Delete,
            (true, false) => Action::Update,
        };
        self.0.entry(id).or_default().insert(rev, action != Action::Delete);
        action
    }

    fn is_there(&self, id: Id, rev: u64) -> bool {
        self.0.get(&id).and_then(|of| of.range(..=rev).next_back()).is_some_and(|(_, there)| *there)
    }

    fn last_change(&self, id: Id, rev: u64) -> u64 {
        self.0.get(&id).and_then(|of| of.range(..=rev).next_back()).map_or(0, |(rev, _)| *rev)
    }
}

/// The knowledge of a watcher: of each instance, the revision of the change that it received last.
#[derive(Default)]
pub(in crate::fanout) struct Watcher {
    known: BTreeMap<Id, u64>,
    last: u64,
}

impl Watcher {
    pub(in crate::fanout) fn receive(&mut self, truth: &Truth, rev: u64, action: Action, id: Id) {
        assert!(rev > self.last, "in order");
        self.last = rev;
        let before = truth.is_there(id, self.known(id));
        match action {
            Action::Create => assert!(!before, "{id:?} is created once"),
            Action::Update => assert!(before, "{id:?} is updated only when it is there"),
            Action::Delete => assert!(before, "{id:?} is deleted only when it is there"),
        }
        self.known.insert(id, rev);
    }

    /// Asserts that everything up to `rev` has been received, or was a whole life of which nothing comes any more.
    pub(in crate::fanout) fn lacks_nothing(&self, truth: &Truth, rev: u64) {
        for id in truth.0.keys() {
            let known = self.known(*id);
            let due = truth.last_change(*id, rev);
            let is_passed_over = !truth.is_there(*id, known) && !truth.is_there(*id, due);
            assert!(known >= due || is_passed_over, "{id:?}: {rev} is confirmed, and {known} of {due} known");
        }
    }

    fn known(&self, id: Id) -> u64 {
        self.known.get(&id).copied().unwrap_or(0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn merged_pushes_lead_to_the_same_state_and_confirm_no_change_that_is_missing(
        start in prop::collection::btree_set((0..2_u32, 0..3_u8), 0..4),
        history in history(),
    ) {
        let mut truth = Truth::default();
        for id in start {
            truth.0.entry(id).or_default().insert(0, true);
        }
        let (mut watcher, mut merged) = (Watcher::default(), Merged::default());
        let mut confirmed = 0;
        for (step, rev) in history.into_iter().chain([Step::Confirm, Step::Read(usize::MAX)]).zip(1_u64..) {
            match step {
                Step::Change { id, delete } => {
                    let action = truth.change(id, delete, rev);
                    merged.add(&push(rev, confirmed, action, id));
                    prop_assert!(merged.len() <= 6, "bounded by distinct instances");
                }
                Step::Confirm => confirmed = rev,
                Step::Read(most) => {
                    let limit = merged.limit();
                    for _ in 0..most {
                        let Some((push, action, since)) = merged.pop(limit) else { break };
                        let id = (push.topic, push.instance.instance_id.parse().expect("a number"));
                        watcher.receive(&truth, push.at.rev.get(), action, id);
                        watcher.lacks_nothing(&truth, since.get());
                    }
                    if merged.is_settled(Revision::new(confirmed)) {
                        watcher.lacks_nothing(&truth, confirmed);
                    }
                }
            }
        }
        prop_assert_eq!(merged.len(), 0);
        prop_assert!(merged.places.is_empty() && merged.lives.is_empty());
        watcher.lacks_nothing(&truth, u64::MAX);
    }
}

/// The revisions that the pending pushes confirm.
fn confirmed(merged: &mut Merged) -> Vec<u64> {
    let limit = merged.limit();
    std::iter::from_fn(|| merged.pop(limit)).map(|(_, _, confirmed)| confirmed.get()).collect()
}

#[test]
fn a_push_that_was_not_merged_confirms_what_it_would_alone() {
    let mut merged = Merged::default();
    for (rev, confirmed) in [(5, 4), (6, 4), (7, 0)] {
        merged.add(&push(rev, confirmed, Action::Create, (0, rev as u8)));
    }
    assert_eq!(confirmed(&mut merged), [4, 4, 0]);
}

#[test]
fn no_push_confirms_the_first_of_merged_changes_before_it() {
    let mut merged = Merged::default();
    merged.add(&push(5, 4, Action::Create, (0, 0)));
    merged.add(&push(6, 5, Action::Create, (0, 1)));
    merged.add(&push(7, 6, Action::Update, (0, 0)));
    assert_eq!(confirmed(&mut merged), [4, 4]);
}

#[test]
fn lives_of_providers_that_are_told_in_disorder_are_covered_whole() {
    let mut merged = Merged::default();
    for (topic, first, last) in [(0, 10, 20), (1, 12, 14), (2, 3, 4), (3, 6, 9), (4, 2, 5)] {
        merged.add(&push(first, 1, Action::Create, (topic, 0)));
        merged.add(&push(last, 1, Action::Delete, (topic, 0)));
    }
    let lives: Vec<_> = merged.lives.iter().map(|life| (life.first.get(), life.last.get())).collect();
    assert_eq!(lives, [(2, 5), (6, 9), (10, 20)]);
    merged.add(&push(30, 13, Action::Update, (5, 0)));
    assert_eq!(confirmed(&mut merged), [9]);
}

#[test]
fn lives_that_were_not_told_take_bounded_memory_and_are_forgotten_once_confirmed() {
    let mut merged = Merged::default();
    let lives = 2 * MOST_LIVES as u64;
    for n in 0..lives {
        merged.add(&push(3 * n + 1, 0, Action::Create, (n as u32, 0)));
        merged.add(&push(3 * n + 2, 0, Action::Delete, (n as u32, 0)));
    }
    assert_eq!((merged.len(), merged.lives.len()), (0, MOST_LIVES));
    let (first, last) = (3 * lives - 2, 3 * lives - 1);
    assert!(!merged.is_settled(Revision::new(first)));
    merged.add(&push(5_000, first, Action::Create, (0, 1)));
    assert_eq!(confirmed(&mut merged), [first - 1], "it is within the last life");
    assert_eq!(merged.lives.len(), 1);
    merged.add(&push(5_001, last, Action::Update, (0, 1)));
    assert_eq!(confirmed(&mut merged), [last]);
    assert!(merged.is_settled(Revision::ZERO));
}

#[test]
fn a_watcher_that_is_never_quite_caught_up_is_sent_bookmarks_up_to_the_first_life() {
    let mut merged = Merged::default();
    let mut told = Vec::new();
    // At each bookmark, an instance has come and gone whose end the bookmark does not cover yet.
    for turn in 1..5 {
        merged.add(&push(10 * turn + 5, 0, Action::Create, (0, turn as u8)));
        merged.add(&push(10 * turn + 12, 0, Action::Delete, (0, turn as u8)));
        let covered = Revision::new(10 * turn + 8);
        assert!(!merged.is_settled(covered));
        told.extend(merged.bookmark(covered).map(Revision::get));
        assert_eq!(merged.bookmark(covered), None, "nothing is told twice");
    }
    assert_eq!(told, [14, 24, 34, 44]);
}

#[test]
fn a_bookmark_of_a_group_that_is_behind_confirms_no_middle_of_a_life() {
    let mut merged = Merged::new(Revision::new(33));
    merged.add(&push(260, 0, Action::Create, (0, 0)));
    merged.add(&push(282, 0, Action::Delete, (0, 0)));
    merged.add(&push(290, 0, Action::Create, (0, 1)));
    assert_eq!(confirmed(&mut merged), [0], "a push of a group that is behind confirms nothing");
    assert_eq!(merged.bookmark(Revision::new(271)), Some(Revision::new(259)));
    assert!(merged.is_settled(Revision::new(282)));
}
