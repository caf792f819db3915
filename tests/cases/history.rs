//! The history is sent by a replica that has it, however many replicas have started since, and requests to a replica
//! that stands still are answered by another.

use futures_util::StreamExt;
use harness::{Client, World, eventually};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::{InstanceEvent, Position};
use shared::subject;

/// The reply of the first replica about the provider.
async fn ask(nats: &async_nats::Client, subject: &'static str, since: &InstanceEvent) -> pb::ReplayReply {
    let provider = pb::replay_request::Provider {
        provider: Some((&since.provider).into()),
        since: Some(since.at.into()),
        snapshot: false,
    };
    let request =
        pb::ReplayRequest { providers: vec![provider], min_rev: since.at.rev.get(), incarnation: None };
    let answer = nats.request(subject, request.encode_to_vec().into()).await.expect("an answer");
    pb::ReplayReply::decode(answer.payload).expect("a reply")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_replica_that_has_the_history_answers_for_it() {
    let world = World::with().planes(2).gateways(0).start().await;
    let nats = async_nats::connect(world.nats.url()).await.expect("NATS is there");
    let mut events = nats.subscribe("muster.event.>").await.expect("subscribes");
    nats.flush().await.expect("flushes");
    let client = Client::new(world.control_planes[0].api);
    let provider = client.service("provider").await;
    client.instance(&provider, "a").await;
    let first = loop {
        let message = events.next().await.expect("the change is published");
        let event = InstanceEvent::decode(&message.payload).expect("an event");
        if event.provider.id == provider {
            break event;
        }
    };
    for tag in ["1", "2", "3"] {
        client.tag(&provider, "a", tag).await;
    }
    let began = &world.control_planes[1];
    began.process.kill();
    began.process.start();
    began.ready().await;

    // Any replica answers a replay. The restarted one has no history and can only send the state.
    eventually("the one that began answers", || async {
        let reply = ask(&nats, subject::RPC_REPLAY, &first).await;
        (!reply.providers.first()?.continuous).then_some(())
    })
    .await;
    // Repeated, because a single right reply could be chance.
    for _ in 0..8 {
        let reply = ask(&nats, subject::RPC_HISTORY, &first).await;
        let told = reply.providers.first().expect("of the provider");
        assert!(told.continuous && !told.has_snapshot && reply.answer > 0, "{reply:?}");
        let places: Vec<Position> = told.events.iter().filter_map(|event| Some(event.at?.into())).collect();
        assert_eq!(places.len(), 3, "{reply:?}");
        assert!(places.is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_a_replica_that_stands_still_are_answered_by_another() {
    let world = World::with().planes(2).start().await;
    let gateway = &world.gateways[0];
    let client = Client::new(world.control_planes[0].api);
    let provider = client.service("provider").await;
    let mut consumers = Vec::new();
    for number in 0..12 {
        let consumer = client.service(&format!("consumer-{number}")).await;
        client.find(&consumer, "provider", "").await.ok();
        consumers.push(consumer);
    }
    world.control_planes[1].process.freeze();
    let repeated = gateway.metric("muster_edge_requests_repeated_total", "").await;
    let mut watchers = Vec::new();
    // Each watch needs an answer, and the bus gives every second request to the one that stands still.
    for consumer in &consumers {
        watchers.push(world.watch(0, consumer).await);
    }
    client.instance(&provider, "a").await;
    for watcher in &mut watchers {
        watcher.expect("CREATE", "a", "").await;
    }
    assert!(gateway.metric("muster_edge_requests_hedged_total", "").await > 0.0);
    let repeated_since = gateway.metric("muster_edge_requests_repeated_total", "").await - repeated;
    assert_eq!(repeated_since, 0.0, "no request has waited for its timeout");
    world.control_planes[1].process.thaw();
}
