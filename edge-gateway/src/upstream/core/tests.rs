//! Who is told what, whichever of answer and change comes first.

use shared::event::{Action, InstanceEvent, Via};
use shared::model::{Instance, Tenant};

use super::*;
use crate::upstream::topic::Replayed;

fn service(id: &str) -> ServiceRef {
    ServiceRef::new(Tenant::default(), id)
}

fn interest(rev: Revision, providers: &[&str]) -> Interest {
    Interest { exists: true, rev, providers: providers.iter().map(|id| service(id)).collect() }
}

fn added(rev: Revision, provider: &str) -> InterestChange {
    InterestChange { at: Position::end_of(rev), added: vec![service(provider)], ..InterestChange::default() }
}

fn removed(rev: Revision, provider: &str) -> InterestChange {
    InterestChange {
        at: Position::end_of(rev),
        removed: vec![service(provider)],
        ..InterestChange::default()
    }
}

fn event(provider: &str, prev: Revision, rev: Revision) -> InstanceEvent {
    InstanceEvent {
        provider: service(provider),
        at: Position::first_of(rev),
        prev: Position::first_of(prev),
        action: Action::Create,
        key: Arc::default(),
        instance: Arc::new(Instance { instance_id: rev.to_string(), ..Instance::default() }),
        mod_rev: rev,
        committed_at: 1,
        via: Via::default(),
    }
}

/// A core, and what its sessions are told.
struct Told {
    core: Core,
    told: Vec<(GroupId, Revision)>,
    asked: Vec<Want>,
}

impl Told {
    fn new() -> Self {
        Self { core: Core::new(1), told: Vec::new(), asked: Vec::new() }
    }

    fn join(&mut self, consumer: &str) -> GroupId {
        let group = self.core.join(&Selector::Consumer(service(consumer))).0;
        self.settle();
        group
    }

    /// Does what is to be done; providers that are opened answer that nothing has happened up to `rev`.
    fn settle(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Append(push, groups) => {
                        self.told.extend(groups.into_iter().map(|group| (group, push.at.rev)));
                    }
                    Effect::OpenTopics(wants) => {
                        for want in wants {
                            let replayed =
                                Replayed { continuous: true, at: want.since, ..Replayed::default() };
                            // Perhaps nobody wants it any more.
                            self.core.on_loaded(&want.provider, want.since, replayed);
                        }
                    }
                    Effect::Replay(_, wants) => self.asked.extend(wants),
                    Effect::CatchUp(_, want) => self.asked.push(want),
                    Effect::OpenInterest(..)
                    | Effect::AskInterest(..)
                    | Effect::CloseInterest(_)
                    | Effect::CloseTopic(_)
                    | Effect::Opened(_)
                    | Effect::Refused(..)
                    | Effect::End(..) => {}
                }
            }
        }
    }

    fn hear(&mut self, event: InstanceEvent) {
        self.core.on_event(event);
        self.settle();
    }

    fn change(&mut self, group: GroupId, change: InterestChange) {
        self.core.on_interest_change(group, change);
        self.settle();
    }

    fn answer(&mut self, group: GroupId, answer: Interest) {
        self.core.on_interest(group, answer);
        self.settle();
    }
}

#[test]
fn a_change_that_overtakes_the_answer_is_not_lost_and_one_that_the_answer_knows_counts_once() {
    for answer_rev in [9, 10, 12] {
        let mut it = Told::new();
        let group = it.join("c");
        it.change(group, added(10, "p"));
        it.change(group, removed(11, "q"));
        let providers: &[&str] = match answer_rev {
            9 => &["q"],
            10 => &["p", "q"],
            _ => &["p"],
        };
        it.answer(group, interest(answer_rev, providers));
        it.hear(event("p", 0, 20));
        it.hear(event("q", 0, 21));
        assert_eq!(it.told, [(group, 20)], "answered at {answer_rev}");
    }
}

#[test]
fn what_is_committed_with_the_interest_is_told_and_what_was_before_is_not() {
    let mut it = Told::new();
    let (a, b) = (it.join("a"), it.join("b"));
    it.answer(a, interest(5, &["p"]));
    it.answer(b, interest(5, &[]));
    it.hear(event("p", 0, 9));
    it.hear(event("p", 9, 10));
    it.change(b, added(10, "p"));
    it.hear(event("p", 10, 11));
    it.told.sort_unstable();
    assert_eq!(it.told, [(a, 9), (a, 10), (a, 11), (b, 10), (b, 11)]);
}

