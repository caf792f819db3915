//! Instances that come and go without an event.

use std::collections::BTreeSet;

use shared::event::InstanceEvent;

use super::*;
use crate::Selector;
use crate::message::InterestChange;
use crate::reply::{InterestReply, TopicReplay};
use crate::testing::{end_of, event, events_until, interest, nothing_until, rev, service};

/// A consumer that knows its interest, which is empty, since revision 5; another one follows `p`.
fn tracker() -> (Tracker, GroupId) {
    let mut tracker = Tracker::new(1);
    let other = tracker.join(&Selector::Consumer(service("other"))).0;
    tracker.on_interest(other, interest(5, &["p"]));
    tracker.on_loaded(&service("p"), end_of(5), nothing_until(5));
    let id = tracker.join(&Selector::Consumer(service("c"))).0;
    tracker.on_interest(id, interest(5, &[]));
    (tracker, id)
}

fn came(number: u64, shown: usize) -> InterestChange {
    InterestChange { at: end_of(number), added: vec![service("p")], shown, ..InterestChange::default() }
}

fn left(number: u64) -> InterestChange {
    InterestChange { at: end_of(number), removed: vec![service("p")], ..InterestChange::default() }
}

/// The event that updates or deletes the instance which the event at `of` created.
fn later(action: Action, of: u64, prev: u64, number: u64) -> InstanceEvent {
    InstanceEvent { action, instance: event("p", 0, of).instance, ..event("p", prev, number) }
}

/// The deliveries to a group since the last call: action, instance and revision.
fn told(tracker: &mut Tracker, id: GroupId) -> Vec<(Action, String, u64)> {
    let mut told = Vec::new();
    for effect in tracker.take_effects() {
        if let Effect::Deliver(push, groups) = effect
            && groups.contains(&id)
        {
            told.push((push.action, push.instance.instance_id.clone(), push.at.rev.get()));
        }
    }
    told
}

#[test]
fn a_provider_is_shown_once_everything_before_is_known() {
    let (mut tracker, id) = tracker();
    tracker.on_event(event("p", 0, 7));
    tracker.on_interest_change(id, came(9, 1));
    assert_eq!(told(&mut tracker, id), [], "an event before 9 may be on its way");
    tracker.on_event(event("p", 7, 8));
    assert_eq!(told(&mut tracker, id), []);
    tracker.advance_to(9, 5);
    let both = [(Action::Create, "7".into(), 9), (Action::Create, "8".into(), 9)];
    assert_eq!(told(&mut tracker, id), both);
    tracker.on_event(later(Action::Update, 7, 8, 10));
    assert_eq!(told(&mut tracker, id), [(Action::Update, "7".into(), 10)]);
}

#[test]
fn a_provider_that_is_loaded_without_its_history_is_shown_once() {
    let mut tracker = Tracker::new(1);
    let id = tracker.join(&Selector::Consumer(service("c"))).0;
    tracker.on_interest(id, interest(5, &[]));
    tracker.on_interest_change(id, came(9, 1));
    let state = TopicReplay {
        continuous: false,
        snapshot: Some(vec![(event("p", 0, 10).instance, rev(10))]),
        ..events_until(11, Vec::new())
    };
    let key = Some(event("p", 0, 10).key);
    assert!(tracker.on_loaded(&service("p"), end_of(5), TopicReplay { key, ..state }));
    tracker.advance_to(11, 5);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "10".into(), 11)]);
    tracker.on_event(later(Action::Update, 10, 10, 12));
    assert_eq!(told(&mut tracker, id), [(Action::Update, "10".into(), 12)]);
}

#[test]
fn instances_shown_by_the_consumers_find_are_not_told() {
    let (mut tracker, id) = tracker();
    tracker.on_event(event("p", 0, 7));
    tracker.on_interest_change(id, came(9, 0));
    tracker.advance_to(9, 5);
    assert_eq!(told(&mut tracker, id), []);
}

#[test]
fn what_follows_a_state_without_history_is_told_once() {
    let mut tracker = Tracker::new(1);
    let id = tracker.join(&Selector::Consumer(service("c"))).0;
    tracker.on_interest(id, interest(5, &[]));
    tracker.resync(crate::Cause::Link);
    let shown = BTreeSet::from([service("p")]);
    tracker.on_interest(id, InterestReply { shown, ..interest(9, &["p"]) });
    // The replicas have listed the store at 7, and nothing has happened to the provider since.
    let key = Some(event("p", 0, 10).key);
    let state = TopicReplay { continuous: false, snapshot: Some(Vec::new()), ..events_until(7, Vec::new()) };
    assert!(tracker.on_loaded(&service("p"), end_of(5), TopicReplay { key, ..state }));
    tracker.on_event(event("p", 7, 10));
    tracker.advance_to(10, 5);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "10".into(), 10)]);
}

