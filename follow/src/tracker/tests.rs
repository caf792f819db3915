//! Deliveries of the tracker, whichever of reply and change comes first.

use shared::event::{Action, InstanceEvent};

use super::*;
use crate::reply::TopicReplay;
use crate::testing::{end_of, event, events_until, first_of, interest, nothing_until, rev, service};

fn added(number: u64, provider: &str) -> InterestChange {
    InterestChange { at: end_of(number), added: vec![service(provider)], ..InterestChange::default() }
}

fn removed(number: u64, provider: &str) -> InterestChange {
    InterestChange { at: end_of(number), removed: vec![service(provider)], ..InterestChange::default() }
}

/// A tracker, with its deliveries and the wants of its requests so far.
struct Gateway {
    tracker: Tracker,
    delivered: Vec<(GroupId, u64)>,
    requested: Vec<Want>,
}

impl Gateway {
    fn new() -> Self {
        Self { tracker: Tracker::new(1), delivered: Vec::new(), requested: Vec::new() }
    }

    fn join(&mut self, consumer: &str) -> GroupId {
        let group = self.tracker.join(&Selector::Consumer(service(consumer))).0;
        self.act();
        group
    }

    /// Carries out all effects. Topics are loaded at once, with the reply that nothing has happened.
    fn act(&mut self) {
        loop {
            let effects = self.tracker.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Deliver(push, groups) => {
                        let number = push.at.rev.get();
                        self.delivered.extend(groups.into_iter().map(|group| (group, number)));
                    }
                    Effect::OpenTopics(wants) => {
                        for want in wants {
                            let at = want.since;
                            let replay = TopicReplay { continuous: true, at, ..TopicReplay::default() };
                            self.tracker.on_loaded(&want.provider, want.since, replay);
                        }
                    }
                    Effect::RequestReplay(_, wants) => self.requested.extend(wants),
                    Effect::CatchUp(_, want) => self.requested.push(want),
                    Effect::OpenInterest(..)
                    | Effect::RequestInterest(..)
                    | Effect::CloseInterest(_)
                    | Effect::CloseTopic(_)
                    | Effect::GroupOpened(_)
                    | Effect::RefuseGroup(_)
                    | Effect::EndGroup(_) => {}
                }
            }
        }
    }

    fn event(&mut self, event: InstanceEvent) {
        self.tracker.on_event(event);
        self.act();
    }

    fn change(&mut self, group: GroupId, change: InterestChange) {
        self.tracker.on_interest_change(group, change);
        self.act();
    }

    fn reply(&mut self, group: GroupId, reply: InterestReply) {
        self.tracker.on_interest(group, reply);
        self.act();
    }

    fn replay(&mut self, provider: &str, since: Position, replay: TopicReplay) {
        self.tracker.on_replay(&service(provider), since, replay);
        self.act();
    }

    fn bookmark(&mut self, number: u64, since: u64) -> bool {
        let lost = self.tracker.advance_to(number, since);
        self.act();
        lost
    }

    /// The number of providers and interests that are behind a bookmark with this name in it.
    fn last_event(&mut self, provider: &str, number: u64) -> usize {
        self.tracker.on_last_events(vec![(service(provider), first_of(number))])
    }

    fn last_change(&mut self, consumer: &str, number: u64) -> usize {
        self.tracker.on_last_changes(vec![(service(consumer), first_of(number))], Vec::new())
    }
}

#[test]
fn a_change_that_overtakes_the_reply_counts_exactly_once() {
    for reply_rev in [9, 10, 12] {
        let mut gateway = Gateway::new();
        let group = gateway.join("c");
        gateway.change(group, added(10, "p"));
        gateway.change(group, removed(11, "q"));
        let providers: &[&str] = match reply_rev {
            9 => &["q"],
            10 => &["p", "q"],
            _ => &["p"],
        };
        gateway.reply(group, interest(reply_rev, providers));
        gateway.event(event("p", 0, 20));
        gateway.event(event("q", 0, 21));
        assert_eq!(gateway.delivered, [(group, 20)], "the reply was of revision {reply_rev}");
    }
}

