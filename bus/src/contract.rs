//! What every bus must do: one suite, run on each implementation.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::{Bus, BusError, Message, Messages};

const PATIENCE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(100);

/// Checks the whole contract on `bus`, and loss on `narrow`, whose subscriptions hold `capacity` messages.
pub(super) async fn holds(bus: &dyn Bus, narrow: &dyn Bus, capacity: usize) {
    everyone_hears_in_order(bus).await;
    one_of_a_group_hears(bus).await;
    order_holds_across_subjects(bus).await;
    an_answer_may_have_many_parts(bus).await;
    a_request_that_nobody_serves_fails_fast(bus).await;
    a_request_that_nobody_answers_times_out(bus).await;
    a_dropped_subscription_no_longer_serves(bus).await;
    everything_of_a_message_arrives(bus).await;
    loss_raises_the_generation(narrow, capacity).await;
}

async fn everyone_hears_in_order(bus: &dyn Bus) {
    let mut both = [subscribed(bus, "c.all").await, subscribed(bus, "c.all").await];
    for n in 0..100_u8 {
        bus.publish(Message::new("c.all", vec![n])).await.expect("published");
    }
    for messages in &mut both {
        for n in 0..100_u8 {
            assert_eq!(next(messages).await.payload.as_ref(), [n]);
        }
    }
}

async fn one_of_a_group_hears(bus: &dyn Bus) {
    let (mut a, mut b) = (served(bus, "c.group").await, served(bus, "c.group").await);
    let mut outside = subscribed(bus, "c.group").await;
    for n in 0..50_u8 {
        bus.publish(Message::new("c.group", vec![n])).await.expect("published");
    }
    for n in 0..50_u8 {
        assert_eq!(next(&mut outside).await.payload.as_ref(), [n]);
    }
    let mut heard = Vec::new();
    while heard.len() < 50 {
        let message = tokio::select! { message = next(&mut a) => message, message = next(&mut b) => message };
        heard.extend_from_slice(&message.payload);
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..50).collect::<Vec<u8>>());
}

/// What one publisher sent before, on whatever subject, is there when what it sent after has come.
async fn order_holds_across_subjects(bus: &dyn Bus) {
    let (mut first, mut second) = (subscribed(bus, "c.first").await, subscribed(bus, "c.second").await);
    for n in 0..100_u8 {
        bus.publish(Message::new("c.first", vec![n])).await.expect("published");
        bus.publish(Message::new("c.second", vec![n])).await.expect("published");
        assert_eq!(next(&mut second).await.payload.as_ref(), [n]);
        assert_eq!(
            futures_util::FutureExt::now_or_never(first.next()).flatten().map(|m| m.payload[0]),
            Some(n)
        );
    }
}

async fn an_answer_may_have_many_parts(bus: &dyn Bus) {
    let mut requests = served(bus, "c.rpc").await;
    let responder = async {
        let reply = next(&mut requests).await.reply.expect("a request names where to answer");
        for n in 0..3_u8 {
            bus.publish(Message::new(reply.clone(), vec![n])).await.expect("published");
        }
    };
    let requester = async {
        let parts = bus.request(Message::new("c.rpc", "q"), PATIENCE).await.expect("answered");
        parts.take(3).map(|part| part.payload[0]).collect::<Vec<u8>>().await
    };
    assert_eq!(tokio::join!(responder, requester).1, [0, 1, 2]);
}

async fn a_request_that_nobody_serves_fails_fast(bus: &dyn Bus) {
    let failed = bus.request(Message::new("c.nobody", "q"), Duration::from_secs(3600)).await;
    assert!(matches!(failed, Err(BusError::NoResponder(subject)) if subject == "c.nobody"));
}

async fn a_request_that_nobody_answers_times_out(bus: &dyn Bus) {
    let mut requests = served(bus, "c.silent").await;
    let failed = bus.request(Message::new("c.silent", "q"), SHORT).await;
    assert!(matches!(failed, Err(BusError::Timeout(_))));
    next(&mut requests).await;

    // After the first part the stream just ends.
    let requester = async {
        let parts = bus.request(Message::new("c.silent", "q"), SHORT).await.expect("a part came");
        parts.count().await
    };
    let responder = async {
        let reply = next(&mut requests).await.reply.expect("a request names where to answer");
        bus.publish(Message::new(reply, "part")).await.expect("published");
    };
    assert_eq!(tokio::join!(requester, responder).0, 1);
}

async fn a_dropped_subscription_no_longer_serves(bus: &dyn Bus) {
    drop(served(bus, "c.gone").await);
    bus.flush().await.expect("flushed");
    let failed = bus.request(Message::new("c.gone", "q"), PATIENCE).await;
    assert!(matches!(failed, Err(BusError::NoResponder(_))));
}

async fn everything_of_a_message_arrives(bus: &dyn Bus) {
    let mut messages = subscribed(bus, "c.whole").await;
    let sent = Message {
        subject: "c.whole".to_owned(),
        payload: vec![0xff; 100_000].into(),
        reply: Some("c.reply".to_owned()),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    };
    assert!(sent.payload.len() <= bus.max_payload());
    bus.publish(sent.clone()).await.expect("published");
    assert_eq!(next(&mut messages).await, sent);
}

async fn loss_raises_the_generation(narrow: &dyn Bus, capacity: usize) {
    let mut messages = subscribed(narrow, "c.narrow").await;
    let before = *narrow.link().borrow();
    assert!(before.connected);
    for n in 0..capacity + 1 {
        narrow.publish(Message::new("c.narrow", vec![n as u8])).await.expect("published");
    }
    narrow.flush().await.expect("flushed");
    let mut link = narrow.link();
    let raised = link.wait_for(|link| link.generation > before.generation);
    tokio::time::timeout(PATIENCE, raised).await.expect("in time").expect("the bus lives");
    for n in 0..capacity {
        assert_eq!(next(&mut messages).await.payload.as_ref(), [n as u8], "what fitted is there");
    }
}

async fn subscribed(bus: &dyn Bus, subject: &str) -> Messages {
    bus.subscribe(subject).await.expect("subscribed")
}

async fn served(bus: &dyn Bus, subject: &str) -> Messages {
    bus.serve(subject, "group").await.expect("served")
}

async fn next(messages: &mut Messages) -> Message {
    tokio::time::timeout(PATIENCE, messages.next()).await.expect("in time").expect("the bus lives")
}
