use std::task::{Context, Poll, Waker};

use super::*;
use crate::xds::interest::{self, Audience};
use crate::xds::kind::{Kind, Variant};
use crate::xds::name::group_of;
use crate::xds::resource::Resource;
use crate::xds::stream::tests::Finds;
use crate::xds::stream::{Ask, Change, Interest, Source, Terms};

fn at(revision: u64) -> Point {
    Point::new(None, revision.into())
}

/// One service, whose endpoints have changed so often.
fn world(changes: u64) -> impl Source {
    Finds(at(changes), move |kind, name: &str| {
        let is_there = kind == Kind::Endpoint && group_of(name) == "a/x";
        is_there.then(|| Arc::new(Resource::new(kind, name, at(changes), vec![changes as u8])))
    })
}

/// A stream that reads the service, among those of its tenant.
struct Place {
    stream: Arc<Mutex<Stream>>,
    readers: Readers,
    audience: Audience,
    place: interest::Place,
    id: u64,
}

fn stage() -> Place {
    let (readers, audience) = (Readers::default(), Audience::default());
    let mut place = audience.enter();
    let interest = Interest { groups: vec!["a/x"], ..Interest::default() };
    audience.interest(&mut place, &interest);
    let stream = Arc::new(Mutex::new(Stream::new(Variant::State)));
    let id = readers.enter("envoy-1".to_owned(), None, stream.clone(), place.signal.clone());
    Place { stream, readers, audience, place, id }
}

impl Place {
    fn reach(&self, group: Option<&str>, serial: u64) -> StreamReach {
        self.readers.reach(&Tenant::default(), group, at(serial), serial, 9)
    }

    fn figures(&self, serial: u64) -> (u64, u64) {
        let reach = self.reach(Some("a/x"), serial);
        (reach.streams, reach.reached)
    }

    /// The service has changed, and the stream is told.
    fn tell(&self) {
        self.audience.changed(&[Change { group: "a/x".into(), in_existence: false }]);
    }

    /// The stream takes what it has been told, up to a state.
    fn hear(&self, serial: u64) {
        let cx = Context::from_waker(Waker::noop());
        let mut stream = self.stream.lock();
        if let Poll::Ready(news) = self.place.signal.poll(&cx) {
            stream.changed(Some(&news.changes));
            stream.heard(serial);
        }
    }
}

fn ask(place: &Place, nonce: Option<u64>, refused: bool) {
    let terms = Terms::State { names: vec!["a/x".into()], version: String::new() };
    place.stream.lock().ask(Kind::Endpoint, Ask { nonce, refused, terms }).expect("few names");
}

fn next(place: &Place, world: &impl Source) -> Option<u64> {
    place.stream.lock().next(world).map(|answer| answer.nonce)
}

#[test]
fn only_an_acknowledgement_of_the_state_counts() {
    let place = stage();
    assert_eq!(place.figures(1), (0, 0), "it has asked for nothing");
    ask(&place, None, false);
    assert_eq!(place.figures(1), (1, 0));
    let nonce = next(&place, &world(1));
    assert!(nonce.is_some());
    assert_eq!(place.figures(1), (1, 0), "it is on its way");
    ask(&place, Some(77), false);
    assert_eq!(place.figures(1), (1, 0), "the nonce of another answer");
    ask(&place, nonce, false);
    assert_eq!(place.figures(1), (1, 1));
    // A state without a change of this service concerns it by nothing.
    assert_eq!(place.figures(2), (1, 1));
    assert_eq!(place.reach(Some("a/xy"), 2).streams, 0, "another service");
    assert_eq!(place.reach(None, 2).streams, 1, "one that is not known");
    place.tell();
    assert_eq!(place.figures(3), (1, 0), "it has not heard of the change");
    place.hear(3);
    assert_eq!(place.figures(3), (1, 0), "it has not been sent it");
    let nonce = next(&place, &world(3));
    // The service changes again before the client answers: the answer says nothing about that.
    place.tell();
    place.hear(4);
    ask(&place, nonce, false);
    assert_eq!((place.figures(3), place.figures(4)), ((1, 1), (1, 0)));
    let nonce = next(&place, &world(4));
    ask(&place, nonce, false);
    assert_eq!(place.figures(4), (1, 1));
}

#[test]
fn a_state_that_is_ahead_of_the_news_proves_no_more_than_these() {
    let place = stage();
    ask(&place, None, false);
    let nonce = next(&place, &world(1));
    ask(&place, nonce, false);
    place.tell();
    place.hear(2);
    // The state has moved on, and the stream has not been told yet.
    let nonce = next(&place, &world(3));
    place.tell();
    ask(&place, nonce, false);
    assert_eq!((place.figures(2), place.figures(3)), ((1, 1), (1, 0)));
}

#[test]
fn a_refusal_counts_for_nothing_until_all_is_taken() {
    let place = stage();
    ask(&place, None, false);
    let nonce = next(&place, &world(1));
    ask(&place, nonce, true);
    assert_eq!(next(&place, &world(1)), None, "the same is not sent again");
    assert!(place.reach(Some("a/x"), 1).waiting[0].is_refused);
    place.tell();
    place.hear(2);
    let nonce = next(&place, &world(2));
    assert_eq!(place.figures(1), (1, 0), "the next one is on its way");
    ask(&place, nonce, false);
    assert_eq!(place.figures(2), (1, 1));
}

#[test]
fn a_client_that_leaves_before_its_acknowledgement_is_moving() {
    for (asked, acked, stays) in [(true, true, true), (true, false, false), (false, true, false)] {
        let place = stage();
        ask(&place, None, false);
        let nonce = next(&place, &world(1));
        if acked {
            ask(&place, nonce, false);
        }
        if asked {
            place.reach(Some("a/x"), 1);
        }
        assert_eq!(place.readers.leave(place.id), stays, "{asked} {acked}");
    }
    let place = stage();
    assert!(place.readers.leave(place.id), "it had nothing");
    let departures = Departures::default();
    let tenant = Tenant::default();
    assert!(!departures.within(&tenant, Duration::from_secs(60)));
    departures.note(&tenant);
    assert!(departures.within(&tenant, Duration::from_secs(60)));
    assert!(!departures.within(&tenant, Duration::ZERO), "it left before the change");
}

#[test]
fn the_same_revision_after_a_restore_is_another_change() {
    let place = stage();
    ask(&place, None, false);
    let nonce = next(&place, &world(1));
    ask(&place, nonce, false);
    assert_eq!(place.figures(1), (1, 1));
    // The store is restored, and the change of another drain is committed at the same revision.
    place.tell();
    let restored = Point::new(Some(7), 1.into());
    let reach = place.readers.reach(&Tenant::default(), Some("a/x"), restored, 2, 9);
    assert_eq!(
        (reach.streams, reach.reached),
        (1, 0),
        "what was acknowledged is of the history that was undone"
    );
}
