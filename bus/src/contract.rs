//! The contract of a bus as a suite of checks. Each implementation runs it.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::{Bus, BusError, Message, Messages};

/// The wait for a message that must arrive. Long, because a loaded machine is slow and no test waits it out.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait for an answer that must not arrive. Short, because it is always waited out.
const NO_ANSWER_TIMEOUT: Duration = Duration::from_millis(100);

/// Checks the whole contract on `bus`, and the loss of messages on `narrow`, whose subscriptions hold
/// `capacity` messages each.
pub(super) async fn holds(bus: &dyn Bus, narrow: &dyn Bus, capacity: usize) {
    every_subscriber_receives_in_order(bus).await;
    one_member_of_a_group_receives(bus).await;
    order_holds_across_subjects(bus).await;
    an_answer_may_have_many_parts(bus).await;
    a_request_that_nobody_serves_fails_fast(bus).await;
    a_request_that_nobody_answers_times_out(bus).await;
    a_dropped_subscription_no_longer_serves(bus).await;
    everything_of_a_message_arrives(bus).await;
    loss_raises_the_generation(narrow, capacity).await;
}

async fn every_subscriber_receives_in_order(bus: &dyn Bus) {
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

async fn one_member_of_a_group_receives(bus: &dyn Bus) {
    let mut a = served(bus, "c.group").await;
    let mut b = served(bus, "c.group").await;
    let mut outside = subscribed(bus, "c.group").await;
    for n in 0..50_u8 {
        bus.publish(Message::new("c.group", vec![n])).await.expect("published");
    }
    for n in 0..50_u8 {
        assert_eq!(next(&mut outside).await.payload.as_ref(), [n]);
    }
    // The bus may choose either member for each message, so the order across the two is open.
    let mut received = Vec::new();
    while received.len() < 50 {
        let message = tokio::select! { message = next(&mut a) => message, message = next(&mut b) => message };
        received.extend_from_slice(&message.payload);
    }
    received.sort_unstable();
    assert_eq!(received, (0..50).collect::<Vec<u8>>());
}

/// When a message has arrived, everything that its publisher sent before has arrived too, on any subject.
async fn order_holds_across_subjects(bus: &dyn Bus) {
    let mut first = subscribed(bus, "c.first").await;
    let mut second = subscribed(bus, "c.second").await;
    for n in 0..100_u8 {
        bus.publish(Message::new("c.first", vec![n])).await.expect("published");
        bus.publish(Message::new("c.second", vec![n])).await.expect("published");
        assert_eq!(next(&mut second).await.payload.as_ref(), [n]);
        // Without waiting: the earlier message must be here already.
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
        let parts = bus.request(Message::new("c.rpc", "q"), RECEIVE_TIMEOUT).await.expect("answered");
        parts.take(3).map(|part| part.payload[0]).collect::<Vec<u8>>().await
    };
    assert_eq!(tokio::join!(responder, requester).1, [0, 1, 2]);
}

async fn a_request_that_nobody_serves_fails_fast(bus: &dyn Bus) {
    // The long timeout shows that the failure does not come from waiting.
    let failed = bus.request(Message::new("c.nobody", "q"), Duration::from_secs(3600)).await;
    assert!(matches!(failed, Err(BusError::NoResponder(subject)) if subject == "c.nobody"));
}

async fn a_request_that_nobody_answers_times_out(bus: &dyn Bus) {
    let mut requests = served(bus, "c.silent").await;
    let failed = bus.request(Message::new("c.silent", "q"), NO_ANSWER_TIMEOUT).await;
    assert!(matches!(failed, Err(BusError::Timeout(_))));
    next(&mut requests).await;

    // Behind the first part a silence is no error: the stream ends.
    let requester = async {
        let parts = bus.request(Message::new("c.silent", "q"), NO_ANSWER_TIMEOUT).await.expect("a part came");
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
    // The client of NATS only queues the UNSUB.
    bus.flush().await.expect("flushed");
    let failed = bus.request(Message::new("c.gone", "q"), RECEIVE_TIMEOUT).await;
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
    tokio::time::timeout(RECEIVE_TIMEOUT, raised).await.expect("in time").expect("the bus lives");
    for n in 0..capacity {
        assert_eq!(next(&mut messages).await.payload.as_ref(), [n as u8], "the messages that fitted arrive");
    }
}

async fn subscribed(bus: &dyn Bus, subject: &str) -> Messages {
    bus.subscribe(subject).await.expect("subscribed")
}

async fn served(bus: &dyn Bus, subject: &str) -> Messages {
    bus.serve(subject, "group").await.expect("served")
}

async fn next(messages: &mut Messages) -> Message {
    tokio::time::timeout(RECEIVE_TIMEOUT, messages.next()).await.expect("in time").expect("the bus lives")
}
