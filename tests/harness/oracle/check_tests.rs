use std::collections::HashMap;

use super::*;
use crate::oracle::Pulled;

/// A ledger whose key 0 is the one instance of these tests, with the stamps 1 to 9 given out.
fn ledger() -> Ledger {
    let ledger = Ledger::default();
    ledger.key("s", "i");
    (0..9).for_each(|_| _ = ledger.stamp());
    ledger
}

/// Commits with the revisions 1, 2, …; a 0 is a delete.
fn commits(stamps: &[u64]) -> Commits {
    let at = Instant::now();
    let mut all = Vec::new();
    for (rev, stamp) in (1..).zip(stamps) {
        all.push(Commit { rev, stamp: (*stamp > 0).then_some(*stamp), at });
    }
    HashMap::from([(0, all)])
}

fn told(stamps: &[(ChangeKind, u64)]) -> Segment {
    // After the stamps were given, whichever is made first in a test.
    let at = Instant::now() + Duration::from_secs(1);
    let mut sights = Vec::new();
    for (told, stamp) in stamps {
        sights.push(Sight { key: 0, kind: *told, stamp: *stamp, rev: None, at });
    }
    Segment { sights, ..Segment::default() }
}

fn judge(commits: &Commits, segments: &[Segment], holes: Holes) -> Findings {
    let terms = Terms { from: 0, holes, whole: true, over: Instant::now(), passing: HashSet::new() };
    check(&ledger(), commits, segments, &terms)
}

use ChangeKind::{Create, Delete, Update};

#[test]
fn the_whole_story_is_clean() {
    let story = told(&[(Create, 1), (Update, 2), (Delete, 2), (Create, 3)]);
    let found = judge(&commits(&[1, 2, 0, 3]), &[story], Holes::Lost);
    assert!(found.is_clean(), "{found:?}");
    assert_eq!((found.due, found.delivered), (4, 4));
}

/// The findings on one connection that received this story, when every hole is a loss.
fn findings(truth: &Commits, story: &[(ChangeKind, u64)]) -> Findings {
    judge(truth, &[told(story)], Holes::Lost)
}

#[test]
fn every_kind_of_untruth_is_found() {
    let truth = commits(&[1, 2, 0, 3]);
    assert_eq!(findings(&truth, &[(Create, 1), (Update, 2), (Delete, 2)]).lost, 1, "the end");
    assert_eq!(findings(&truth, &[(Create, 1), (Delete, 2), (Create, 3)]).lost, 1, "the middle");
    assert_eq!(findings(&truth, &[(Update, 2), (Delete, 2), (Create, 3)]).lost, 1, "the beginning");
    assert_eq!(findings(&truth, &[]).lost, 4, "all");
    assert_eq!(
        findings(&truth, &[(Create, 1), (Create, 1), (Update, 2), (Delete, 2), (Create, 3)]).repeated,
        1
    );
    assert_eq!(
        findings(&truth, &[(Create, 1), (Update, 2), (Delete, 2), (Create, 1), (Create, 3)]).reordered,
        1
    );
    assert_eq!(
        findings(&truth, &[(Create, 1), (Update, 9), (Update, 2), (Delete, 2), (Create, 3)]).invented,
        1
    );
    assert_eq!(
        findings(&truth, &[(Create, 1), (Update, 2), (Delete, 1), (Create, 3)]).invented,
        1,
        "a delete of another state"
    );
}

/// The findings on one connection that received this story, when changes may be merged.
fn merged(truth: &[u64], story: &[(ChangeKind, u64)]) -> Findings {
    judge(&commits(truth), &[told(story)], Holes::Merged)
}

#[test]
fn where_changes_may_be_merged_only_the_final_state_counts() {
    let found = merged(&[1, 2, 0, 3], &[(Create, 1), (Update, 3)]);
    assert!(found.is_clean() && found.merged == 2, "{found:?}");
    assert!(
        merged(&[1, 2, 0], &[(Create, 1), (Delete, 1)]).is_clean(),
        "a delete of the state that was known"
    );
    assert!(merged(&[1, 0], &[]).is_clean(), "never known, and gone");
    assert_eq!(merged(&[1, 2], &[(Create, 1)]).lost, 1, "the final state is due");
    assert_eq!(merged(&[1, 0], &[(Create, 1)]).lost, 1, "a delete is due");
    assert_eq!(merged(&[1, 2], &[(Update, 2), (Update, 2)]).repeated, 1);
}

