//! Requests beside replicas that stand still, that are slow, and that know no requests to all.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bus::LocalBus;
use futures_util::{FutureExt as _, StreamExt as _, future, stream};
use tokio::time::Instant;

use super::*;

const QUESTION: &str = "question";
const TIMEOUT: Duration = Duration::from_secs(3);

fn hedge() -> Hedge {
    Hedge::new(UpstreamMetrics::none())
}

/// The messages of a replica that serves requests to one, and to all of them if `to_all`.
async fn member(bus: &LocalBus, to_all: bool) -> Messages {
    let to_one = bus.serve(QUESTION, subject::REPLICAS).await.expect("serves");
    if !to_all {
        return to_one;
    }
    Messages::new(stream::select(
        to_one,
        bus.subscribe(&subject::to_all(QUESTION)).await.expect("subscribes"),
    ))
}

/// A replica that answers with `words`, one part each, the first of them after `pause`.
async fn replica(bus: &LocalBus, pause: Duration, words: &'static [&'static str]) {
    let mut questions = member(bus, true).await;
    let bus = bus.clone();
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let bus = bus.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                for word in words {
                    let reply = question.reply.clone().expect("a request");
                    bus.publish(Message::new(reply, *word)).await.expect("publishes");
                }
            });
        }
    });
}

async fn ask(hedge: &Hedge, bus: &LocalBus) -> Result<Vec<u8>, BusError> {
    let mut answer = hedge.request(bus, Message::new(QUESTION, "?"), TIMEOUT).await?;
    Ok(answer.next().await.expect("a part").payload.to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stands_still_costs_only_the_patience() {
    let bus = LocalBus::new();
    let _stands_still = member(&bus, true).await;
    replica(&bus, Duration::ZERO, &["answer"]).await;
    let hedge = hedge();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(ask(&hedge, &bus).await.expect("is answered"), b"answer");
        waits.push(began.elapsed());
    }
    waits.sort();
    // The replicas take turns.
    assert_eq!(waits[..2], [Duration::ZERO; 2]);
    assert!(waits[2..].iter().all(|wait| (PATIENCE..PATIENCE * 2).contains(wait)), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_may_still_answer_first() {
    let bus = LocalBus::new();
    replica(&bus, PATIENCE * 3, &["slow"]).await;
    let began = Instant::now();
    assert_eq!(ask(&hedge(), &bus).await.expect("is answered"), b"slow");
    assert!(began.elapsed() < PATIENCE * 4, "its answer to the first request counts");
}

#[tokio::test(start_paused = true)]
async fn replicas_that_know_no_requests_to_all_are_waited_for() {
    let bus = LocalBus::new();
    let mut questions = member(&bus, false).await;
    let hedge = hedge();
    let answering = async {
        let question = questions.next().await.expect("a request");
        tokio::time::sleep(TIMEOUT / 2).await;
        bus.publish(Message::new(question.reply.expect("a request"), "late")).await.expect("publishes");
    };
    let (answer, ()) = future::join(ask(&hedge, &bus), answering).await;
    assert_eq!(answer.expect("is answered"), b"late");
    let missing = hedge.request(&bus, Message::new("nobody", "?"), TIMEOUT).now_or_never();
    assert!(matches!(missing, Some(Err(BusError::NoResponder(_)))), "and nobody is not waited for");
}

#[tokio::test(start_paused = true)]
async fn few_requests_wait_at_all_replicas_at_once() {
    let bus = LocalBus::new();
    let _to_one = bus.serve(QUESTION, subject::REPLICAS).await.expect("serves");
    let mut to_all = bus.subscribe(&subject::to_all(QUESTION)).await.expect("subscribes");
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    tokio::spawn(async move {
        while to_all.next().await.is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let hedge = hedge();
    let all = future::join_all((0..100).map(|_| ask(&hedge, &bus)));
    let (outcomes, ()) = future::join(all, async {
        tokio::time::sleep(TIMEOUT - PATIENCE).await;
        assert_eq!(came.load(Ordering::Relaxed), AT_ONCE);
    })
    .await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(BusError::Timeout(_)))));
    assert_eq!(hedge.places.available_permits(), AT_ONCE, "every place is free again");
}
