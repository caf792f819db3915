//! Batches of finds.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use shared::event::Action::{Create, Update};

use super::{ASKED, BATCH, Stage, batch_of};
use crate::world::PATIENCE;

#[tokio::test]
async fn a_batch_is_answered_here_once_every_element_is_followed() {
    let stage = Stage::followed().await;
    let single = stage.find("").await;
    let instance = json!({"instance": {"serviceId": "p", "instanceId": "1"}});
    let whole = batch_of("", &[], std::slice::from_ref(&instance));
    // A single find may be answered by an alias, so its services say nothing about that of a batch.
    let asked = stage.batch(&whole).await;
    assert_eq!((asked.body.as_str(), asked.told), (ASKED, false));
    let here = stage.batch(&whole).await;
    let of_single: Value = serde_json::from_str(&single.body).expect("JSON");
    let body: Value = serde_json::from_str(&here.body).expect("answered here");
    let updated = json!({"index": 0, "rev": &single.rev, "instances": &of_single["instances"]});
    assert_eq!(body["services"], json!({"updated": [updated]}));
    assert_eq!(body["instances"]["updated"][0]["instances"], of_single["instances"]);
    assert_eq!((here.status, here.rev.as_str(), here.stale), (200, "", false));

    let unchanged = stage.batch(&batch_of(&single.rev, &[], &[])).await;
    assert_eq!(unchanged.body, r#"{"services":{"notModified":[0]}}"#);
    assert_eq!(stage.counted("unchanged"), 1.0);

    // One element that is not known leaves all of them to a control plane.
    let unknown = json!({"service": {"appId": "app", "serviceName": "q", "version": "0+"}});
    let other = json!({"instance": {"serviceId": "p", "instanceId": "9"}});
    for batch in [
        batch_of("", &[unknown], &[]),
        batch_of("", &[], &[instance, other]),
        json!({}),
        json!({"services": 1}),
    ] {
        assert_eq!(stage.batch(&batch).await.body, ASKED, "{batch}");
    }
    let of_another = [("x-consumerid", "other")];
    let body = batch_of("", &[], &[]).to_string();
    assert_eq!(stage.send("POST", BATCH, &of_another, body.clone()).await.body, ASKED);
    let fresh = format!("{BATCH}&noCache=1");
    assert_eq!(stage.send("POST", &fresh, &[("x-consumerid", "c")], body).await.body, ASKED);
}

#[tokio::test]
async fn a_batch_claims_nothing_that_may_have_changed() {
    let stage = Stage::followed().await;
    let known = stage.find("").await;
    let batch = batch_of(&known.rev, &[], &[]);
    assert_eq!(stage.batch(&batch).await.body, ASKED);
    assert_eq!(stage.batch(&batch).await.body, r#"{"services":{"notModified":[0]}}"#);
    let event = stage.world.control_plane.commit("p", Update, "1");
    assert_eq!(stage.batch(&batch).await.body, ASKED, "another gateway may have pushed the change");
    stage.world.control_plane.publish(&event).await;
    stage.world.control_plane.bookmark().await;
    stage.follow().await;
    assert!(stage.batch(&batch).await.body.contains(r#""updated":[{"index":0"#));

    // A client that has written through this gateway finds what it wrote.
    let written = stage.world.control_plane.rev().plus(1);
    stage.answers(|answer| answer.written = Some(written.get()));
    stage.ask("PUT", "/v4/default/registry/microservices/p/instances/1/status?value=DOWN", &[]).await;
    assert_eq!(stage.batch(&batch_of("", &[], &[])).await.body, ASKED);
}

#[tokio::test]
async fn without_control_planes_a_batch_is_answered_by_the_last_that_is_known() {
    let stage = Stage::followed().await;
    let batch = batch_of("", &[], &[]);
    stage.batch(&batch).await;
    let known = stage.batch(&batch).await;
    assert!(known.body != ASKED && !known.stale, "{known:?}");
    // A change of which the gateway only knows that it is missing makes everything uncertain.
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.decline(usize::MAX);
    stage.world.control_plane.change("p", Create, "2").await;
    stage.world.control_plane.forget_bookmark();
    stage.world.control_plane.bookmark().await;
    for status in [Some(StatusCode::SERVICE_UNAVAILABLE), None] {
        stage.answers(|answer| answer.status = status);
        let waiting = async {
            loop {
                let reply = stage.batch(&batch).await;
                if reply.stale {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stale = tokio::time::timeout(PATIENCE, waiting).await.expect("is marked");
        assert!(stale.status == 200 && stale.body.starts_with(r#"{"services":{"updated":["#), "{stale:?}");
        let unknown = json!({"service": {"appId": "app", "serviceName": "q", "version": "0+"}});
        assert_eq!(stage.batch(&batch_of("", &[unknown], &[])).await.status, 503, "nothing is made up");
    }
    stage.plane.reachable.send_replace(false);
    assert!(stage.batch(&batch).await.stale, "nobody is asked who cannot answer");
}