#[test]
fn changes_that_a_new_publisher_repeats_change_nothing() {
    let mut it = Told::new();
    let (a, b) = (it.join("a"), it.join("b"));
    it.answer(a, interest(5, &["p"]));
    it.answer(b, interest(5, &[]));
    let changes = [added(10, "p"), removed(12, "p")];
    for change in changes.clone() {
        it.change(b, change);
    }
    it.hear(event("p", 0, 11));
    for change in changes {
        it.change(b, change);
    }
    it.hear(event("p", 11, 12));
    it.hear(event("p", 12, 13));
    it.told.sort_unstable();
    assert_eq!(it.told, [(a, 11), (a, 12), (a, 13), (b, 11), (b, 12)], "until the interest ended");
}

#[test]
fn a_hole_is_asked_for_once_and_what_follows_waits() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    it.hear(event("p", 7, 8));
    it.hear(event("p", 8, 9));
    assert_eq!((it.told.len(), it.asked.len()), (0, 1));
    let missed = Replayed {
        continuous: true,
        events: vec![event("p", 0, 7)],
        at: Position::first_of(7),
        ..Replayed::default()
    };
    it.core.on_replayed(&service("p"), it.asked[0].since, missed);
    it.settle();
    assert_eq!(it.told, [(group, 7), (group, 8), (group, 9)]);
}

#[test]
fn the_deletes_of_a_provider_that_is_gone_are_told_when_they_were_still_being_asked_for() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    // Deleted with its instances while something before that was missing.
    it.hear(event("p", 7, 8));
    it.change(group, removed(8, "p"));
    assert_eq!((it.told.len(), it.asked.len()), (0, 1));
    let missed = Replayed {
        continuous: true,
        events: vec![event("p", 0, 7)],
        at: Position::first_of(7),
        ..Replayed::default()
    };
    it.core.on_replayed(&service("p"), it.asked[0].since, missed);
    it.settle();
    assert_eq!(it.told, [(group, 7), (group, 8)]);
    for _ in 0..2 {
        it.core.on_bookmark(9, 8);
        it.settle();
        assert_eq!(it.core.topic_count(), 1, "more of it may have been missed when the watch began");
    }
    it.answer(group, interest(9, &[]));
    let nothing = Replayed { continuous: true, at: Position::end_of(9), ..Replayed::default() };
    it.core.on_replayed(&service("p"), Position::end_of(7), nothing);
    it.core.on_bookmark(9, 9);
    it.settle();
    assert_eq!(it.core.topic_count(), 0, "then it is left");
    assert_eq!(it.told.len(), 2);
}

#[test]
fn an_answer_for_an_earlier_topic_of_the_provider_is_not_mistaken_for_this_ones() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    let late = Replayed {
        continuous: true,
        events: vec![event("p", 60, 70)],
        at: Position::first_of(70),
        ..Replayed::default()
    };
    it.core.on_replayed(&service("p"), Position::first_of(60), late);
    it.settle();
    assert_eq!(it.told, [], "50 to 60 would be missing");
}

#[test]
fn an_empty_group_is_kept_for_a_while_and_then_forgotten_with_its_topics() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    let now = Instant::now();
    it.core.left(0, SessionsClosed { group, sessions: 1 }, now);
    it.core.forget_empty(now + LINGER / 2);
    assert_eq!((it.core.topic_count(), it.core.groups.len()), (1, 1));
    assert_eq!(it.join("c"), group, "who comes back finds everything in place");
    it.core.left(0, SessionsClosed { group, sessions: 1 }, now);
    it.core.forget_empty(now + LINGER);
    assert_eq!((it.core.topic_count(), it.core.groups.len()), (0, 0));
    assert_ne!(it.join("c"), group);
}

#[test]
fn a_bookmark_that_starts_after_the_last_one_shows_a_loss() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    assert!(!it.core.on_bookmark(10, 7), "the first one shows nothing");
    assert!(!it.core.on_bookmark(12, 10));
    assert!(!it.core.on_bookmark(13, 9), "a new publisher's, that begins earlier");
    assert!(it.core.on_bookmark(16, 15));
    it.settle();
    assert_eq!(it.asked.len(), 1);
    assert!(!it.core.is_settled());
}

