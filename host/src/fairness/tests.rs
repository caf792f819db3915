use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio::time::{advance, sleep};

use super::*;

fn shares(places: usize) -> FairShares {
    FairShares::new(places, &SdkMeterProvider::builder().build().meter("test"), "test")
}

fn now(shares: &FairShares, party: &str) -> Option<Place> {
    shares.enter(party).now_or_never().map(|entered| entered.expect("a place"))
}

#[tokio::test(start_paused = true)]
async fn a_party_that_is_alone_has_no_bound() {
    let shares = shares(2);
    // The first request of all follows no other; a second after it the party counts as alone.
    drop(now(&shares, "a"));
    advance(ALONE_AFTER).await;
    let all: Vec<Place> = (0..100).filter_map(|_| now(&shares, "a")).collect();
    assert_eq!(all.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_flood_leaves_the_places_of_others_alone() {
    let shares = shares(2);
    let mut flood: Vec<Place> = (0..100).filter_map(|_| now(&shares, "flood")).collect();
    let honest: Vec<Place> = (0..3).filter_map(|_| now(&shares, "honest")).collect();
    assert_eq!(honest.len(), 2, "everybody has two places");
    assert!(now(&shares, "flood").is_none());
    let running = flood.len();
    flood.clear();
    assert!(running <= 2, "the flood had {running} places although it was not alone");
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
    assert!(second.as_mut().poll(&mut context).is_pending());
    let Poll::Ready(Ok(place)) = first.as_mut().poll(&mut context) else {
        panic!("the first has waited longer")
    };
    drop(place);
    assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
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
    assert!(matches!(last.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    drop(now(&shares, "other"));
    assert!(now(&shares, "a").is_some(), "the place of the last one is free again");
    assert!(shares.0.state.lock().lines.is_empty(), "nothing is kept for parties without requests");
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
        assert!(matches!(one.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    }
}

#[tokio::test]
async fn no_places_mean_no_limit() {
    let shares = shares(0);
    drop(now(&shares, "other"));
    let all: Vec<Place> = (0..100).filter_map(|_| now(&shares, "a")).collect();
    assert_eq!(all.len(), 100);
}