#[test]
fn a_provider_that_comes_and_leaves_during_a_request_is_followed() {
    for missing in [false, true] {
        let mut gateway = Gateway::new();
        let group = gateway.join("c");
        gateway.reply(group, interest(5, &[]));
        gateway.tracker.resync(Cause::Link);
        gateway.act();
        let mut came = added(10, "p");
        // The position of a change that was lost.
        came.prev = if missing { end_of(8) } else { Position::default() };
        gateway.change(group, came);
        assert_eq!(
            gateway.tracker.is_live(&service("p")),
            !missing,
            "only a gap makes it wait for the reply"
        );
        gateway.change(group, InterestChange { prev: end_of(10), ..removed(12, "p") });
        gateway.reply(group, interest(20, &[]));
        gateway.event(event("p", 0, 11));
        gateway.event(event("p", 11, 12));
        gateway.event(event("p", 12, 13));
        let instances = [(group, 11), (group, 12)];
        let deletes = [(group, 12), (group, 12)];
        assert_eq!(gateway.delivered, [instances, deletes].concat(), "missing: {missing}");
    }
}

#[test]
fn a_reply_undoes_no_change_that_is_newer() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["q"]));
    gateway.tracker.resync(Cause::Link);
    gateway.act();
    gateway.change(group, added(10, "p"));
    gateway.change(group, removed(12, "q"));
    gateway.reply(group, interest(9, &["q"]));
    gateway.event(event("p", 0, 13));
    gateway.event(event("q", 0, 14));
    assert_eq!(gateway.delivered, [(group, 13)]);
}

#[test]
fn a_new_interest_includes_what_was_committed_with_it() {
    let mut gateway = Gateway::new();
    let a = gateway.join("a");
    let b = gateway.join("b");
    gateway.reply(a, interest(5, &["p"]));
    gateway.reply(b, interest(5, &[]));
    gateway.event(event("p", 0, 9));
    gateway.event(event("p", 9, 10));
    gateway.change(b, added(10, "p"));
    gateway.event(event("p", 10, 11));
    gateway.delivered.sort_unstable();
    assert_eq!(gateway.delivered, [(a, 9), (a, 10), (a, 11), (b, 10), (b, 11)]);
}

#[test]
fn changes_that_a_new_publisher_repeats_change_nothing() {
    let mut gateway = Gateway::new();
    let a = gateway.join("a");
    let b = gateway.join("b");
    gateway.reply(a, interest(5, &["p"]));
    gateway.reply(b, interest(5, &[]));
    let changes = [added(10, "p"), removed(12, "p")];
    for change in changes.clone() {
        gateway.change(b, change);
    }
    gateway.event(event("p", 0, 11));
    for change in changes {
        gateway.change(b, change);
    }
    gateway.event(event("p", 11, 12));
    gateway.event(event("p", 12, 13));
    gateway.delivered.sort_unstable();
    // Both instances are delivered to b as deleted in the end.
    let expected = [(a, 11), (a, 12), (a, 13), (b, 11), (b, 12), (b, 12), (b, 12)];
    assert_eq!(gateway.delivered, expected, "delivery to b stops where its interest ended");
}

#[test]
fn a_gap_is_requested_once_and_later_events_wait() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    gateway.event(event("p", 7, 8));
    gateway.event(event("p", 8, 9));
    assert_eq!((gateway.delivered.len(), gateway.requested.len()), (0, 1));
    let missed = TopicReplay {
        continuous: true,
        events: vec![event("p", 0, 7)],
        at: first_of(7),
        ..TopicReplay::default()
    };
    gateway.replay("p", gateway.requested[0].since, missed);
    assert_eq!(gateway.delivered, [(group, 7), (group, 8), (group, 9)]);
}

