use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio::time::{advance, sleep};

use super::line::Queue;
use super::*;

/// Shares with at most two places of each party, however many processors there are.
fn shares(places: usize) -> FairShares {
    assert!(places <= 2, "with more places the number of processors counts");
    FairShares::new(places, &SdkMeterProvider::builder().build().meter("test"), "test").0
}

fn now(shares: &FairShares, party: &str) -> Option<Place> {
    shares.enter(party).now_or_never().map(|entered| entered.expect("a place"))
}

/// The same for a party that has had many requests: each of them lets other work go first.
fn soon(shares: &FairShares, party: &str) -> Option<Place> {
    looked_at_twice(pin!(shares.enter(party)))
}

/// The outcome of a request that has waited. It lets other work go first, which takes it a second look.
fn looked_at_twice<F: Future<Output = Result<Place, NoPlace>>>(mut waiting: Pin<&mut F>) -> Option<Place> {
    let mut context = Context::from_waker(Waker::noop());
    let first = waiting.as_mut().poll(&mut context);
    let looked = if first.is_pending() { waiting.poll(&mut context) } else { first };
    match looked {
        Poll::Ready(entered) => Some(entered.expect("a place")),
        Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_party_that_is_alone_has_no_bound() {
    let shares = shares(2);
    let all: Vec<Place> = (0..100).filter_map(|_| now(&shares, "a")).collect();
    assert_eq!(all.len(), 100, "nobody has sent a request before");
    drop(now(&shares, "b"));
    assert!(now(&shares, "a").is_none());
    drop(all);
    advance(ALONE_AFTER).await;
    let all: Vec<Place> = (0..100).filter_map(|_| now(&shares, "a")).collect();
    assert_eq!(all.len(), 100, "it is alone again");
}

#[tokio::test(start_paused = true)]
async fn a_flood_leaves_the_places_of_others_alone() {
    let shares = shares(2);
    drop(now(&shares, "honest"));
    let mut flood: Vec<Place> = (0..100).filter_map(|_| now(&shares, "flood")).collect();
    let honest: Vec<Place> = (0..3).filter_map(|_| now(&shares, "honest")).collect();
    assert_eq!(honest.len(), 2, "everybody has two places");
    assert!(now(&shares, "flood").is_none());
    let running = flood.len();
    flood.clear();
    assert!(running <= 2, "the flood had {running} places although it was not alone");
    shares.0.measured(Duration::ZERO);
    assert!(now(&shares, "flood").is_some());
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_party_get_places_in_their_order() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    let place = now(&shares, "a");
    let mut context = Context::from_waker(Waker::noop());
    let mut first = pin!(shares.enter("a"));
    let mut second = pin!(shares.enter("a"));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    drop(place);
    assert!(looked_at_twice(second.as_mut()).is_none());
    let place = looked_at_twice(first.as_mut()).expect("the first has waited longer");
    drop(place);
    assert!(looked_at_twice(second.as_mut()).is_some());
}

#[tokio::test(start_paused = true)]
async fn clients_that_leave_take_no_place() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    let place = now(&shares, "a");
    let mut context = Context::from_waker(Waker::noop());
    let mut gone: Vec<_> = (0..50_000).map(|_| Box::pin(shares.enter("a"))).collect();
    for waiting in &mut gone {
        assert!(waiting.as_mut().poll(&mut context).is_pending());
    }
    let mut last = pin!(shares.enter("a"));
    assert!(last.as_mut().poll(&mut context).is_pending());
    // Half of them leave while they wait, and half with a place that they have not seen yet.
    gone.truncate(25_000);
    drop(place);
    drop(gone);
    assert!(looked_at_twice(last.as_mut()).is_some());
    drop(now(&shares, "other"));
    shares.0.measured(Duration::ZERO);
    assert!(shares.0.state.lock().lines.is_empty(), "nothing is kept for parties without requests");
    assert!(now(&shares, "a").is_some(), "the place of the last one is free again");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    let _place = now(&shares, "a");
    assert_eq!(shares.enter("a").await.map(drop), Err(NoPlace));
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_is_alone_again_fills_its_line() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    let place = now(&shares, "a");
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(shares.enter("a"))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().poll(&mut context).is_pending());
    }
    sleep(ALONE_AFTER).await;
    drop(place);
    for one in &mut waiting {
        assert!(looked_at_twice(one.as_mut()).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_another_program_gives_its_place_to_the_next() {
    // Two at a time on one processor, and three with those that wait.
    let shares = FairShares::new(3, &SdkMeterProvider::builder().build().meter("test"), "test").0;
    drop(now(&shares, "other"));
    let mut first = soon(&shares, "a").expect("a place");
    let mut second = soon(&shares, "a").expect("a place");
    assert!(soon(&shares, "a").is_none());
    first.rest();
    first.rest();
    let third = soon(&shares, "a").expect("the place of the first");
    assert!(soon(&shares, "a").is_none(), "two are worked on");
    second.rest();
    assert!(soon(&shares, "a").is_none(), "three are under way");
    drop(first);
    let fourth = soon(&shares, "a").expect("the first has ended");
    drop((second, third, fourth));
    shares.0.measured(Duration::ZERO);
    assert!(shares.0.state.lock().lines.is_empty(), "nothing stays behind");
}

#[tokio::test(start_paused = true)]
async fn a_request_holds_its_place_until_it_waits_or_ends() {
    let shares = FairShares::new(3, &SdkMeterProvider::builder().build().meter("test"), "test").0;
    drop(now(&shares, "other"));
    let _beside = soon(&shares, "a");
    let request = async {
        rest();
        hold(soon(&shares, "a").expect("a place"));
        assert!(soon(&shares, "a").is_none());
        rest();
        drop(soon(&shares, "a").expect("the place of the request that waits"));
        soon(&shares, "a").expect("as before")
    };
    let next = holding(request).await;
    drop(next);
    hold(soon(&shares, "a").expect("the request has ended"));
    assert!(soon(&shares, "a").is_some(), "nobody works on a request here");
}

#[tokio::test]
async fn no_places_mean_no_limit() {
    let shares = shares(0);
    drop(now(&shares, "other"));
    let all: Vec<Place> = (0..100).filter_map(|_| now(&shares, "a")).collect();
    assert_eq!(all.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_party_that_sends_more_than_its_share_lets_others_go_first() {
    let shares = shares(2);
    drop(now(&shares, "other"));
    // Each of them is answered at once, so there is always a free place.
    let at_once = |party| std::iter::repeat_with(move || now(&shares, party).is_some());
    assert_eq!(at_once("flood").take(5).collect::<Vec<_>>(), [true, true, false, false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gives_way_is_answered_after_work_that_is_ready() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    drop(now(&shares, "flood"));
    let order = Mutex::new(Vec::new());
    let flood = async {
        let _place = shares.enter("flood").await.expect("a place");
        order.lock().push("flood");
    };
    let other = async { order.lock().push("other") };
    tokio::join!(flood, other);
    assert_eq!(*order.lock(), ["other", "flood"]);
    // At the next measurement it begins anew.
    shares.0.measured(Duration::ZERO);
    assert!(now(&shares, "flood").is_some());
}

#[tokio::test(start_paused = true)]
async fn places_follow_what_is_measured_while_parties_share() {
    let meter = SdkMeterProvider::builder().build().meter("test");
    let (shares, measuring) = FairShares::new(1000, &meter, "test");
    let places = || shares.0.state.lock().allowance.places();
    let lowest = places();
    let stop = CancellationToken::new();
    let sharing = async {
        let mut held = Vec::new();
        for party in ["a", "b"] {
            held.extend((0..lowest).map(|_| shares.0.take_or_wait(shares.0.hasher.hash_one(party))));
        }
        let party = shares.0.hasher.hash_one("a");
        assert!(matches!(shares.0.take_or_wait(party), Turn::InLine(_)));
        // No time passes while others are ready, so no work ever waits.
        sleep(SELDOM + OFTEN).await;
        assert_eq!(places(), lowest + 1, "somebody has waited for a place");
        sleep(ALONE_AFTER + SELDOM).await;
        assert_eq!(places(), lowest, "nobody shares any more");
        stop.cancel();
    };
    tokio::join!(measuring.run(stop.clone()), sharing);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_party_takes_more_than_its_share_moves_and_comes_back() {
    let shares = shares(2);
    let party = |name| shares.0.hasher.hash_one(name);
    let (flood, honest) = (Lane::default(), Lane::default());
    let turn = async |taken: Duration| {
        shares.0.state.lock().usage.account(party("flood")).add(taken);
        shares.0.state.lock().usage.account(party("honest")).add(OFTEN / 10);
        advance(OFTEN).await;
        shares.0.measured(Duration::ZERO);
    };
    // Nobody else has sent anything.
    drop(now(&shares, "flood"));
    advance(APART_FOR).await;
    for _ in 0..10 {
        turn(OFTEN).await;
        assert!(!shares.0.chooses(&flood, party("flood")), "it stays where it is");
    }
    drop(now(&shares, "honest"));
    assert!(shares.0.chooses(&flood, party("flood")), "it moves");
    for _ in 0..100 {
        turn(OFTEN).await;
        assert!(!shares.0.chooses(&flood, party("flood")), "it stays in the slow lane");
        assert!(!shares.0.chooses(&honest, party("honest")), "it stays in the usual one");
    }
    for _ in 0..20 {
        turn(Duration::ZERO).await;
    }
    assert!(shares.0.chooses(&flood, party("flood")), "it comes back");
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_hold_up_only_those_that_wait_for_the_same() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    // A request that has a place, and the outcome of its wait as far as it has one.
    let begins = |kind: Wait| {
        let shares = shares.clone();
        Box::pin(holding(async move {
            hold(shares.enter("a").await.expect("a place"));
            wait(kind).await.expect("a place");
            std::future::pending::<()>().await;
        }))
    };
    let line = |shares: &FairShares| {
        let state = shares.0.state.lock();
        let line = &state.lines[&shares.0.hasher.hash_one("a")];
        let of = |queue: &Queue| (queue.running, queue.waiting.len());
        (of(&line.working), line.waits.each_ref().map(of))
    };
    let mut context = Context::from_waker(Waker::noop());
    let mut all: Vec<_> = [Wait::Answer, Wait::Answer, Wait::Word, Wait::News].map(begins).into();
    for request in &mut all {
        // A request of a party that has had many lets other work go first, which takes it a second look.
        for _ in 0..2 {
            assert!(request.as_mut().poll(&mut context).is_pending());
        }
    }
    assert_eq!(line(&shares), ((0, 0), [(1, 1), (1, 0), (1, 0)]), "one place for each kind of wait");
    drop(soon(&shares, "a").expect("whoever waits for nobody has a place"));
    drop(all.remove(0));
    assert!(all[0].as_mut().poll(&mut context).is_pending());
    assert_eq!(line(&shares), ((0, 0), [(1, 0), (1, 0), (1, 0)]), "the next one has the place of the first");
    drop(all);
    assert!(soon(&shares, "a").is_some());
    shares.0.measured(Duration::ZERO);
    assert!(shares.0.state.lock().lines.is_empty(), "nothing stays behind");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_stop_waiting_and_wait_for_something_else() {
    let shares = shares(1);
    drop(now(&shares, "other"));
    let first = holding(async {
        hold(soon(&shares, "a").expect("a place"));
        assert_eq!(waiting(Wait::Word, std::future::ready(1)).await, Ok(1));
        assert!(soon(&shares, "a").is_none(), "what is there already is not waited for");
        wait(Wait::Word).await.expect("a place");
        wait(Wait::Word).await.expect("the place that it has");
        let second = holding(async {
            hold(soon(&shares, "a").expect("the place of the first"));
            assert!(wait(Wait::Word).now_or_never().is_none(), "the first waits for a word");
            wait(Wait::Answer).await.expect("a place");
            let happens = async { tokio::task::yield_now().await };
            assert_eq!(waiting(Wait::News, happens).await, Ok(()));
            drop(soon(&shares, "a").expect("both wait"));
        });
        second.await;
        assert_eq!(wait(Wait::Answer).now_or_never(), Some(Ok(())), "the second one has ended");
    });
    first.await;
    shares.0.measured(Duration::ZERO);
    assert!(shares.0.state.lock().lines.is_empty(), "nothing stays behind");
}

#[tokio::test(start_paused = true)]
async fn places_that_are_added_go_to_those_that_wait() {
    // Two at a time on one processor, and up to four.
    let shares = FairShares::new(4, &SdkMeterProvider::builder().build().meter("test"), "test").0;
    drop(now(&shares, "other"));
    // They hang: no place comes back.
    let mut hung: Vec<Place> = (0..2).filter_map(|_| soon(&shares, "a")).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..6).map(|_| Box::pin(shares.enter("a"))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().poll(&mut context).is_pending());
    }
    for _ in 0..2 {
        shares.0.measured(Duration::ZERO);
        hung.push(looked_at_twice(waiting.remove(0).as_mut()).expect("the place that was added"));
    }
    shares.0.measured(Duration::ZERO);
    assert!(looked_at_twice(waiting[0].as_mut()).is_none(), "there are no more than four");
    // Whoever is alone has no bound, and need not wait for the end of what hangs.
    advance(ALONE_AFTER).await;
    shares.0.measured(Duration::ZERO);
    for one in &mut waiting {
        assert!(looked_at_twice(one.as_mut()).is_some());
    }
}