/// Consumers into whose interest a lost change has brought `p` with the instance `4`. Another one follows `p` since 5,
/// so its topic does not reach back far enough for them.
fn come_late<const COUNT: usize>(names: [&str; COUNT]) -> (Tracker, [GroupId; COUNT]) {
    let mut tracker = Tracker::new(1);
    let ids = names.map(|name| tracker.join(&Selector::Consumer(service(name))).0);
    for id in ids {
        tracker.on_interest(id, interest(3, &[]));
    }
    let other = tracker.join(&Selector::Consumer(service("other"))).0;
    tracker.on_interest(other, interest(5, &["p"]));
    let key = Some(event("p", 0, 4).key);
    let snapshot = Some(vec![(event("p", 0, 4).instance, rev(4))]);
    tracker.on_loaded(&service("p"), end_of(5), TopicReplay { key, snapshot, ..nothing_until(5) });
    tracker.resync(crate::Cause::Link);
    for id in ids {
        let shown = BTreeSet::from([service("p")]);
        tracker.on_interest(id, InterestReply { shown, ..interest(9, &["p"]) });
    }
    (tracker, ids)
}

#[test]
fn what_was_fetched_for_a_group_that_came_late_is_told_once() {
    let (mut tracker, [id]) = come_late(["c"]);
    tracker.on_caught_up(id, &service("p"), events_until(9, vec![event("p", 0, 4)]));
    tracker.on_replay(&service("p"), end_of(5), nothing_until(9));
    tracker.advance_to(10, 5);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "4".into(), 4)]);
}

#[test]
fn what_could_not_be_fetched_for_a_group_that_came_late_is_told_once() {
    let (mut tracker, [id]) = come_late(["c"]);
    // No replica has the history any more.
    let state = TopicReplay { continuous: false, snapshot: None, ..events_until(9, Vec::new()) };
    tracker.on_caught_up(id, &service("p"), state);
    tracker.on_replay(&service("p"), end_of(5), nothing_until(9));
    tracker.advance_to(10, 5);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "4".into(), 9)]);
}

#[test]
fn what_was_fetched_for_another_group_does_not_count_as_told_to_this_one() {
    let (mut tracker, [fetched, not_fetched]) = come_late(["c", "d"]);
    tracker.on_caught_up(fetched, &service("p"), events_until(9, vec![event("p", 0, 4)]));
    let state = TopicReplay { continuous: false, snapshot: None, ..events_until(9, Vec::new()) };
    tracker.on_caught_up(not_fetched, &service("p"), state);
    tracker.on_replay(&service("p"), end_of(5), nothing_until(9));
    tracker.advance_to(10, 5);
    assert_eq!(told(&mut tracker, not_fetched), [(Action::Create, "4".into(), 9)]);
}

#[test]
fn an_instance_that_a_snapshot_lacked_and_that_came_again_is_told_once() {
    let (mut tracker, id) = tracker();
    tracker.on_event(event("p", 0, 6));
    // The provider comes at 9 for this consumer, which has followed it since 5.
    tracker.resync(crate::Cause::Link);
    let shown = BTreeSet::from([service("p")]);
    tracker.on_interest(id, InterestReply { shown, ..interest(9, &["p"]) });
    let gone = TopicReplay { continuous: false, snapshot: Some(Vec::new()), ..events_until(7, Vec::new()) };
    tracker.on_replay(&service("p"), end_of(5), gone);
    told(&mut tracker, id);
    let again = InstanceEvent { instance: event("p", 0, 6).instance, ..event("p", 7, 10) };
    tracker.on_event(again);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "6".into(), 10)]);
}