#[test]
fn the_deletes_of_a_departed_provider_are_delivered() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    // The provider is deleted with its instances while an earlier event is still missing.
    let delete = InstanceEvent { action: Action::Delete, ..event("p", 7, 8) };
    gateway.event(InstanceEvent { instance: event("p", 0, 7).instance, ..delete });
    gateway.change(group, removed(8, "p"));
    assert_eq!((gateway.delivered.len(), gateway.requested.len()), (0, 1));
    let missed = TopicReplay {
        continuous: true,
        events: vec![event("p", 0, 7)],
        at: first_of(7),
        ..TopicReplay::default()
    };
    gateway.replay("p", gateway.requested[0].since, missed);
    assert_eq!(gateway.delivered, [(group, 7), (group, 8)]);
    for _ in 0..2 {
        gateway.bookmark(9, 8);
        assert_eq!(gateway.tracker.topic_count(), 1, "an event before the subscription may be missing");
    }
    gateway.reply(group, interest(9, &[]));
    gateway.tracker.on_replay(&service("p"), end_of(7), nothing_until(9));
    gateway.bookmark(9, 9);
    assert_eq!(gateway.tracker.topic_count(), 0, "verified, the topic is closed");
    assert_eq!(gateway.delivered.len(), 2);
}

#[test]
fn a_reply_for_an_earlier_topic_is_not_mistaken_for_this_ones() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    let late = TopicReplay {
        continuous: true,
        events: vec![event("p", 60, 70)],
        at: first_of(70),
        ..TopicReplay::default()
    };
    gateway.replay("p", first_of(60), late);
    assert_eq!(gateway.delivered, [], "50 to 60 would be missing");
}

#[test]
fn an_empty_group_is_kept_for_a_while() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    let now = Instant::now();
    gateway.tracker.sessions_closed(0, group, 1, now);
    gateway.tracker.forget_empty(now + LINGER / 2);
    assert_eq!((gateway.tracker.topic_count(), gateway.tracker.groups.len()), (1, 1));
    assert_eq!(gateway.join("c"), group, "a watcher that comes back finds everything in place");
    gateway.tracker.sessions_closed(0, group, 1, now);
    gateway.tracker.forget_empty(now + LINGER);
    assert_eq!((gateway.tracker.topic_count(), gateway.tracker.groups.len()), (0, 0));
    assert_ne!(gateway.join("c"), group);
}

#[test]
fn a_bookmark_that_starts_after_the_last_one_shows_a_loss() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    assert!(!gateway.tracker.advance_to(10, 7), "the first one shows nothing");
    assert!(!gateway.tracker.advance_to(12, 10));
    assert!(!gateway.tracker.advance_to(13, 9), "a new publisher's, which begins earlier");
    assert!(gateway.tracker.advance_to(16, 15));
    gateway.act();
    assert_eq!(gateway.requested.len(), 1);
    assert!(gateway.tracker.confirmed() < rev(16));
}

#[test]
fn an_event_that_a_bookmark_names_is_requested_before_it_counts() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(10, &["p"]));
    for _ in 0..=VERIFY_AFTER_BOOKMARKS {
        gateway.tracker.advance_to(10, 10);
    }
    gateway.act();
    assert_eq!(gateway.tracker.confirmed(), rev(10));

    assert_eq!(gateway.last_event("p", 10) + gateway.last_change("c", 10), 0, "both are known");
    assert_eq!(gateway.last_event("other", 12) + gateway.last_change("other", 12), 0, "nobody follows them");
    assert_eq!(gateway.last_event("p", 12), 1);
    gateway.bookmark(12, 10);
    assert_eq!(gateway.requested.last().map(|want| want.provider.clone()), Some(service("p")));
    assert_eq!(gateway.tracker.confirmed(), rev(10), "not before the reply");

    gateway.tracker.on_replay(&service("p"), end_of(10), nothing_until(12));
    gateway.tracker.advance_to(12, 10);
    assert_eq!(gateway.tracker.confirmed(), rev(12));

    assert_eq!(gateway.last_change("c", 13), 1);
    gateway.tracker.advance_to(13, 12);
    assert_eq!(gateway.tracker.confirmed(), rev(12));
    gateway.tracker.on_interest(group, interest(13, &["p"]));
    gateway.tracker.advance_to(13, 12);
    assert_eq!(gateway.tracker.confirmed(), rev(13));
}