/// A connection of an old client that pulled this state, in which the instance has the stamp or is absent.
fn pulled(stamp: Option<u64>, sights: &[(ChangeKind, u64)]) -> Segment {
    let instances = stamp.map(|stamp| (0, stamp)).into_iter().collect();
    Segment { pulled: Some(Pulled { instances, at: Instant::now() }), ..told(sights) }
}

#[test]
fn a_reconnected_client_knows_what_it_pulled_and_no_more() {
    let truth = commits(&[1, 2, 0, 3]);
    let of = |second: Segment| judge(&truth, &[told(&[(Create, 1)]), second], Holes::Lost);
    assert!(of(pulled(Some(3), &[])).is_clean());
    assert!(of(pulled(Some(2), &[(Delete, 2), (Create, 3)])).is_clean());
    assert!(
        of(pulled(Some(3), &[(Update, 2), (Delete, 2), (Create, 3)])).is_clean(),
        "told again, from the start"
    );
    assert_eq!(of(pulled(None, &[])).lost, 1, "what came after the delete");
    assert_eq!(of(pulled(Some(2), &[(Create, 3)])).lost, 1, "between the pull and the first event");
    assert_eq!(of(told(&[(Delete, 2), (Create, 3)])).lost, 1, "without a pull");
}

#[test]
fn instances_before_the_watcher_need_not_be_told() {
    let terms =
        Terms { from: 2, holes: Holes::Lost, whole: true, over: Instant::now(), passing: HashSet::new() };
    let found = check(&ledger(), &commits(&[1, 2, 3]), &[told(&[(Update, 3)])], &terms);
    assert!(found.is_clean(), "{found:?}");
    assert_eq!((found.due, found.delivered), (1, 1));
}

/// A resumable connection: each frame with the revision it tells of, then what else was said.
fn resumed(from: Option<u64>, sights: &[(ChangeKind, u64, u64)], marks: &[(usize, Mark)]) -> Segment {
    let plain: Vec<_> = sights.iter().map(|(told, stamp, _)| (*told, *stamp)).collect();
    let mut segment = told(&plain);
    segment.sights.iter_mut().zip(sights).for_each(|(sight, (.., rev))| sight.rev = Some(*rev));
    Segment { resumed: from, marks: marks.to_vec(), ..segment }
}

fn state(rev: u64, stamp: Option<u64>) -> Mark {
    let instances = stamp.map(|stamp| (0, stamp)).into_iter().collect();
    Mark::State(State { service: "s".to_owned(), instances, rev })
}

#[test]
fn a_resumed_watch_repeats_only_unconfirmed_events() {
    let truth = commits(&[1, 2, 3]);
    let first = resumed(None, &[(Create, 1, 1), (Update, 2, 2)], &[]);
    let of = |second: Segment| judge(&truth, &[first.clone(), second], Holes::Lost);
    assert!(of(resumed(Some(1), &[(Update, 2, 2), (Update, 3, 3)], &[])).is_clean());
    assert!(of(resumed(Some(2), &[(Update, 3, 3)], &[])).is_clean());
    assert_eq!(of(resumed(Some(2), &[(Update, 2, 2), (Update, 3, 3)], &[])).repeated, 1);
    assert_eq!(of(resumed(Some(2), &[], &[])).lost, 1);
    assert_eq!(
        of(resumed(Some(1), &[(Update, 3, 2)], &[])).invented,
        2,
        "another revision, before its commit"
    );
}

#[test]
fn a_bookmark_and_a_state_are_taken_at_their_word() {
    let truth = commits(&[1, 2, 0, 3]);
    let of = |sights: &[_], marks: &[_]| judge(&truth, &[resumed(None, sights, marks)], Holes::Lost);
    let all = [(Create, 1, 1), (Update, 2, 2), (Delete, 2, 3), (Create, 3, 4)];
    assert!(of(&all, &[(2, Mark::Bookmark(2)), (4, Mark::Bookmark(9))]).is_clean());
    assert_eq!(of(&all, &[(1, Mark::Bookmark(2))]).claimed, 1);
    let found = of(&all[3..], &[(0, state(3, None))]);
    assert!(found.is_clean() && found.merged == 3 && found.resets == 1, "{found:?}");
    assert!(of(&all[3..], &[(0, state(2, None))]).is_clean(), "soon after");
    assert_eq!(of(&all[3..], &[(0, state(4, None))]).invented, 1, "it was there");
    assert_eq!(of(&all, &[(4, state(1, Some(1)))]).reordered, 1, "an older state");
    assert_eq!(of(&[], &[(0, state(3, None))]).lost, 1);
}