#[test]
fn instances_that_are_hidden_are_told_as_deleted() {
    let (mut tracker, id) = tracker();
    tracker.on_interest_change(id, came(6, 0));
    tracker.on_event(event("p", 0, 7));
    tracker.on_event(event("p", 7, 8));
    told(&mut tracker, id);
    tracker.on_interest_change(id, left(9));
    // One of them goes afterwards, and another comes: the consumer must not see that, but be rid of the
    // first.
    tracker.on_event(later(Action::Delete, 7, 8, 10));
    tracker.on_event(event("p", 10, 11));
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "7".into(), 9), (Action::Delete, "8".into(), 9)]);
}

/// A consumer that follows `p` since revision 9 and has been told of the instance `10`.
fn following() -> (Tracker, GroupId) {
    let (mut tracker, id) = tracker();
    for number in 5..9 {
        tracker.advance_to(number, number - 1);
        tracker.on_interest(id, interest(number, &[]));
        tracker.on_replay(&service("p"), end_of(5), nothing_until(number));
    }
    tracker.on_interest_change(id, InterestChange { prev: end_of(5), ..came(9, 0) });
    tracker.on_event(event("p", 5, 10));
    told(&mut tracker, id);
    (tracker, id)
}

#[test]
fn a_quiet_provider_that_leaves_is_told_as_gone_at_a_bookmark() {
    let (mut tracker, id) = following();
    tracker.on_interest_change(id, InterestChange { prev: end_of(9), ..left(11) });
    assert_eq!(told(&mut tracker, id), []);
    tracker.advance_to(12, 8);
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "10".into(), 11)]);
    // A find may have shown the instance before the client received that.
    tracker.on_interest_change(id, InterestChange { prev: end_of(11), ..came(13, 0) });
    tracker.advance_to(13, 12);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "10".into(), 13)]);
}

#[test]
fn a_service_that_is_registered_again_is_told_once() {
    let (mut tracker, id) = following();
    tracker.on_event(later(Action::Delete, 10, 10, 11));
    tracker.on_interest_change(id, InterestChange { prev: end_of(9), ..left(11) });
    tracker.advance_to(12, 8);
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "10".into(), 11)]);
    tracker.on_interest_change(id, InterestChange { prev: end_of(11), ..came(13, 0) });
    tracker.on_event(event("p", 11, 14));
    tracker.on_event(event("p", 14, 15));
    tracker.advance_to(15, 12);
    assert_eq!(
        told(&mut tracker, id),
        [(Action::Create, "14".into(), 14), (Action::Create, "15".into(), 15)]
    );
}

#[test]
fn a_service_that_is_registered_again_is_told_once_however_long_it_was_followed() {
    let (mut tracker, id) = following();
    for number in 11..500 {
        tracker.on_event(later(Action::Update, 10, number - 1, number));
    }
    // The events come before the changes of the interest.
    tracker.on_event(later(Action::Delete, 10, 499, 500));
    tracker.on_event(event("p", 500, 503));
    told(&mut tracker, id);
    tracker.on_interest_change(id, InterestChange { prev: end_of(9), ..left(500) });
    tracker.on_interest_change(id, InterestChange { prev: end_of(500), ..came(502, 1) });
    tracker.advance_to(503, 8);
    assert_eq!(told(&mut tracker, id), [], "the topic has forgotten its first changes, and not this one");
}

/// Like [`following`], but after a loss: the service was deleted and registered again, which the consumer's
/// interest shows up to the deletion, and the state of the service without its history.
fn registered_again_unheard() -> (Tracker, GroupId) {
    let (mut tracker, id) = following();
    tracker.resync(crate::Cause::Bookmark);
    tracker.on_interest(id, interest(13, &[]));
    let again = event("p", 0, 10).instance;
    let snapshot = Some(vec![(again, rev(18))]);
    let state = TopicReplay { continuous: false, snapshot, ..events_until(20, Vec::new()) };
    tracker.on_replay(&service("p"), end_of(5), state);
    (tracker, id)
}

#[test]
fn what_a_difference_has_told_is_not_told_again_as_shown() {
    let (mut tracker, id) = registered_again_unheard();
    assert_eq!(told(&mut tracker, id), [(Action::Update, "10".into(), 20)]);
    tracker.on_interest_change(id, InterestChange { prev: end_of(13), ..came(22, 1) });
    tracker.advance_to(22, 8);
    assert_eq!(told(&mut tracker, id), []);
    tracker.on_event(later(Action::Delete, 10, 20, 23));
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "10".into(), 23)]);
}

