//! Prefaces of sessions that resume.

use std::collections::HashMap;

use shared::event::{Action, InstanceEvent};
use shared::model::{Instance, Scope, ServiceKey, Tenant};

use super::super::preface::{Missing, Preface};
use super::super::{Cause, Effect, Want};
use super::*;
use crate::message::InterestChange;
use crate::testing::{end_of, event, events_until, first_of, interest, nothing_until, rev, service};

/// A group of a consumer of `p` whose interest is known since revision 20, with nothing left to request.
fn idle_group() -> (Tracker, GroupId) {
    let mut tracker = Tracker::new(1);
    let id = tracker.join(&Selector::Consumer(service("c"))).0;
    tracker.on_interest(id, interest(20, &["p"]));
    answer_everything(&mut tracker, id, 20, &["p"]);
    (tracker, id)
}

/// Answers all requests until the bookmarks have confirmed the replies.
fn answer_everything(tracker: &mut Tracker, id: GroupId, number: u64, providers: &[&str]) {
    for bookmark in number..number + 4 {
        for effect in tracker.take_effects() {
            match effect {
                Effect::RequestInterest(..) => tracker.on_interest(id, interest(number, providers)),
                Effect::OpenTopics(wants) => {
                    for Want { provider, since, .. } in wants {
                        let key = Some(Arc::default());
                        let replay = TopicReplay { key, at: since, ..nothing_until(0) };
                        tracker.on_loaded(&provider, since, replay);
                    }
                }
                Effect::RequestReplay(_, wants) => {
                    for Want { provider, since, .. } in wants {
                        tracker.on_replay(&provider, since, TopicReplay { at: since, ..nothing_until(0) });
                    }
                }
                _ => {}
            }
        }
        tracker.advance_to(bookmark, number);
    }
}

#[test]
fn a_scope_is_told_nothing_of_the_time_in_which_a_service_had_another_application() {
    let mut tracker = Tracker::new(1);
    let scope = Scope { app_id: Some("a".into()), ..Scope::all(Tenant::default()) };
    let id = tracker.join(&Selector::Scope(scope)).0;
    tracker.on_interest(id, interest(20, &["p"]));
    answer_everything(&mut tracker, id, 20, &["p"]);
    let of = |app: &str, prev, number| InstanceEvent {
        key: Arc::new(ServiceKey { app_id: app.into(), ..ServiceKey::default() }),
        ..event("p", prev, number)
    };
    let told = |tracker: &mut Tracker| -> Vec<u64> {
        let delivered = tracker.take_effects().into_iter().filter_map(|effect| match effect {
            Effect::Deliver(push, _) => Some(push.at.rev.get()),
            _ => None,
        });
        delivered.collect()
    };
    tracker.on_events(vec![of("a", 20, 24), of("b", 24, 25), of("b", 25, 26), of("a", 26, 27)]);
    assert_eq!(told(&mut tracker), [24, 27]);
    tracker.advance_to(28, 20);
    tracker.on_departures(id, departures(23, 28, Vec::new()));
    assert_eq!(revisions(preface(&tracker, id, 23)), [24, 27]);
    // The end of what was told is told, although the state that shows it has another name.
    let key = Some(of("b", 0, 30).key);
    let state = TopicReplay { key, continuous: false, snapshot: Some(Vec::new()), ..nothing_until(30) };
    tracker.resync(Cause::Bookmark);
    tracker.take_effects();
    tracker.on_replay(&service("p"), first_of(27), state);
    assert_eq!(told(&mut tracker), [30; 4]);
}

fn departures(since: u64, number: u64, events: Vec<(ServiceRef, Arc<Push>)>) -> Departures {
    Departures {
        since: rev(since),
        complete_after: rev(since),
        rev: rev(number),
        events,
        ..Departures::default()
    }
}

fn delete(provider: &str, number: u64) -> (ServiceRef, Arc<Push>) {
    let instance = Arc::new(Instance { instance_id: provider.into(), ..Instance::default() });
    let push = Push::difference(0, first_of(number), Action::Delete, Arc::default(), instance);
    (service(provider), Arc::new(push))
}

/// The first event of `p` after everything that the idle group knows.
fn next_event(at: Position) -> InstanceEvent {
    InstanceEvent { at, prev: end_of(20), mod_rev: at.rev, ..event("p", 0, at.rev.get()) }
}

/// The preface of a session, where the history of `p` is known to be empty.
fn preface(tracker: &Tracker, id: GroupId, since: u64) -> Result<Preface, Missing> {
    let replays = HashMap::from([(service("p"), nothing_until(20))]);
    tracker.preface_from(id, since, &replays).expect("the group is ready")
}

