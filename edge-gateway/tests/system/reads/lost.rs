//! Finds while no control plane answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use edge_gateway::settings::{ReadsConfig, StateFile};
use http::StatusCode;
use shared::event::Action::{Create, Update};

use super::{FIND, Stage};
use crate::world::{PATIENCE, config};

#[tokio::test]
async fn without_control_planes_the_last_that_is_known_is_marked() {
    // Never fresh, so that every find asks first.
    let reads = ReadsConfig { fresh: Duration::from_secs(60), ..ReadsConfig::default() };
    let stage = Stage::with(reads, config()).await;
    stage.follow().await;
    let known = stage.find("").await;
    // A loss makes everything uncertain.
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.decline(usize::MAX);
    stage.world.control_plane.change("p", Create, "2").await;
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.bookmark().await;
    for status in [None, Some(StatusCode::SERVICE_UNAVAILABLE)] {
        stage.answers(|answer| answer.status = status);
        let waiting = async {
            loop {
                let reply = stage.find("").await;
                if reply.stale {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stale = tokio::time::timeout(PATIENCE, waiting).await.expect("is marked");
        assert!(stale.status == 200 && stale.body.starts_with(&known.body[..20]), "{stale:?}");
        assert_eq!(stage.find(&stale.rev).await.status, 304);
        let unknown = stage.get(&FIND.replace("=p", "=q"), &[("x-consumerid", "c")]).await;
        assert_eq!(unknown.status, 503, "no empty list that nobody knows");
    }
    assert!(stage.counted("stale") >= 4.0);
    // A gateway that knows that no control plane answers does not wait for one.
    stage.plane.reachable.send_replace(false);
    assert!(stage.find("").await.stale);
}

#[tokio::test]
async fn a_find_whose_services_may_be_others_by_now_is_answered_with_the_last_that_are_known() {
    let stage = Stage::start().await;
    stage.follow().await;
    let known = stage.find("").await;
    stage.answers(|answer| answer.status = None);
    stage.world.control_plane.find_changes("c").await;
    let waiting = async {
        loop {
            let reply = stage.find("").await;
            assert_eq!((reply.status, &reply.body), (200, &known.body), "{reply:?}");
            if reply.stale {
                return;
            }
            // The change is on its way.
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("is marked");
}

#[tokio::test]
async fn a_find_under_way_is_given_up_when_no_control_plane_answers_any_more() {
    let stage = Stage::asking_for(Duration::from_millis(100)).await;
    let (rev, batch) = stage.known_find().await;
    // Nobody says on the bus what has changed, and then nobody answers at all.
    stage.world.control_plane.fall_silent();
    stage.plane.is_silent.store(true, Ordering::SeqCst);
    let lost = async {
        while stage.plane.waiting.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        stage.plane.reachable.send_replace(false);
    };
    let all = async { tokio::join!(stage.find(&rev), stage.batch(&batch), lost) };
    let (single, batch, ()) = tokio::time::timeout(PATIENCE, all).await.expect("the last that is known");
    assert_eq!((single.status, single.stale, batch.status, batch.stale), (304, true, 200, true));
}

#[tokio::test]
async fn nobody_waits_long_for_a_silent_bus_when_no_control_plane_answers() {
    // A question on the bus would be given up after the test.
    let stage = Stage::asking_for(Duration::from_secs(3600)).await;
    let (rev, batch) = stage.known_find().await;
    stage.world.control_plane.fall_silent();
    stage.plane.reachable.send_replace(false);
    let all = async { tokio::join!(stage.find(&rev), stage.batch(&batch)) };
    let (single, batch) = tokio::time::timeout(PATIENCE, all).await.expect("the last that is known");
    assert_eq!((single.status, single.stale, batch.status, batch.stale), (304, true, 200, true));
}

#[tokio::test]
async fn a_restarted_gateway_answers_what_the_last_one_knew() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = StateFile { path: directory.path().join("state"), interval: Duration::from_millis(20) };
    let reads = ReadsConfig { state: Some(file.clone()), ..ReadsConfig::default() };
    let stage = Stage::with(reads.clone(), config()).await;
    stage.follow().await;
    let before = stage.find("").await;
    let targets = stage.get("/prometheus/v1/targets", &[]).await;
    assert!(targets.body.contains("1.example:8080"), "{targets:?}");
    let written = "muster_edge_state_writes_total{outcome=\"ok\"}";
    let so_far = stage.world.metric(written);
    let waiting = async {
        while stage.world.metric(written) < so_far + 2.0 {
            stage.world.control_plane.bookmark().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the state is written again");
    drop(stage);

    // It is ready, although no control plane answers: there is no better gateway.
    let stage = Stage::behind(false, reads.clone(), config()).await;
    stage.world.control_plane.decline(usize::MAX);
    let after = stage.find("").await;
    assert_eq!((after.status, &after.body, &after.rev, after.stale), (200, &before.body, &before.rev, true));
    assert_eq!(stage.find(&before.rev).await.status, 304);
    let last = stage.get("/prometheus/v1/targets", &[]).await;
    assert_eq!((last.status, last.body, last.stale), (200, targets.body, true));
    let other = stage.get(FIND, &[("x-consumerid", "d")]).await;
    assert_eq!(other.status, 503, "nothing is known of it: {other:?}");
    // The state of before the restart is kept: this process has nothing newer.
    let kept = std::fs::read(&file.path).expect("a file");
    drop(stage);
    assert_eq!(std::fs::read(&file.path).expect("a file"), kept);

    // With a control plane again, what holds now is the answer.
    let stage = Stage::with(reads, config()).await;
    stage.world.control_plane.change("p", Update, "1").await;
    stage.follow().await;
    let now = stage.find("").await;
    assert!(now.body != before.body && !now.stale, "{now:?}");
}