#[test]
fn changes_around_a_return_are_told_once() {
    let (mut tracker, id) = following();
    tracker.on_interest_change(id, InterestChange { prev: end_of(9), ..left(11) });
    tracker.advance_to(12, 8);
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "10".into(), 11)]);
    tracker.on_event(event("p", 10, 12));
    assert_eq!(told(&mut tracker, id), []);
    tracker.on_interest_change(id, InterestChange { prev: end_of(11), ..came(13, 0) });
    tracker.on_event(event("p", 12, 14));
    let created = ["14", "10", "12"].map(|instance| (Action::Create, instance.to_owned(), 14));
    assert_eq!(told(&mut tracker, id), created);
}

#[test]
fn a_provider_that_came_and_left_unseen_is_told_as_gone() {
    let (mut tracker, id) = tracker();
    tracker.resync(crate::Cause::Link);
    tracker.take_effects();
    let left = vec![(service("q"), rev(8))];
    tracker.on_interest(id, InterestReply { left, ..interest(9, &[]) });
    let key = Some(Arc::default());
    let instance = event("q", 0, 3).instance;
    let snapshot = Some(vec![(instance, rev(3))]);
    tracker.on_loaded(&service("q"), end_of(5), TopicReplay { key, snapshot, ..events_until(9, Vec::new()) });
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "3".into(), 8)]);
}

/// Like [`following`], but `p` has left at revision 11 with its instance `10`, and a bookmark at 12 has shown
/// that nothing of it is missing. That is not confirmed, because `r`, which came at 10, is still being loaded.
fn departed() -> (Tracker, GroupId) {
    let (mut tracker, id) = following();
    let added = vec![service("r")];
    let came = InterestChange { at: end_of(10), prev: end_of(9), added, ..InterestChange::default() };
    tracker.on_interest_change(id, came);
    tracker.on_event(later(Action::Delete, 10, 10, 11));
    tracker.on_interest_change(id, InterestChange { prev: end_of(10), ..left(11) });
    tracker.advance_to(12, 8);
    assert_eq!(told(&mut tracker, id), [(Action::Delete, "10".into(), 11)]);
    assert!(tracker.confirmed() < rev(11));
    (tracker, id)
}

#[test]
fn a_departure_that_was_told_is_not_told_again_after_a_loss() {
    let (mut tracker, id) = departed();
    tracker.resync(crate::Cause::Bookmark);
    tracker.on_interest(id, InterestReply { left: vec![(service("p"), rev(11))], ..interest(13, &["r"]) });
    let events = vec![event("p", 5, 10), later(Action::Delete, 10, 10, 11)];
    tracker.on_replay(&service("p"), end_of(5), events_until(13, events));
    tracker.advance_to(14, 13);
    tracker.advance_to(15, 14);
    assert_eq!(told(&mut tracker, id), []);
}

#[test]
fn of_a_provider_that_left_again_unheard_only_the_rest_is_told() {
    let (mut tracker, id) = departed();
    tracker.resync(crate::Cause::Bookmark);
    // It came back at 12 with an instance, and left at 13.
    tracker.on_interest(id, InterestReply { left: vec![(service("p"), rev(13))], ..interest(14, &["r"]) });
    let last = later(Action::Delete, 12, 12, 13);
    let events = vec![event("p", 5, 10), later(Action::Delete, 10, 10, 11), event("p", 11, 12), last];
    tracker.on_replay(&service("p"), end_of(5), events_until(14, events));
    tracker.advance_to(15, 14);
    tracker.advance_to(16, 15);
    let rest = [(Action::Create, "12".into(), 12), (Action::Delete, "12".into(), 13)];
    assert_eq!(told(&mut tracker, id), rest);
}

#[test]
fn instances_of_a_deleted_service_are_told_as_gone() {
    let mut tracker = Tracker::new(1);
    let id = tracker.join(&Selector::Consumer(service("c"))).0;
    tracker.on_interest(id, interest(5, &["p"]));
    tracker.on_interest_change(id, InterestChange { prev: end_of(5), ..left(8) });
    // The service goes with its instance before the topic is loaded, so the reply has no name for it.
    let events = vec![event("p", 0, 7), later(Action::Delete, 7, 7, 9)];
    let replay = TopicReplay { snapshot: Some(Vec::new()), ..events_until(9, events) };
    tracker.on_loaded(&service("p"), end_of(5), replay);
    assert_eq!(told(&mut tracker, id), [(Action::Create, "7".into(), 7), (Action::Delete, "7".into(), 8)]);
}