#[test]
fn a_delete_of_a_later_state_tells_of_everything_up_to_there() {
    let truth = commits(&[1, 0, 2, 0]);
    let of = |delete: u64, holes| {
        let sights = [(Create, 1, 1), (Delete, 1, delete)];
        let mut found = judge(&truth, &[resumed(None, &sights, &[(2, Mark::Bookmark(3))])], holes);
        found.words.clear();
        found
    };
    let found = of(4, Holes::Merged);
    assert!(found.is_clean() && found.merged == 2, "{found:?}");
    assert_eq!(of(2, Holes::Merged).claimed, 1, "it is there again at the bookmark");
    assert_eq!(of(3, Holes::Merged).claimed, 1, "it is there at that revision");
    assert!(!of(4, Holes::Lost).is_clean(), "where every change comes alone");
}

fn void(rev: u64) -> Mark {
    Mark::State(State { service: String::new(), instances: HashMap::new(), rev })
}

#[test]
fn after_a_reset_instances_without_a_state_are_gone() {
    let of = |truth: &[u64], marks: &[(usize, Mark)]| {
        judge(&commits(truth), &[resumed(None, &[(Create, 1, 1)], marks)], Holes::Lost)
    };
    assert!(of(&[1, 2], &[(1, void(2)), (1, state(2, Some(2))), (1, Mark::Bookmark(2))]).is_clean());
    assert!(of(&[1, 0], &[(1, void(2)), (1, Mark::Bookmark(2))]).is_clean(), "gone by then");
    assert!(
        of(&[1, 2, 0], &[(1, void(1)), (1, Mark::Bookmark(3))]).is_clean(),
        "gone soon after: the states are later"
    );
    assert!(
        !of(&[1, 2], &[(1, void(2)), (1, Mark::Bookmark(2))]).is_clean(),
        "it is there, and no state says so"
    );
    assert!(!of(&[1], &[(1, void(1))]).is_clean(), "known, but not any more");
}

/// The findings on one connection, for an instance of a provider that comes and goes as a whole.
fn passing(truth: &[u64], story: &[(ChangeKind, u64)]) -> Findings {
    let passing = HashSet::from([0]);
    let terms = Terms { from: 0, holes: Holes::Lost, whole: true, over: Instant::now(), passing };
    check(&ledger(), &commits(truth), &[told(story)], &terms)
}

#[test]
fn whole_lives_may_be_passed_over_but_no_part_of_one() {
    assert!(passing(&[1, 0, 2, 0, 3, 0], &[(Create, 1), (Delete, 1), (Create, 3), (Delete, 3)]).is_clean());
    assert!(passing(&[1, 0, 2, 0], &[(Create, 1), (Delete, 1)]).is_clean());
    assert_eq!(passing(&[1, 2, 0], &[(Update, 2), (Delete, 2)]).lost, 1, "the beginning of a life");
    assert_eq!(passing(&[1, 0, 2], &[(Create, 1), (Update, 2)]).lost, 1, "the end of one");
    assert_eq!(passing(&[1, 0], &[(Create, 1)]).lost, 1, "it is gone");
}

#[test]
fn a_reset_without_a_provider_ends_what_was_known_of_it() {
    let passing = HashSet::from([0]);
    let terms = Terms { from: 0, holes: Holes::Lost, whole: true, over: Instant::now(), passing };
    let of = |truth: &[u64], second: Segment| {
        let first = resumed(Some(0), &[(Create, 1, 1), (Delete, 1, 2), (Create, 2, 3)], &[]);
        check(&ledger(), &commits(truth), &[first, second], &terms)
    };
    // Registered again after the state, as the watcher knew from elsewhere, and gone before it was told anew.
    let silent = resumed(Some(1), &[], &[(0, void(2)), (0, Mark::Bookmark(4))]);
    let found = of(&[1, 0, 2, 0], silent.clone());
    assert!(found.is_clean(), "{found:?}");
    assert_eq!(of(&[1, 0, 2], silent).claimed, 1, "it is there, and the watcher dropped it");
    let told = resumed(Some(1), &[(Create, 2, 3)], &[(0, void(2)), (1, Mark::Bookmark(4))]);
    assert_eq!(of(&[1, 0, 2, 0], told).claimed, 1, "the end of a life that was told again");
}

