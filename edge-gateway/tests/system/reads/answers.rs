//! Finds that the gateway answers from its own state, and those that it leaves to control planes.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{PollsConfig, ReadsConfig};
use http::StatusCode;
use shared::event::Action::{Create, Update};

use super::{ASKED, BATCH, FIND, Stage, batch_of};
use crate::tokens::{self, token};
use crate::world::{PATIENCE, config};

#[tokio::test]
async fn a_find_is_answered_here_once_it_is_followed() {
    let stage = Stage::followed().await;
    let first = stage.find("").await;
    assert!(first.body.starts_with(r#"{"instances":[{"instanceId":"1","#), "{first:?}");
    assert_eq!((first.status, first.rev.len(), first.told), (200, 16, false));
    let list = stage.get("/v4/default/registry/microservices/p/instances", &[("x-consumerid", "c")]).await;
    assert_eq!((list.body, list.rev), (first.body.clone(), first.rev.clone()));
    let one = stage.get("/v4/default/registry/microservices/p/instances/1", &[("x-consumerid", "c")]).await;
    assert!(one.body.starts_with(r#"{"instance":{"#), "{one:?}");

    // A watcher that has been sent a change finds it.
    let mut watcher = stage.world.watch("c").await;
    stage.world.change_reaches(&mut watcher, "p", Create, "2").await;
    let second = stage.find(&first.rev).await;
    assert!(second.status == 200 && second.body.contains(r#""instanceId":"2""#), "{second:?}");
    let unchanged = stage.find(&second.rev).await;
    assert_eq!((unchanged.status, &unchanged.rev, unchanged.stale), (304, &second.rev, false));
    assert!(stage.counted("unchanged") == 1.0 && stage.counted("here") >= 5.0);
}

#[tokio::test]
async fn everything_that_is_not_followed_is_asked() {
    let stage = Stage::followed().await;
    for (path, headers) in [
        (format!("{FIND}&noCache=1"), &[("x-consumerid", "c")][..]),
        (format!("{FIND}&tags=a"), &[("x-consumerid", "c")]),
        (FIND.replace("=p", "=q"), &[("x-consumerid", "c")]),
        (FIND.to_owned(), &[("x-consumerid", "other")]),
        (FIND.to_owned(), &[]),
        ("/v4/default/registry/microservices/q/instances".to_owned(), &[("x-consumerid", "c")]),
        ("/v4/default/registry/microservices/p/instances/9".to_owned(), &[("x-consumerid", "c")]),
    ] {
        let reply = stage.get(&path, headers).await;
        assert_eq!((reply.body.as_str(), reply.told), (ASKED, false), "{path}");
    }
    // A client asks for no services, whatever it sends.
    let asked = *stage.plane.asked.lock().expect("not poisoned");
    stage.get("/v4/default/registry/microservices", &[("x-muster-resolve", "1")]).await;
    stage.get(FIND, &[("x-muster-resolve", "1")]).await;
    assert_eq!(*stage.plane.asked.lock().expect("not poisoned"), asked);
    // The gateway does, for a consumer: a drain waits for clients that have found the service.
    stage.get(&format!("{FIND}&noCache=1"), &[("x-consumerid", "c")]).await;
    assert_eq!(*stage.plane.asked.lock().expect("not poisoned"), asked + 1);
}

#[tokio::test]
async fn a_change_of_the_answer_ends_what_was_resolved() {
    let stage = Stage::followed().await;
    let outdated = stage.world.control_plane.rev();
    stage.world.control_plane.find_changes("c").await;
    stage.world.control_plane.bookmark().await;
    stage.answers(|answer| answer.found = Some((outdated, "p")));
    let waiting = async {
        while stage.find("").await.body != ASKED {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the change arrives");
    // A replica that lags behind says nothing new.
    assert_eq!(stage.find("").await.body, ASKED);
    stage.follow().await;
}

#[tokio::test]
async fn a_client_finds_what_it_wrote_here() {
    let stage = Stage::followed().await;
    let written = stage.world.control_plane.rev().plus(1);
    stage.answers(|answer| answer.written = Some(written.get()));
    let put = |path: &'static str| stage.ask("PUT", path, &[]);
    put("/v4/default/registry/microservices/other/instances/1/status?value=DOWN").await;
    assert_ne!(stage.find("").await.body, ASKED, "nothing of that is in the answer");
    put("/v4/default/registry/microservices/p/instances/1/status?value=DOWN").await;
    assert_eq!(stage.find("").await.body, ASKED);
    let event = stage.world.control_plane.change("p", Update, "1").await;
    assert_eq!(event.at.rev, written);
    stage.follow().await;
    put("/v4/default/registry/microservices/p/properties").await;
    stage.follow().await;
    stage.answers(|answer| answer.written = Some(written.plus(1).get()));
    put("/v4/default/registry/microservices/p/properties").await;
    assert_eq!(stage.find("").await.body, ASKED);
}

#[tokio::test]
async fn a_consumer_that_is_gone_is_not_answered_here() {
    let stage = Stage::followed().await;
    stage.world.control_plane.delete_consumer("c", true).await;
    stage.answers(|answer| {
        answer.status = Some(StatusCode::BAD_REQUEST);
        answer.found = None;
    });
    let waiting = async {
        while stage.find("").await.status != 400 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("its group ends");
    stage.world.until("muster_edge_finds_consumers", |consumers| consumers == 0.0).await;
}

#[tokio::test]
async fn ids_that_nobody_has_fill_nothing() {
    let stage = Stage::start().await;
    stage.answers(|answer| answer.status = Some(StatusCode::BAD_REQUEST));
    stage.resolves();
    for number in 0..50 {
        stage.get(FIND, &[("x-consumerid", &format!("made-up-{number}"))]).await;
    }
    stage.answers(|answer| {
        answer.status = Some(StatusCode::OK);
        answer.found = None;
    });
    stage.get(FIND, &[("x-consumerid", "made-up")]).await;
    assert_eq!(stage.world.metric("muster_edge_groups{selector=\"consumer\"}"), 0.0);
}

#[tokio::test]
async fn a_gateway_may_leave_all_finds_to_control_planes() {
    let polls = PollsConfig { silent_after: Duration::ZERO, ..PollsConfig::default() };
    let reads = ReadsConfig { enabled: false, ..ReadsConfig::default() };
    let stage = Stage::with(reads, Config { polls, ..config() }).await;
    stage.resolves();
    for _ in 0..4 {
        stage.world.control_plane.bookmark().await;
        let reply = stage.find("").await;
        assert_eq!((reply.body.as_str(), reply.told), (ASKED, false));
    }
    assert_eq!(*stage.plane.asked.lock().expect("not poisoned"), 0);
}

#[tokio::test]
async fn an_account_gets_no_answer_that_its_labels_do_not_cover() {
    let stage = Stage::start().await;
    stage.world.control_plane.policy(tokens::policy()).await;
    stage.world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    let find = async |account: &str| {
        let token = format!("Bearer {}", token(account, 3600));
        stage.get(FIND, &[("x-consumerid", "c"), ("authorization", &token)]).await
    };
    let waiting = async {
        loop {
            stage.world.control_plane.bookmark().await;
            stage.resolves();
            if find("root").await.body != ASKED {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the gateway follows the consumer");
    stage.answers(|answer| answer.status = Some(StatusCode::FORBIDDEN));
    assert_eq!(find("shop").await.status, 403, "a control plane decides about labels");
    assert_eq!(stage.find("").await.status, 401);
    assert_eq!(find("root").await.status, 200);

    let batch = async |account: &str| {
        let token = format!("Bearer {}", token(account, 3600));
        let headers = [("x-consumerid", "c"), ("authorization", token.as_str())];
        stage.send("POST", BATCH, &headers, batch_of("", &[], &[]).to_string()).await
    };
    stage.answers(|answer| answer.status = Some(StatusCode::OK));
    batch("root").await;
    assert_ne!(batch("root").await.body, ASKED);
    stage.answers(|answer| answer.status = Some(StatusCode::FORBIDDEN));
    assert_eq!(batch("shop").await.status, 403, "a control plane decides about labels");
    assert_eq!(stage.batch(&batch_of("", &[], &[])).await.status, 401);
    assert_eq!(batch("root").await.status, 200);
}