fn revisions(preface: Result<Preface, Missing>) -> Vec<u64> {
    preface.expect("nothing is missing").events.iter().map(|push| push.at.rev.get()).collect()
}

#[test]
fn a_preface_holds_the_events_of_departed_providers() {
    let (mut tracker, id) = idle_group();
    assert!(matches!(preface(&tracker, id, 12), Err(Missing::Departures)), "a replica is asked first");
    let events = vec![delete("early", 12), delete("gone", 14), delete("p", 15)];
    tracker.on_departures(id, departures(12, 20, events));
    assert_eq!(revisions(preface(&tracker, id, 12)), [14], "the topic of `p` has its own events");
    assert_eq!(revisions(preface(&tracker, id, 14)), [] as [u64; 0]);
    assert!(matches!(preface(&tracker, id, 11), Err(Missing::Departures)), "the request began at 12");
}

#[test]
fn a_state_within_a_revision_does_not_claim_all_of_it() {
    let (mut tracker, id) = idle_group();
    tracker.on_event(next_event(first_of(40)));
    let state = tracker.preface_from(id, 0, &HashMap::new()).expect("ready").expect("nothing is missing");
    assert_eq!(state.states[0].1.len(), 1);
    assert_eq!(state.rev, rev(39), "the rest of 40 may still arrive");
    tracker.advance_to(40, 20);
    let state = tracker.preface_from(id, 0, &HashMap::new()).expect("ready").expect("nothing is missing");
    assert_eq!(state.rev, rev(40));
}

#[test]
fn a_session_ahead_of_this_gateway_waits_for_what_was_lost() {
    let (mut tracker, id) = idle_group();
    tracker.on_departures(id, departures(12, 30, Vec::new()));
    let other = tracker.join(&Selector::Consumer(service("d"))).0;
    tracker.on_interest(other, interest(30, &[]));
    tracker.take_effects();
    assert_eq!(tracker.seen(), rev(30), "another group has shown that 30 exists");
    let must_wait = |tracker: &Tracker| tracker.preface_from(id, 28, &HashMap::new()).is_none();
    assert!(must_wait(&tracker), "another gateway has delivered 28");
    tracker.on_last_events(vec![(service("p"), first_of(28))]);
    tracker.advance_to(30, 23);
    assert!(must_wait(&tracker), "the lost event is being requested");
    let replay = events_until(30, vec![next_event(first_of(28))]);
    tracker.on_replay(&service("p"), end_of(23), replay);
    let delivered = tracker.take_effects().into_iter().any(|effect| matches!(effect, Effect::Deliver(..)));
    assert!(delivered, "the sessions that stayed receive it");
    let resumed = tracker.preface_from(id, 28, &HashMap::new()).expect("28 is known");
    assert_eq!(revisions(resumed), [] as [u64; 0]);
}

#[test]
fn a_session_on_a_new_gateway_does_not_wait_for_bookmarks() {
    let mut tracker = Tracker::new(1);
    let id = tracker.join(&Selector::Consumer(service("c"))).0;
    tracker.on_interest(id, interest(20, &["p"]));
    for effect in tracker.take_effects() {
        let Effect::OpenTopics(wants) = effect else { continue };
        tracker.on_loaded(&wants[0].provider, end_of(20), nothing_until(20));
    }
    tracker.advance_to(21, 20);
    tracker.on_departures(id, Departures { since: rev(21), ..departures(12, 21, Vec::new()) });
    assert!(tracker.preface_from(id, 21, &HashMap::new()).is_none(), "another gateway has delivered 21");
    for _ in 0..2 {
        tracker.verify_now(id, rev(21));
    }
    let effects = tracker.take_effects();
    let is_request =
        |effect: &&Effect| matches!(effect, Effect::RequestInterest(..) | Effect::RequestReplay(..));
    assert_eq!(effects.iter().filter(is_request).count(), 2, "each is requested once: {effects:?}");
    tracker.on_interest(id, interest(21, &["p"]));
    tracker.on_replay(&service("p"), end_of(20), nothing_until(21));
    assert!(tracker.preface_from(id, 21, &HashMap::new()).is_some_and(|preface| preface.is_ok()));
}

