//! The bus loses messages; watchers do not.

use std::time::Duration;

use bus::LocalBus;
use edge_gateway::Config;
use edge_gateway::settings::UpstreamConfig;
use shared::event::Action::{Create, Delete, Update};

use crate::world::{Pair, World, config};

#[tokio::test]
async fn lost_and_repeated_events_arrive_once_and_in_order() {
    let Pair { world, mut watcher } = Pair::start().await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
    for round in 0..5 {
        let lost = world.control_plane.commit("p", Update, "1");
        let also_lost = world.control_plane.commit("p", Create, &format!("{round}-a"));
        let heard = world.control_plane.change("p", Create, &format!("{round}-b")).await;
        world.control_plane.publish(&heard).await;
        world.control_plane.publish(&lost).await;
        for event in [&lost, &also_lost, &heard] {
            watcher.expect(event).await;
        }
    }
    assert_eq!(world.metric(r#"muster_edge_resyncs_total{cause="gap"}"#), 5.0);
}

#[tokio::test]
async fn a_lost_last_event_is_found_by_the_next_bookmark() {
    let Pair { world, mut watcher } = Pair::start().await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
    world.control_plane.bookmark().await;
    world.until("muster_edge_staleness_seconds", |seconds| seconds < 1.0).await;

    let lost = world.control_plane.commit("p", Update, "1");
    world.control_plane.forget_bookmark();
    world.control_plane.bookmark().await;
    watcher.expect(&lost).await;
    assert_eq!(world.metric(r#"muster_edge_resyncs_total{cause="bookmark"}"#), 1.0);
}

#[tokio::test]
async fn events_that_overflowed_the_bus_are_requested() {
    let bus = LocalBus::with_capacity(64);
    let world = World::on_bus(config(), bus).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = world.watch("c").await;
    world.change_reaches(&mut watcher, "p", Create, "first").await;
    // Nobody reads meanwhile on this one thread, so the last of these are lost.
    let mut told = Vec::new();
    for n in 0..300 {
        told.push(world.control_plane.change("p", Create, &n.to_string()).await);
    }
    for event in &told {
        watcher.expect(event).await;
    }
    assert!(world.metric(r#"muster_edge_resyncs_total{cause="link"}"#) > 0.0);
}

#[tokio::test]
async fn a_replica_without_history_yields_to_one_that_has_it() {
    let Pair { world, mut watcher } = Pair::start().await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
    world.control_plane.bookmark().await;
    // Instances that come and go, so many that replies have more than one part.
    let mut lost = Vec::new();
    for n in 0..150 {
        lost.push(world.control_plane.commit("p", Create, &format!("life-{n}")));
        lost.push(world.control_plane.commit("p", Delete, &format!("life-{n}")));
    }
    world.control_plane.forget_history();
    world.control_plane.elders().await;
    let heard = world.control_plane.change("p", Update, "1").await;
    for event in lost.iter().chain([&heard]) {
        watcher.expect(event).await;
    }
}

#[tokio::test]
async fn without_history_the_difference_is_sent() {
    let Pair { world, mut watcher } = Pair::start().await;
    for id in ["stays", "changes", "goes"] {
        let event = world.control_plane.change("p", Create, id).await;
        watcher.expect(&event).await;
    }
    let goes = world.control_plane.commit("p", Delete, "goes");
    let changes = world.control_plane.commit("p", Update, "changes");
    let comes = world.control_plane.commit("p", Create, "comes");
    world.control_plane.commit("p", Create, "came and went");
    world.control_plane.commit("p", Delete, "came and went");
    let seen = world.control_plane.commit("p", Update, "stays");
    world.control_plane.forget_history();
    world.control_plane.publish(&seen).await;

    let (action, id, rev) = watcher.event().await;
    assert_eq!((action.as_str(), id.as_str()), ("DELETE", "goes"));
    assert!(rev < goes.at.rev.get(), "the last known instance");
    // An update and never a create: a client that appends on create must not have the instance twice.
    for event in [&changes, &comes, &seen] {
        let id = event.instance.instance_id.clone();
        assert_eq!(watcher.event().await, ("UPDATE".to_owned(), id, event.at.rev.get()));
    }
    world.change_reaches(&mut watcher, "p", Create, "next").await;
}

#[tokio::test]
async fn a_change_without_an_event_is_found_by_digests() {
    let upstream = UpstreamConfig { digest_interval: Duration::from_millis(300), ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.consumer("c", &["p"]);
    world.control_plane.consumer("gone", &["p"]);
    let (mut watcher, mut gone) = (world.watch("c").await, world.watch("gone").await);
    let first = world.control_plane.change("p", Create, "1").await;
    watcher.expect(&first).await;
    gone.expect(&first).await;
    let untold = world.control_plane.commit("p", Update, "1");
    watcher.expect(&untold).await;
    gone.expect(&untold).await;
    assert!(world.metric(r#"muster_edge_resyncs_total{cause="digest"}"#) > 0.0);

    world.control_plane.delete_consumer("gone", false).await;
    assert_eq!(gone.text().await, "service does not exist");
    gone.expect_end().await;
}

#[tokio::test]
async fn declined_requests_are_repeated() {
    let world = World::with_consumer("c", &["p"]).await;
    world.control_plane.decline(3);
    let mut watcher = world.watch("c").await;
    world.change_reaches(&mut watcher, "p", Create, "1").await;
    assert_eq!(world.metric("muster_edge_requests_repeated_total"), 3.0);
}

#[tokio::test]
async fn many_watchers_of_one_consumer_cost_one_request() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        watchers.push(world.watch("c").await);
    }
    let event = world.control_plane.change("p", Create, "1").await;
    for watcher in &mut watchers {
        watcher.expect(&event).await;
    }
    assert_eq!(world.control_plane.replays(), 1);
}

/// Each watcher receives the whole history, in order and each event once, although the bus loses, repeats and
/// reorders.
#[tokio::test]
async fn a_lossy_repeating_reordering_bus_loses_nothing() {
    let world = World::with_consumer("c", &["p0", "p1", "p2"]).await;
    let mut watchers = [world.watch("c").await, world.watch("c").await];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..10 {
        let (mut told, mut late) = (Vec::new(), Vec::new());
        for n in 0..60 {
            let provider = format!("p{}", random.u8(0..3));
            let event = world.control_plane.commit(&provider, Update, &format!("{}", n % 7));
            match random.u8(0..10) {
                0..=1 => {}
                2 => late.push(event.clone()),
                3 => {
                    world.control_plane.publish(&event).await;
                    world.control_plane.publish(&event).await;
                }
                _ => world.control_plane.publish(&event).await,
            }
            if random.bool()
                && let Some(event) = late.pop()
            {
                world.control_plane.publish(&event).await;
            }
            told.push(event);
        }
        // The gateway misses what the bookmark before named, and requests it.
        world.control_plane.forget_bookmark();
        world.control_plane.bookmark().await;
        for watcher in &mut watchers {
            let mut expected: std::collections::BTreeMap<_, std::collections::VecDeque<_>> =
                Default::default();
            for event in &told {
                expected.entry(event.provider.id.clone()).or_default().push_back(event.at.rev.get());
            }
            // The order is that of each provider.
            for _ in 0..told.len() {
                let (_, _, rev) = watcher.event().await;
                let queue = expected.values_mut().find(|queue| queue.front() == Some(&rev));
                queue.unwrap_or_else(|| panic!("{rev} is not next of any provider")).pop_front();
            }
        }
    }
}
