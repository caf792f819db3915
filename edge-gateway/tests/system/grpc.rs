//! The gRPC watches, through generated clients.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{FanoutConfig, SessionConfig, UpstreamConfig};
use proto::event::v1::Action;
use proto::servicecenter::WatchInstanceRequest;
use proto::servicecenter::service_instance_ctrl_client::ServiceInstanceCtrlClient;
use proto::watch::v1::WatchRequest;
use proto::watch::v1::watch_client::WatchClient;
use proto::watch::v1::watch_response::What;
use shared::event::Action::{Create, Delete, Update};
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::world::{PATIENCE, World, config};

async fn channel(world: &World) -> Channel {
    Channel::from_shared(format!("http://{}", world.api))
        .expect("an address")
        .connect()
        .await
        .expect("connects")
}

/// A channel that buffers as little as HTTP/2 allows.
async fn narrow(world: &World) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", world.api)).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    endpoint.connect().await.expect("connects")
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, tonic::Status> {
    tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time")
}

fn watch(rev: Option<u64>) -> WatchRequest {
    WatchRequest { consumer_id: "c".to_owned(), rev, ..WatchRequest::default() }
}

#[tokio::test]
async fn the_historical_watch_keeps_its_contract() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut client = ServiceInstanceCtrlClient::new(channel(&world).await);
    let request = WatchInstanceRequest { self_service_id: "c".to_owned() };
    let mut stream = client.watch(request).await.expect("streams").into_inner();
    for action in [Create, Update, Delete] {
        let event = world.control_plane.change("p", action, "i").await;
        let told = next(&mut stream).await.expect("good").expect("open");
        assert_eq!(told.response.expect("a response").message, "Watch instance successfully.");
        assert_eq!(told.action, action.as_str());
        assert_eq!(told.key.expect("a key").service_name, "p");
        assert_eq!(told.instance.expect("an instance").host_name, event.instance.host_name);
    }
    let nobody = WatchInstanceRequest { self_service_id: "nobody".to_owned() };
    let mut stream = client.watch(nobody).await.expect("streams").into_inner();
    assert_eq!(next(&mut stream).await.expect_err("ends").code(), Code::NotFound);
    let none = client.watch(WatchInstanceRequest::default()).await;
    assert_eq!(none.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn streams_on_one_connection_get_resets_events_bookmarks() {
    let upstream = UpstreamConfig { bookmark_interval: Duration::ZERO, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.change("p", Create, "a").await;
    world.control_plane.consumer("c", &["p"]);
    let mut client = WatchClient::new(channel(&world).await);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(client.watch(watch(Some(0))).await.expect("streams").into_inner());
    }
    for stream in &mut streams {
        let Some(What::Reset(state)) = next(stream).await.expect("good").expect("open").what else {
            panic!("a state was expected")
        };
        assert_eq!(state.instances.len(), 1);
        // The replies have shown how far the state has everything.
        let Some(What::Bookmark(_)) = next(stream).await.expect("good").expect("open").what else {
            panic!("a bookmark was expected")
        };
    }
    let event = world.control_plane.change("p", Delete, "a").await;
    // The event is confirmed when nothing is missing, so the publisher repeats the bookmark.
    let publisher = world.control_plane.clone();
    let publishing = tokio::spawn(async move {
        loop {
            publisher.bookmark().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    for stream in &mut streams {
        let Some(What::Event(told)) = next(stream).await.expect("good").expect("open").what else {
            panic!("an event was expected")
        };
        assert_eq!((told.action(), told.rev), (Action::Delete, event.at.rev.get()));
        let mut confirmed = 0;
        while confirmed < event.at.rev.get() {
            let Some(What::Bookmark(bookmark)) = next(stream).await.expect("good").expect("open").what else {
                panic!("a bookmark was expected")
            };
            confirmed = bookmark.rev;
        }
        assert_eq!(confirmed, event.at.rev.get());
    }
    publishing.abort();
    assert_eq!(
        world.metric(&format!(
            r#"service_center_notify_subscriber_total{{domain="default",instance="{}",scheme="gRPC"}}"#,
            world.api
        )),
        3.0
    );
    // The gateway notices that the clients have gone.
    drop(streams);
    world.until("muster_edge_sessions", |count| count == 0.0).await;
}

#[tokio::test]
async fn a_resuming_stream_gets_events_of_a_departed_provider() {
    let world = World::with_consumer("c", &["p", "q"]).await;
    let first = world.control_plane.change("q", Create, "b").await;
    let deleted = world.control_plane.change("q", Delete, "b").await;
    world.control_plane.delete_provider("c", "q").await;
    let mut client = WatchClient::new(channel(&world).await);
    let mut stream = client.watch(watch(Some(first.at.rev.get()))).await.expect("streams").into_inner();
    let Some(What::Event(told)) = next(&mut stream).await.expect("good").expect("open").what else {
        panic!("an event was expected")
    };
    assert_eq!((told.action(), told.rev), (Action::Delete, deleted.at.rev.get()));
    world.control_plane.forget_history();
    // Departures are cached for a moment; this one makes the cached reply outdated.
    world.control_plane.no_interest("c", "p").await;
    // The resuming session waits until a bookmark covers the departure.
    let publisher = world.control_plane.clone();
    let publishing = tokio::spawn(async move {
        loop {
            publisher.bookmark().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut stream = client.watch(watch(Some(first.at.rev.get()))).await.expect("streams").into_inner();
    publishing.abort();
    let Some(What::Reset(void)) = next(&mut stream).await.expect("good").expect("open").what else {
        panic!("a reset was expected")
    };
    assert_eq!((void.key, void.instances.len(), void.since), (None, 0, Some(first.at.rev.get())));
}

#[tokio::test]
async fn an_unread_stream_is_merged_and_reaches_the_last_state() {
    let fanout = FanoutConfig { slow_after_bytes: 16 * 1024, ..config().fanout };
    let session = SessionConfig { write_timeout: Duration::from_secs(60), ..SessionConfig::default() };
    let world = World::with(Config { fanout, session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut client = WatchClient::new(narrow(&world).await);
    let mut stream = client.watch(watch(None)).await.expect("streams").into_inner();
    for _ in 0..15_000 {
        world.control_plane.change("p", Update, "i").await;
    }
    world.until("muster_edge_events_merged_total", |merged| merged > 500.0).await;
    let last = world.control_plane.change("p", Delete, "i").await;
    let mut received = 0;
    let mut before = 0;
    while before < last.at.rev.get() {
        let Some(What::Event(told)) = next(&mut stream).await.expect("good").expect("open").what else {
            panic!("an event was expected")
        };
        assert!(told.rev > before, "in order");
        before = told.rev;
        received += 1;
    }
    assert!(received < 14_600, "merged: {received}");
    let next_one = world.control_plane.change("p", Create, "i").await;
    let told = next(&mut stream).await.expect("good").expect("open").what;
    assert!(matches!(told, Some(What::Event(told)) if told.rev == next_one.at.rev.get()));
}

#[tokio::test]
async fn a_stream_that_is_never_read_is_closed() {
    let session = SessionConfig { write_timeout: Duration::from_millis(500), ..SessionConfig::default() };
    let world = World::with(Config { session, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut client = WatchClient::new(narrow(&world).await);
    let stream = client.watch(watch(None)).await.expect("streams").into_inner();
    for _ in 0..15_000 {
        world.control_plane.change("p", Update, "i").await;
    }
    world.until(r#"muster_edge_sessions_closed_total{reason="write_timeout"}"#, |count| count == 1.0).await;
    drop(stream);
}

#[tokio::test]
async fn a_drain_ends_streams_with_unavailable() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut client = WatchClient::new(channel(&world).await);
    let mut stream = client.watch(watch(None)).await.expect("streams").into_inner();
    world.tasks.drain().cancel();
    assert_eq!(next(&mut stream).await.expect_err("ends").code(), Code::Unavailable);
    drop((stream, client));
    assert!(world.tasks.finish(PATIENCE).await);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let world = World::start().await;
    let channel = channel(&world).await;
    let mut health = HealthClient::new(channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.expect("answers").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);

    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::once(std::future::ready(request));
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(requests)
        .await
        .expect("answers")
        .into_inner();
    let answer = answers.message().await.expect("good").expect("one").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(
        names.contains(&"muster.watch.v1.Watch") && names.contains(&"proto.ServiceInstanceCtrl"),
        "{names:?}"
    );
}
