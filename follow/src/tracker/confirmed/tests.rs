//! Groups that come, and what is confirmed to the others and to them meanwhile.

use std::time::Instant;

use super::*;
use crate::Selector;
use crate::reply::TopicReplay;
use crate::testing::{end_of, event, events_until, first_of, interest, nothing_until, rev, service};
use crate::tracker::{LINGER, Reach, VERIFY_AFTER_BOOKMARKS};

/// A tracker in which the consumer `c` follows `p` and is in step at revision 10.
fn tracker() -> (Tracker, GroupId) {
    let mut tracker = Tracker::new(1);
    let id = open(&mut tracker, "c", 10, "p");
    for _ in 0..=VERIFY_AFTER_BOOKMARKS {
        tracker.advance_to(10, 10);
    }
    assert_eq!(tracker.confirmations(), Confirmed { rev: rev(10), behind: HashMap::new() });
    (tracker, id)
}

/// A new consumer, whose provider is loaded at once if nobody followed it.
fn open(tracker: &mut Tracker, consumer: &str, at: u64, provider: &str) -> GroupId {
    let id = tracker.join(&Selector::Consumer(service(consumer))).0;
    tracker.on_interest(id, interest(at, &[provider]));
    if !tracker.is_live(&service(provider)) {
        tracker.on_loaded(&service(provider), end_of(at), nothing_until(at));
    }
    tracker.take_effects();
    id
}

/// The deliveries to a group: each change with the revision that it confirms.
fn told(tracker: &mut Tracker, id: GroupId) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    for effect in tracker.take_effects() {
        if let Effect::Deliver(push, groups) = effect
            && groups.contains(&id)
        {
            told.push((push.at.rev.get(), push.resume_point().expect("it has one").get()));
        }
    }
    told
}

