//! Watches when all goes well: the events that a watcher receives, and the watchers that an event reaches.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::UpstreamConfig;
use shared::event::Action::{Create, Delete, Update};
use tokio_tungstenite::tungstenite::Error;

use crate::world::{Pair, World, config};

#[tokio::test]
async fn every_watcher_receives_every_event_in_order() {
    let world = World::with_consumer("c", &["p", "q"]).await;
    let mut watchers = Vec::new();
    for _ in 0..5 {
        watchers.push(world.watch("c").await);
    }
    let mut told = Vec::new();
    for n in 0..20 {
        told.push(world.control_plane.change("p", Create, &n.to_string()).await);
        told.push(world.control_plane.change("p", Update, &n.to_string()).await);
        told.push(world.control_plane.change("p", Delete, &n.to_string()).await);
    }
    for watcher in &mut watchers {
        for event in &told {
            watcher.expect(event).await;
        }
    }
}

#[tokio::test]
async fn the_frame_is_byte_for_byte_what_old_clients_know() {
    let Pair { world, mut watcher } = Pair::start().await;
    let event = world.control_plane.change("p", Create, "i").await;
    let expected = format!(
        concat!(
            r#"{{"action":"CREATE","key":{{"tenant":"default/default","appId":"app","serviceName":"p","version":"1.0.0"}},"#,
            r#""instance":{{"instanceId":"i","serviceId":"p","endpoints":["rest://i.example:8080"],"hostName":"rev-{}","status":"UP"}}}}"#
        ),
        event.at.rev
    );
    assert_eq!(watcher.text().await, expected);
}

#[tokio::test]
async fn changes_right_after_the_upgrade_are_never_missed() {
    let world = World::start().await;
    for n in 0..50 {
        let consumer = format!("c{}", n % 10);
        if n < 10 {
            world.control_plane.consumer(&consumer, &["p"]);
        }
        let mut watcher = world.watch(&consumer).await;
        world.change_reaches(&mut watcher, "p", Create, &n.to_string()).await;
    }
}

#[tokio::test]
async fn changes_before_the_interest_are_not_sent() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "old").await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = world.watch("c").await;
    world.change_reaches(&mut watcher, "p", Create, "new").await;
}

#[tokio::test]
async fn only_watchers_of_a_provider_receive_its_events() {
    let world = World::start().await;
    world.control_plane.consumer("a", &["p"]);
    world.control_plane.consumer("b", &["q"]);
    let (mut a, mut b) = (world.watch("a").await, world.watch("b").await);
    let p = world.control_plane.change("p", Create, "1").await;
    let q = world.control_plane.change("q", Create, "1").await;
    a.expect(&p).await;
    b.expect(&q).await;
    let p = world.control_plane.change("p", Delete, "1").await;
    let q = world.control_plane.change("q", Update, "1").await;
    a.expect(&p).await;
    b.expect(&q).await;
}

#[tokio::test]
async fn a_provider_found_later_is_followed_from_then_on() {
    let world = World::with_consumer("c", &[]).await;
    world.control_plane.consumer("other", &["q"]);
    let (mut watcher, mut other) = (world.watch("c").await, world.watch("other").await);
    world.control_plane.change("p", Create, "before").await;
    let q = world.control_plane.change("q", Create, "before").await;
    other.expect(&q).await;
    for provider in ["p", "q"] {
        world.control_plane.interest("c", provider).await;
        world.change_reaches(&mut watcher, provider, Create, "after").await;
    }
}

#[tokio::test]
async fn a_hidden_provider_is_deleted_and_then_told_anew() {
    let Pair { world, mut watcher } = Pair::start().await;
    let first = world.control_plane.change("p", Create, "first").await;
    watcher.expect(&first).await;
    world.control_plane.no_interest("c", "p").await;
    // Events and changes of interest may overtake each other, so bookmarks have to settle both changes.
    let publisher = world.control_plane.clone();
    let publishing = tokio::spawn(async move {
        loop {
            publisher.bookmark().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(watcher.event().await, ("DELETE".to_owned(), "first".to_owned(), first.at.rev.get()));
    let second = world.control_plane.change("p", Create, "second").await;
    world.control_plane.show("c", "p").await;
    watcher.expect(&first).await;
    watcher.expect(&second).await;
    publishing.abort();
    world.change_reaches(&mut watcher, "p", Update, "second").await;
}

#[tokio::test]
async fn a_watch_of_an_unknown_consumer_ends_with_a_text() {
    let world = World::start().await;
    let mut watcher = world.watch("nobody").await;
    assert_eq!(watcher.text().await, "service does not exist");
    watcher.expect_end().await;
    // Once it exists, it can watch.
    world.control_plane.consumer("nobody", &["p"]);
    let mut watcher = world.watch("nobody").await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
}

#[tokio::test]
async fn watches_of_a_deleted_consumer_end_with_a_text() {
    let world = World::with_consumer("c", &["p"]).await;
    world.control_plane.consumer("d", &["p"]);
    let mut watchers = [world.watch("c").await, world.watch("c").await, world.watch("c").await];
    let mut other = world.watch("d").await;
    let event = world.control_plane.change("p", Create, "1").await;
    for watcher in &mut watchers {
        watcher.expect(&event).await;
    }
    world.control_plane.delete_consumer("c", true).await;
    for watcher in &mut watchers {
        assert_eq!(watcher.text().await, "service does not exist");
        watcher.expect_end().await;
    }
    other.expect(&event).await;
    world.until(r#"muster_edge_sessions_closed_total{reason="no_service"}"#, |count| count == 3.0).await;
    world.until(r#"muster_edge_sessions"#, |count| count == 1.0).await;
}

#[tokio::test]
async fn the_older_path_works_too() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut watcher = world.watch_path("/registry/v3/microservices/c/watcher").await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
}

#[tokio::test]
async fn a_drain_ends_all_watches_after_their_events() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut watchers = [world.watch("c").await, world.watch("c").await];
    let event = world.control_plane.change("p", Create, "1").await;
    world.tasks.drain().cancel();
    for watcher in &mut watchers {
        watcher.expect(&event).await;
        watcher.expect_end().await;
    }
    assert!(world.tasks.finish(crate::world::PATIENCE).await, "everything ended by itself");
    assert!(!world.readiness.report().ready);
}

#[tokio::test]
async fn a_gateway_at_its_limit_of_services_refuses_new_ones() {
    let upstream = UpstreamConfig { topics: 2, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.consumer("c", &["p", "q"]);
    let mut first = world.watch("c").await;
    world.change_reaches(&mut first, "p", Create, "1").await;
    world.control_plane.register("r").await;
    let path = |query: &str| {
        format!("ws://{}/v4/default/registry/microservices/d/watcher?providers={query}", world.api)
    };
    let refused = tokio_tungstenite::connect_async(path("p,r")).await;
    let Err(Error::Http(answer)) = refused else { panic!("a refusal was expected") };
    assert_eq!(answer.status(), 503);
    // A provider that is followed already takes no further place, nor does one that does not exist.
    let mut second =
        world.watch_path("/v4/default/registry/microservices/d/watcher?providers=p,made-up").await;
    let event = world.control_plane.change("p", Update, "1").await;
    first.expect(&event).await;
    second.expect(&event).await;
}