#[test]
fn a_service_that_was_gone_when_a_watch_began_has_no_state() {
    let first = resumed(Some(0), &[(Create, 1, 1)], &[]);
    let of = |truth: &[u64], since, sights: &[_], claim: &[u64]| {
        let claims: Vec<_> = claim.iter().map(|rev| (0, Mark::Bookmark(*rev))).collect();
        judge(&commits(truth), &[first.clone(), resumed(Some(since), sights, &claims)], Holes::Lives)
    };
    let life = [(Create, 2, 3), (Delete, 2, 4)];
    for claim in [&[][..], &[1], &[2]] {
        let found = of(&[1, 0, 2, 0], 0, &life, claim);
        assert!(found.is_clean(), "{claim:?}: {found:?}");
    }
    assert_eq!(of(&[1, 0, 2, 0], 1, &life, &[]).lost, 1, "a watch that goes on is told of the end");
    assert_eq!(of(&[1, 0, 2, 3], 0, &[(Update, 3, 4)], &[]).lost, 2, "it was there, and in no state");
    assert_eq!(of(&[1, 2], 0, &[], &[1]).claimed, 0, "nothing is claimed about the change");
    assert_eq!(of(&[1, 2], 0, &[], &[2]).claimed, 1, "it is there, and in no state");
}

#[test]
fn a_state_may_be_of_any_time_at_which_it_was_so() {
    let truth = commits(&[1, 0, 2, 0, 3]);
    let first = resumed(Some(0), &[(Create, 1, 1), (Delete, 1, 2), (Create, 2, 3), (Delete, 2, 4)], &[]);
    let of = |first: Segment, sights: &[_]| {
        judge(&truth, &[first, resumed(Some(0), sights, &[(0, state(2, None))])], Holes::Lost)
    };
    let rest = [(Create, 2, 3), (Delete, 2, 4), (Create, 3, 5)];
    assert!(of(first.clone(), &rest[2..]).is_clean(), "as after the second end");
    assert!(of(first.clone(), &rest).is_clean(), "as after the first");
    let earlier = Segment { sights: first.sights[..2].to_vec(), ..first };
    assert_eq!(of(earlier, &rest[2..]).lost, 2, "what was never told is missing");
}

/// The findings on one connection of a watcher with a changing interest.
fn changing(story: &[(ChangeKind, u64)]) -> Findings {
    let terms =
        Terms { from: 0, holes: Holes::Lost, whole: false, over: Instant::now(), passing: HashSet::new() };
    check(&ledger(), &commits(&[1, 0, 2, 0]), &[told(story)], &terms)
}

#[test]
fn a_changing_interest_hides_and_shows_what_is_there() {
    let hidden_and_shown = [(Create, 1), (Delete, 1), (Create, 1), (Delete, 1), (Create, 2)];
    assert!(changing(&hidden_and_shown).is_clean(), "{:?}", changing(&hidden_and_shown));
    assert!(changing(&[(Delete, 1), (Delete, 2), (Create, 2), (Delete, 2)]).is_clean(), "not told before");
    assert!(changing(&[(Create, 1), (Delete, 1), (Delete, 1)]).is_clean(), "hidden, and then gone");
    assert!(changing(&[]).is_clean());
    assert_eq!(changing(&[(Create, 1), (Create, 1)]).repeated, 1);
    assert_eq!(changing(&[(Create, 2), (Create, 1)]).reordered, 1);
    assert_eq!(changing(&[(Create, 2), (Delete, 1)]).reordered, 1);
    assert_eq!(changing(&[(Delete, 1), (Create, 3)]).invented, 1);
    assert_eq!(
        findings(&commits(&[1, 0, 2, 0]), &hidden_and_shown).reordered,
        1,
        "an interest that stays hides nothing"
    );
}

#[test]
fn a_watch_from_the_beginning_is_silent_about_what_has_gone() {
    let first = resumed(Some(0), &[(Create, 1, 1)], &[]);
    let second = resumed(Some(0), &[], &[(0, Mark::Bookmark(2))]);
    let gone = judge(&commits(&[1, 0]), &[first.clone(), second.clone()], Holes::Merged);
    assert!(gone.is_clean(), "{gone:?}");
    let there = judge(&commits(&[1, 2]), &[first.clone(), second], Holes::Merged);
    assert_eq!(there.claimed, 1, "{there:?}");
    // One that goes on must be told.
    let third = resumed(Some(1), &[], &[(0, Mark::Bookmark(2))]);
    assert_eq!(judge(&commits(&[1, 0]), &[first, third], Holes::Lost).claimed, 1);
}
