//! The claim that nothing has changed.

use std::time::Duration;

use edge_gateway::settings::ReadsConfig;
use shared::event::Action::Update;

use super::{ASKED, Stage, batch_of};
use crate::world::{PATIENCE, config};

#[tokio::test]
async fn a_silent_bus_holds_no_find_up_while_a_control_plane_answers() {
    // A question on the bus would be given up after the test.
    let stage = Stage::asking_for(Duration::from_secs(3600)).await;
    let (rev, batch) = stage.known_find().await;
    stage.world.control_plane.fall_silent();
    let all = async { tokio::join!(stage.find(&rev), stage.batch(&batch)) };
    let (single, batch) = tokio::time::timeout(PATIENCE, all).await.expect("the control plane's answers");
    assert_eq!((single.status, single.body.as_str(), single.stale), (200, ASKED, false));
    assert_eq!((batch.status, batch.body.as_str(), batch.stale), (200, ASKED, false));
}

#[tokio::test]
async fn nothing_is_called_unchanged_that_has_changed() {
    let stage = Stage::followed().await;
    let known = stage.find("").await;
    assert_eq!(stage.find(&known.rev).await.status, 304);
    // Another gateway may have pushed it already.
    let event = stage.world.control_plane.commit("p", Update, "1");
    let reply = stage.find(&known.rev).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ASKED), "a control plane decides");
    stage.world.control_plane.publish(&event).await;
    stage.world.control_plane.bookmark().await;
    stage.follow().await;
    let reply = stage.find(&known.rev).await;
    assert!(reply.status == 200 && reply.rev != known.rev && reply.body != ASKED, "{reply:?}");
}

#[tokio::test]
async fn unchanged_may_be_one_bookmark_behind_where_nobody_is_asked() {
    let reads =
        ReadsConfig { fresh: Duration::from_secs(60), confirm_unchanged: false, ..ReadsConfig::default() };
    let stage = Stage::with(reads, config()).await;
    stage.follow().await;
    let known = stage.find("").await;
    let batch = batch_of(&known.rev, &[], &[]);
    assert_eq!(stage.batch(&batch).await.body, ASKED);
    // Committed, and not heard of here.
    let event = stage.world.control_plane.commit("p", Update, "1");
    assert_eq!(stage.find(&known.rev).await.status, 304);
    assert_eq!(stage.batch(&batch).await.body, r#"{"services":{"notModified":[0]}}"#);
    assert_eq!(stage.world.metric("muster_edge_barriers_total{outcome=\"ok\"}"), 0.0, "nobody was asked");
    // A client that has written through this gateway finds what it wrote.
    stage.answers(|answer| answer.written = Some(event.at.rev.get()));
    stage.ask("PUT", "/v4/default/registry/microservices/p/instances/1/status?value=DOWN", &[]).await;
    assert_eq!(stage.find(&known.rev).await.body, ASKED);
    assert_eq!(stage.batch(&batch).await.body, ASKED);
    stage.world.control_plane.publish(&event).await;
    stage.world.control_plane.bookmark().await;
    stage.follow().await;
    let reply = stage.find(&known.rev).await;
    assert!(reply.status == 200 && reply.rev != known.rev && reply.body != ASKED, "{reply:?}");
}