#[test]
fn a_preface_never_holds_a_difference() {
    let (mut tracker, id) = idle_group();
    tracker.on_departures(id, departures(12, 20, Vec::new()));
    let provider = service("p");
    let written = Arc::new(Instance { instance_id: "i".into(), ..Instance::default() });
    let snapshot = Some(vec![(written, rev(23))]);
    let state = TopicReplay { snapshot, at: end_of(26), ..TopicReplay::default() };
    tracker.on_replay(&provider, end_of(20), state);
    tracker.advance_to(26, 23);
    // Another gateway has delivered the write at 23 as an event, and the session is at 24.
    let resume = |replays: &HashMap<_, _>| tracker.preface_from(id, 24, replays).expect("ready");
    assert!(matches!(resume(&HashMap::new()), Err(Missing::Events(_))), "a replica may know the events");
    let replays = HashMap::from([(provider.clone(), nothing_until(26))]);
    let exact = resume(&replays).expect("nothing is missing");
    assert_eq!((exact.events.len(), exact.states.len()), (0, 0));
    let no_history = TopicReplay { at: end_of(26), ..TopicReplay::default() };
    let stated = resume(&HashMap::from([(provider, no_history)])).expect("nothing is missing");
    assert_eq!((stated.events.len(), stated.states.len()), (0, 1), "a state needs no position");
}

#[test]
fn a_replica_behind_the_departures_is_asked_again() {
    let selector = Selector::Consumer(service("c"));
    let mut known = departures(12, 20, Vec::new());
    let mut record = |continuous, number| {
        let replay = TopicReplay { continuous, at: end_of(number), ..TopicReplay::default() };
        known.record(&selector, &service("gone"), rev(18), &replay)
    };
    assert_eq!(record(true, 17), RecordOutcome::ReplicaBehind, "it may lack the deletes at 18");
    assert_eq!(record(true, 18), RecordOutcome::Recorded);
    assert_eq!(record(false, 20), RecordOutcome::HistoryTooShort);
    assert_eq!(known.complete_after, rev(20), "no departure before 20 is known");
}

#[test]
fn departures_hold_until_the_interest_changes() {
    let (mut tracker, id) = idle_group();
    tracker.on_departures(id, departures(12, 20, Vec::new()));
    assert!(preface(&tracker, id, 12).is_ok());
    let removed = vec![service("p")];
    tracker.on_interest_change(id, InterestChange { at: end_of(24), removed, ..InterestChange::default() });
    assert!(
        tracker.preface_from(id, 12, &HashMap::new()).is_none(),
        "the last events of `p` may not have been delivered yet"
    );
    answer_everything(&mut tracker, id, 24, &[]);
    assert!(matches!(preface(&tracker, id, 12), Err(Missing::Departures)));
    tracker.on_departures(id, departures(12, 28, vec![delete("p", 24)]));
    assert_eq!(revisions(preface(&tracker, id, 12)), [24]);
    tracker.forget_departures(|_| false);
    assert!(matches!(preface(&tracker, id, 12), Err(Missing::Departures)));
}

#[test]
fn a_short_history_makes_everything_void() {
    let (mut tracker, id) = idle_group();
    let short = departures(12, 20, vec![delete("gone", 18)]);
    tracker.on_departures(id, Departures { complete_after: rev(16), ..short });
    let preface_from = |since| preface(&tracker, id, since).expect("nothing is missing");
    let voided = preface_from(15);
    assert!(voided.void);
    assert_eq!((voided.states.len(), voided.events.len()), (1, 0));
    let exact = preface_from(16);
    assert!(!exact.void);
    assert_eq!((exact.states.len(), exact.events.len()), (0, 1));
}

#[test]
fn a_listed_provider_without_a_name_makes_everything_void() {
    let mut tracker = Tracker::new(1);
    let providers = [service("p"), service("q")].into();
    let id = tracker.join(&Selector::Providers(Arc::new(providers))).0;
    tracker.on_interest(id, interest(20, &["p", "q"]));
    for effect in tracker.take_effects() {
        let Effect::OpenTopics(wants) = effect else { continue };
        for want in wants {
            let key = (want.provider.id == "p").then(Arc::default);
            let replay = TopicReplay { key, at: want.since, ..nothing_until(0) };
            tracker.on_loaded(&want.provider, want.since, replay);
        }
    }
    tracker.on_departures(id, departures(12, 20, Vec::new()));
    let no_history = || TopicReplay { at: end_of(20), ..TopicReplay::default() };
    let replays = HashMap::from([(service("p"), no_history()), (service("q"), no_history())]);
    let preface = tracker.preface_from(id, 12, &replays).expect("ready").expect("nothing is missing");
    assert!(preface.void, "there is no name under which to reset `q`");
    assert_eq!(preface.states.len(), 1);
}