#[test]
fn a_new_publisher_is_followed_while_other_topics_open() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    for number in [6, 7] {
        gateway.bookmark(number, number - 1);
    }
    gateway.replay("p", end_of(5), nothing_until(7));
    gateway.requested.clear();
    // Another group begins, of which nothing is verified yet.
    let other = gateway.join("d");
    gateway.reply(other, interest(8, &["q"]));
    gateway.tracker.advance_to(20, 7);
    // This publisher does not know the last event before its list at 15. There was none.
    gateway.event(InstanceEvent { prev: end_of(15), ..event("p", 0, 21) });
    assert_eq!((&gateway.delivered[..], gateway.requested.len()), (&[(group, 21)][..], 0));
    // The other topic is not verified, so an event before 15 may be missing there.
    gateway.event(InstanceEvent { prev: end_of(15), ..event("q", 0, 22) });
    assert_eq!((gateway.delivered.len(), gateway.requested.len()), (1, 1));
    // A predecessor that is named exactly has not arrived, whatever the bookmarks say.
    gateway.tracker.advance_to(30, 20);
    gateway.event(event("p", 28, 31));
    assert_eq!((gateway.delivered.len(), gateway.requested.len()), (1, 2));
}

#[test]
fn a_loss_is_requested_from_the_last_complete_bookmark() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    gateway.reply(group, interest(5, &["p"]));
    for number in [6, 7] {
        gateway.bookmark(number, number - 1);
    }
    gateway.tracker.on_replay(&service("p"), end_of(5), nothing_until(7));
    gateway.bookmark(20, 7);
    gateway.requested.clear();
    // A replica that listed the store at 15 has every event since 20, but not since 7.
    gateway.bookmark(30, 25);
    assert_eq!(gateway.requested.len(), 1);
    assert_eq!(gateway.requested[0].since, end_of(20));
    let missed = events_until(30, vec![event("p", 0, 22), event("p", 22, 24)]);
    gateway.replay("p", end_of(20), missed);
    assert_eq!(gateway.delivered, [(group, 22), (group, 24)]);
}

#[test]
fn a_group_that_joins_late_receives_old_and_new_events() {
    let mut gateway = Gateway::new();
    let a = gateway.join("a");
    let b = gateway.join("b");
    gateway.reply(a, interest(5, &["p"]));
    gateway.reply(b, interest(3, &["p"]));
    let want = gateway.requested.pop().expect("events before the topic are requested");
    assert_eq!(want.since, end_of(3));
    gateway.event(event("p", 4, 8));
    gateway.event(event("p", 8, 9));
    let earlier = events_until(8, vec![event("p", 0, 4), event("p", 4, 8)]);
    let earlier = TopicReplay { at: first_of(8), ..earlier };
    gateway.tracker.on_caught_up(b, &want.provider, earlier);
    gateway.act();
    let of_b = gateway.delivered.iter().filter(|(group, _)| *group == b);
    assert_eq!(of_b.map(|(_, number)| *number).collect::<Vec<_>>(), [4, 8, 9]);
}

#[test]
fn kept_changes_are_bounded_by_the_services_they_name() {
    let mut gateway = Gateway::new();
    let group = gateway.join("c");
    for number in 1..=10 {
        let mut change = added(number, "p");
        change.added = (0..MOST_KEPT_SERVICES / 4).map(|id| service(&id.to_string())).collect();
        gateway.change(group, change);
    }
    let InterestRequest::Pending { kept, .. } = &gateway.tracker.groups[&group].request else {
        panic!("the interest is being requested")
    };
    assert_eq!(kept.len(), 4);
    assert_eq!(kept.back().expect("four").at, end_of(10), "the oldest went");
}
