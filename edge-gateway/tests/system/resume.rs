//! Clients that resume from a revision, and observers that name the providers they watch.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::UpstreamConfig;
use serde_json::{Value, json};
use shared::event::Action::{Create, Delete, Update};
use shared::event::InstanceEvent;
use shared::model::Revision;

use crate::world::{PATIENCE, Watcher, World, config};

fn path(rest: &str) -> String {
    format!("/v4/default/registry/microservices/c/watcher?{rest}")
}

/// The next frame that is not a bookmark.
async fn frame(watcher: &mut Watcher) -> Value {
    loop {
        let frame: Value = serde_json::from_str(&watcher.text().await).expect("JSON");
        if frame["action"] != "BOOKMARK" {
            return frame;
        }
    }
}

/// Publishes bookmarks until the gateway confirms `rev`, and nothing later. Meanwhile it may confirm what came
/// before.
async fn confirmed(world: &World, watcher: &mut Watcher, rev: Revision) {
    let confirmed = async {
        loop {
            world.control_plane.bookmark().await;
            let text = tokio::time::timeout(Duration::from_millis(20), watcher.next()).await;
            if let Ok(Some(Ok(message))) = text {
                let frame: Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
                assert_eq!(frame["action"], "BOOKMARK", "{frame}");
                let told = frame["rev"].as_u64().expect("a revision");
                assert!(told <= rev.get(), "{frame}, and {rev} is the last");
                if told == rev.get() {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, confirmed).await.expect("nothing is missing");
}

async fn expect(watcher: &mut Watcher, event: &InstanceEvent) {
    let frame = frame(watcher).await;
    assert_eq!(frame["action"], event.action.as_str(), "{frame}");
    assert_eq!(frame["instance"]["instanceId"], event.instance.instance_id.as_str(), "{frame}");
    assert_eq!(frame["rev"], event.at.rev.get(), "{frame}");
}

#[tokio::test]
async fn from_revision_zero_the_state_comes_first() {
    let world = World::start().await;
    for id in ["a", "b"] {
        world.control_plane.change("p", Create, id).await;
    }
    world.control_plane.consumer("c", &["p", "empty"]);
    let mut watcher = world.watch_path(&path("rev=0")).await;
    let list = frame(&mut watcher).await;
    assert_eq!(list["action"], "RESET");
    assert_eq!(list["key"]["serviceName"], "p");
    let mut ids: Vec<_> = list["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|instance| &instance["instanceId"])
        .collect();
    ids.sort_by_key(|id| id.to_string());
    assert_eq!(ids, [&json!("a"), &json!("b")]);
    let rev = list["rev"].as_u64().expect("a revision");

    let event = world.control_plane.change("p", Update, "a").await;
    assert!(rev < event.at.rev.get());
    expect(&mut watcher, &event).await;
}

#[tokio::test]
async fn a_resuming_client_receives_what_it_missed_once() {
    let world = World::with_consumer("c", &["p", "q"]).await;
    let first = world.control_plane.change("p", Create, "a").await;
    let missed = [
        world.control_plane.change("q", Create, "b").await,
        world.control_plane.change("p", Update, "a").await,
        world.control_plane.change("q", Delete, "b").await,
    ];
    // First on a gateway without any state, then on one that keeps the events.
    for _ in 0..2 {
        let mut watcher = world.watch_path(&path(&format!("rev={}", first.at.rev))).await;
        for event in &missed {
            expect(&mut watcher, event).await;
        }
    }
    let mut watcher = world.watch_path(&path(&format!("rev={}", missed[1].at.rev))).await;
    expect(&mut watcher, &missed[2]).await;
    let next = world.control_plane.change("p", Delete, "a").await;
    expect(&mut watcher, &next).await;
}

#[tokio::test]
async fn a_forgotten_revision_leads_to_a_reset() {
    let world = World::with_consumer("c", &["p"]).await;
    let old = world.control_plane.change("p", Create, "a").await;
    world.control_plane.change("p", Create, "b").await;
    world.control_plane.change("p", Delete, "a").await;
    world.control_plane.forget_history();
    let mut watcher = world.watch_path(&path(&format!("rev={}", old.at.rev))).await;
    // The client may have providers that nobody remembers either, so it must forget all.
    let void = frame(&mut watcher).await;
    assert_eq!(
        (&void["action"], &void["key"], &void["since"]),
        (&json!("RESET"), &json!(null), &json!(old.at.rev))
    );
    let state = frame(&mut watcher).await;
    assert_eq!((&state["action"], state["instances"].as_array().map(Vec::len)), (&json!("RESET"), Some(1)));
    let event = world.control_plane.change("p", Delete, "b").await;
    expect(&mut watcher, &event).await;
}

#[tokio::test]
async fn a_resuming_client_receives_events_of_a_departed_provider() {
    let world = World::with_consumer("c", &["p", "q"]).await;
    let first = world.control_plane.change("q", Create, "b").await;
    let missed = [
        world.control_plane.change("p", Create, "a").await,
        world.control_plane.change("q", Update, "b").await,
        world.control_plane.change("q", Delete, "b").await,
    ];
    world.control_plane.delete_provider("c", "q").await;
    // First on a gateway without any state, then on one that follows the consumer.
    for _ in 0..2 {
        let mut watcher = world.watch_path(&path(&format!("rev={}", first.at.rev))).await;
        for event in &missed {
            expect(&mut watcher, event).await;
        }
    }
    let mut watcher = world.watch_path(&path(&format!("rev={}", missed[2].at.rev))).await;
    let next = world.control_plane.change("p", Update, "a").await;
    expect(&mut watcher, &next).await;
}

#[tokio::test]
async fn a_resuming_client_is_rid_of_a_hidden_provider() {
    let world = World::with_consumer("c", &["p", "q"]).await;
    let first = world.control_plane.change("q", Create, "b").await;
    let missed = world.control_plane.change("p", Create, "a").await;
    world.control_plane.no_interest("c", "q").await;
    world.control_plane.change("q", Create, "not for c any more").await;
    // First on a gateway without any state, then on one that follows the consumer.
    for _ in 0..2 {
        let mut watcher = world.watch_path(&path(&format!("rev={}", first.at.rev))).await;
        let state = frame(&mut watcher).await;
        assert_eq!((&state["action"], &state["key"]["serviceName"]), (&json!("RESET"), &json!("q")));
        assert_eq!(state["instances"], json!([]));
        expect(&mut watcher, &missed).await;
    }
}

#[tokio::test]
async fn only_resumable_clients_receive_bookmarks() {
    let upstream = UpstreamConfig { bookmark_interval: Duration::ZERO, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let (mut old, mut new) = (world.watch("c").await, world.watch_path(&path("rev=1")).await);
    let first = world.control_plane.change("p", Create, "a").await;
    old.expect(&first).await;
    expect(&mut new, &first).await;
    confirmed(&world, &mut new, first.at.rev).await;
    let second = world.control_plane.change("p", Delete, "a").await;
    old.expect(&second).await;
    expect(&mut new, &second).await;
}

#[tokio::test]
async fn watches_that_keep_coming_hold_back_no_bookmark() {
    let upstream = UpstreamConfig { bookmark_interval: Duration::ZERO, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = world.watch_path(&path("rev=1")).await;
    let first = world.control_plane.change("p", Create, "a").await;
    expect(&mut watcher, &first).await;
    confirmed(&world, &mut watcher, first.at.rev).await;
    let mut others = Vec::new();
    for number in 0..6 {
        world.control_plane.consumer(&format!("c{number}"), &[&format!("p{number}")]);
        others.push(world.watch(&format!("c{number}")).await);
        let event = world.control_plane.change("p", Update, "a").await;
        expect(&mut watcher, &event).await;
        world.control_plane.bookmark().await;
        // One bookmark is enough: it does not wait for those of the new watch.
        loop {
            let told: Value = serde_json::from_str(&watcher.text().await).expect("JSON");
            assert_eq!(told["action"], "BOOKMARK", "{told}");
            if told["rev"] == json!(event.at.rev) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_event_lost_before_a_client_left_is_sent_on_resume() {
    let upstream = UpstreamConfig { bookmark_interval: Duration::ZERO, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.consumer("c", &["p", "q"]);
    let (mut stays, mut leaves) = (world.watch("c").await, world.watch_path(&path("rev=1")).await);
    let first = world.control_plane.change("p", Create, "a").await;
    stays.expect(&first).await;
    expect(&mut leaves, &first).await;
    confirmed(&world, &mut leaves, first.at.rev).await;

    let lost = world.control_plane.commit("p", Update, "a");
    let heard = world.control_plane.change("q", Create, "b").await;
    let last = frame(&mut leaves).await;
    assert_eq!((&last["rev"], &last["since"]), (&json!(heard.at.rev), &json!(first.at.rev)));
    drop(leaves);
    stays.expect(&heard).await;
    // The bookmark names both providers, which shows the loss.
    world.control_plane.bookmark().await;
    stays.expect(&lost).await;

    let mut again = world.watch_path(&path(&format!("rev={}", last["since"]))).await;
    expect(&mut again, &lost).await;
    // With the same revision as the first time, by which the client recognises the repetition.
    expect(&mut again, &heard).await;
    let next = world.control_plane.change("p", Delete, "a").await;
    expect(&mut again, &next).await;
}

#[tokio::test]
async fn resuming_for_an_unknown_consumer_ends_with_a_text() {
    let world = World::start().await;
    let mut watcher = world.watch_path(&path("rev=5")).await;
    assert_eq!(watcher.text().await, "service does not exist");
    watcher.expect_end().await;
}

#[tokio::test]
async fn an_observer_names_the_providers_it_watches() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "old").await;
    world.control_plane.register("r").await;
    let mut watcher = world.watch_path(&path("providers=p,q")).await;
    let mut listing = world.watch_path(&path("providers=p&rev=0")).await;
    assert_eq!(frame(&mut listing).await["instances"][0]["instanceId"], "old");
    // Nothing is followed for a name that does not exist, until that is registered.
    world.until("muster_edge_topics", |topics| topics == 1.0).await;
    world.control_plane.register("q").await;
    for provider in ["p", "r", "q"] {
        let event = world.control_plane.change(provider, Create, "new").await;
        if provider != "r" {
            watcher.expect(&event).await;
        }
    }
}