#[test]
fn what_the_publisher_names_and_was_not_heard_is_asked_for_and_nothing_is_certain_meanwhile() {
    let mut it = Told::new();
    let group = it.join("c");
    it.core.on_interest(group, interest(10, &["p"]));
    it.settle();
    for _ in 0..=SETTLED_AFTER {
        it.core.on_bookmark(10, 10);
    }
    it.settle();
    assert_eq!(it.core.told(), 10);

    let at = |id: &str, rev| [(service(id), Position::first_of(rev))].into_iter();
    let none = || std::iter::empty();
    let tenants = || std::iter::empty();
    assert_eq!(it.core.on_reached(at("p", 10), at("c", 10), tenants()), 0, "is known");
    assert_eq!(it.core.on_reached(at("other", 12), at("other", 12), tenants()), 0, "concerns nobody here");
    assert_eq!(it.core.on_reached(at("p", 12), none(), tenants()), 1);
    it.core.on_bookmark(12, 10);
    it.settle();
    assert_eq!(it.asked.last().map(|want| want.provider.clone()), Some(service("p")));
    assert_eq!(it.core.told(), 10, "not before the answer");

    let replayed = Replayed { continuous: true, at: Position::end_of(12), ..Replayed::default() };
    it.core.on_replayed(&service("p"), Position::end_of(10), replayed);
    it.core.on_bookmark(12, 10);
    assert_eq!(it.core.told(), 12);

    assert_eq!(it.core.on_reached(none(), at("c", 13), tenants()), 1);
    it.core.on_bookmark(13, 12);
    assert_eq!(it.core.told(), 12);
    it.core.on_interest(group, interest(13, &["p"]));
    it.core.on_bookmark(13, 12);
    assert_eq!(it.core.told(), 13);
}

#[test]
fn a_publisher_that_listed_a_moment_ago_is_followed_whatever_else_is_being_opened() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    for rev in [6, 7] {
        it.core.on_bookmark(rev, rev - 1);
        it.settle();
    }
    let nothing = Replayed { continuous: true, at: Position::end_of(7), ..Replayed::default() };
    it.core.on_replayed(&service("p"), Position::end_of(5), nothing);
    it.settle();
    it.asked.clear();
    // Somebody else begins, of whom nothing is certain yet.
    let other = it.join("d");
    it.answer(other, interest(8, &["q"]));
    it.core.on_bookmark(20, 7);
    // What came last before its list, this publisher does not know; nothing came.
    it.hear(InstanceEvent { prev: Position::end_of(15), ..event("p", 0, 21) });
    assert_eq!((&it.told[..], it.asked.len()), (&[(group, 21)][..], 0));
    // Of the other one it is not certain.
    it.hear(InstanceEvent { prev: Position::end_of(15), ..event("q", 0, 22) });
    assert_eq!((it.told.len(), it.asked.len()), (1, 1));
    // A change that is named before this one has not come, whatever bookmarks say.
    it.core.on_bookmark(30, 20);
    it.hear(event("p", 28, 31));
    assert_eq!((it.told.len(), it.asked.len()), (1, 2));
}

#[test]
fn what_was_lost_is_asked_for_from_the_last_bookmark_of_which_nothing_was_missing() {
    let mut it = Told::new();
    let group = it.join("c");
    it.answer(group, interest(5, &["p"]));
    for rev in [6, 7] {
        it.core.on_bookmark(rev, rev - 1);
        it.settle();
    }
    let nothing = Replayed { continuous: true, at: Position::end_of(7), ..Replayed::default() };
    it.core.on_replayed(&service("p"), Position::end_of(5), nothing);
    it.core.on_bookmark(20, 7);
    it.settle();
    it.asked.clear();
    // A replica that listed at 15 has the whole of it.
    it.core.on_bookmark(30, 25);
    it.settle();
    assert_eq!(it.asked.len(), 1);
    assert_eq!(it.asked[0].since, Position::end_of(20));
    let missed = Replayed {
        continuous: true,
        events: vec![event("p", 0, 22), event("p", 22, 24)],
        at: Position::end_of(30),
        ..Replayed::default()
    };
    it.core.on_replayed(&service("p"), Position::end_of(20), missed);
    it.settle();
    assert_eq!(it.told, [(group, 22), (group, 24)]);
}

#[test]
fn who_joins_late_is_told_what_a_replica_knew_and_what_came_while_it_answered() {
    let mut it = Told::new();
    let (a, b) = (it.join("a"), it.join("b"));
    it.answer(a, interest(5, &["p"]));
    it.answer(b, interest(3, &["p"]));
    let want = it.asked.pop().expect("what was before the topic");
    assert_eq!(want.since, Position::end_of(3));
    it.hear(event("p", 4, 8));
    it.hear(event("p", 8, 9));
    let earlier = Replayed {
        continuous: true,
        events: vec![event("p", 0, 4), event("p", 4, 8)],
        at: Position::end_of(8),
        ..Replayed::default()
    };
    it.core.on_caught_up(b, &want.provider, earlier);
    it.settle();
    let told: Vec<_> = it.told.iter().filter(|(group, _)| *group == b).map(|(_, rev)| *rev).collect();
    assert_eq!(told, [4, 8, 9]);
}