#[test]
fn groups_that_keep_coming_hold_back_nobody() {
    let (mut tracker, id) = tracker();
    for number in (12..50).step_by(2) {
        let young = open(&mut tracker, &number.to_string(), number - 1, &format!("p{number}"));
        let unopened = tracker.join(&Selector::Consumer(service(&format!("unopened{number}")))).0;
        assert!(!tracker.advance_to(number, number - 2));
        let Confirmed { rev: in_step, behind } = tracker.confirmations();
        assert_eq!(in_step, rev(number));
        assert!(!behind.contains_key(&id), "{behind:?}");
        assert_eq!(behind.get(&young), Some(&rev(number - 1)));
        assert_eq!(behind.get(&unopened), Some(&Revision::ZERO));
        assert!(tracker.confirmed().get() + 5 >= number, "what all have follows");
        // Everything that was requested is answered before the next bookmark.
        for effect in tracker.take_effects() {
            match effect {
                Effect::RequestReplay(_, wants) => {
                    for want in wants {
                        tracker.on_replay(&want.provider, want.since, nothing_until(number));
                    }
                }
                Effect::RequestInterest(id, Selector::Consumer(consumer)) => {
                    tracker.on_interest(id, interest(number, &[&format!("p{}", consumer.id)]));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_push_confirms_nothing_to_a_group_that_is_behind() {
    let (mut tracker, id) = tracker();
    let young = open(&mut tracker, "d", 11, "p");
    tracker.advance_to(12, 10);
    tracker.on_event(event("p", 0, 13));
    let effects = tracker.take_effects();
    let pushes: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Deliver(push, groups) => Some((groups.clone(), push.clone())),
            _ => None,
        })
        .collect();
    let points: HashMap<GroupId, u64> = pushes
        .iter()
        .flat_map(|(groups, push)| {
            groups.iter().map(|id| (*id, push.resume_point().expect("it has one").get()))
        })
        .collect();
    assert_eq!(points, HashMap::from([(id, 12), (young, 0)]));
    // Every later session shares one of the two.
    let (_, in_step) = pushes.iter().find(|(groups, _)| groups.contains(&id)).expect("delivered");
    let (_, behind) = pushes.iter().find(|(groups, _)| groups.contains(&young)).expect("delivered");
    assert!(std::sync::Arc::ptr_eq(&in_step.without_resume_point(), behind));
}

#[test]
fn a_group_that_is_behind_is_told_how_far_it_has_everything() {
    let (mut tracker, _) = tracker();
    let young = open(&mut tracker, "d", 15, "q");
    tracker.advance_to(20, 10);
    assert_eq!(tracker.confirmations().behind, HashMap::from([(young, rev(15))]), "as the replies said");
    tracker.advance_to(30, 20);
    assert_eq!(tracker.confirmations().behind, HashMap::from([(young, rev(15))]), "it is requested again");
    tracker.on_interest(young, interest(30, &["q"]));
    tracker.on_replay(&service("q"), end_of(15), nothing_until(30));
    tracker.advance_to(40, 30);
    assert_eq!(tracker.confirmations(), Confirmed { rev: rev(40), behind: HashMap::new() });
    // An event of `q` is missing, and only its group waits for it.
    tracker.on_last_events(vec![(service("q"), first_of(45))]);
    tracker.advance_to(50, 40);
    assert_eq!(
        tracker.confirmations(),
        Confirmed { rev: rev(50), behind: HashMap::from([(young, rev(40))]) }
    );
    tracker.on_event(event("p", 0, 51));
    tracker.on_event(event("q", 45, 52));
    assert_eq!(told(&mut tracker, young), [], "the event before it is missing");
    tracker.on_replay(&service("q"), end_of(40), events_until(50, vec![event("q", 0, 45)]));
    assert_eq!(told(&mut tracker, young), [(45, 0), (52, 0)]);
    tracker.advance_to(52, 50);
    assert_eq!(tracker.confirmations().behind, HashMap::new());
}

#[test]
fn a_verification_counts_for_the_topic_that_it_was_meant_for() {
    let (mut tracker, _) = tracker();
    let now = Instant::now();
    let first = open(&mut tracker, "d", 11, "q");
    tracker.advance_to(12, 10);
    // The topic is closed and opened again, with another subscription.
    tracker.sessions_closed(0, first, 1, now);
    tracker.forget_empty(now + LINGER);
    let second = open(&mut tracker, "e", 13, "q");
    tracker.advance_to(14, 12);
    assert_eq!(tracker.confirmations().behind, HashMap::from([(second, rev(13))]));
    let Some(Slot::Live(topic)) = tracker.topics.get(&service("q")) else { panic!("it is followed") };
    assert!(!topic.verified);
}

#[test]
fn a_subscription_that_a_loss_overtook_is_verified_in_its_own_time() {
    let (mut tracker, _) = tracker();
    let id = tracker.join(&Selector::Consumer(service("d"))).0;
    tracker.resync(crate::Cause::Link);
    for number in 11..=12 {
        tracker.advance_to(number, number - 1);
    }
    tracker.on_interest(id, interest(12, &["q"]));
    assert!(!tracker.groups[&id].verified, "the subscription may have begun a moment ago");
}

#[test]
fn what_is_on_its_way_when_a_group_begins_is_not_lost() {
    let (mut tracker, _) = tracker();
    // A replica knows the event at 11 already, which has not arrived.
    let young = open(&mut tracker, "d", 11, "p");
    for since in [0, 10] {
        let preface = tracker.preface_from(young, since, &HashMap::new());
        assert!(preface.is_none(), "it would not be sent the event at 11: {preface:?}");
    }
    tracker.on_event(event("p", 0, 11));
    assert_eq!(told(&mut tracker, young), []);
    tracker.advance_to(11, 10);
    let preface =
        tracker.preface_from(young, 0, &HashMap::new()).expect("ready").expect("nothing is missing");
    assert_eq!((preface.states[0].1.len(), preface.confirmed), (1, rev(11)));
}

#[test]
fn a_topic_that_is_not_verified_is_requested_at_once_for_a_session() {
    let (mut tracker, _) = tracker();
    open(&mut tracker, "d", 11, "q");
    let second = open(&mut tracker, "e", 12, "q");
    assert!(tracker.preface_from(second, 0, &HashMap::new()).is_none());
    tracker.verify_now(second, Revision::ZERO);
    let requested = tracker.take_effects().into_iter().any(|effect| match effect {
        Effect::RequestReplay(_, wants) => wants.iter().any(|want| want.provider == service("q")),
        _ => false,
    });
    assert!(requested);
    let replay = TopicReplay { key: Some(event("q", 0, 12).key), ..nothing_until(12) };
    tracker.on_replay(&service("q"), end_of(11), replay);
    let preface =
        tracker.preface_from(second, 0, &HashMap::new()).expect("ready").expect("nothing is missing");
    assert_eq!((preface.rev, preface.confirmed), (rev(12), rev(12)));
}

#[test]
fn a_change_is_proved_while_groups_keep_coming() {
    let (mut tracker, id) = tracker();
    let reach = |tracker: &Tracker| match tracker.reach(&service("p"), rev(10), rev(11), &[]) {
        Reach::Groups(reached) => Some(reached.groups),
        Reach::NotYet | Reach::Nobody => None,
    };
    // Its replies may be from before the change, so that it is still to be told.
    let before = tracker.join(&Selector::Consumer(service("d"))).0;
    tracker.on_event(event("p", 0, 11));
    tracker.advance_to(11, 10);
    tracker.take_effects();
    assert_eq!(reach(&tracker), None);
    tracker.on_interest(before, interest(11, &["p"]));
    tracker.take_effects();
    // This one begins with what is later than the change.
    tracker.join(&Selector::Consumer(service("e")));
    open(&mut tracker, "f", 11, "q");
    let mut groups = reach(&tracker).expect("the change has been delivered");
    groups.sort_unstable();
    assert_eq!(groups, [(id, false), (before, true)]);
}
