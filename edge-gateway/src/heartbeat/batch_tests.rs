use std::collections::BTreeSet;

use axum::Router;
use axum::routing::put;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::*;
use crate::forward::InProcess;

/// What a control plane was asked: the domain and the instances of each request, those of single ones apart.
#[derive(Default)]
struct Asked {
    batches: Vec<(String, BTreeSet<String>)>,
    alone: Vec<String>,
}

/// A control plane on which `i…` live, others do not, and batches of the domain `broken` fail with a status.
fn control_plane(broken: StatusCode) -> (Arc<Mutex<Asked>>, Arc<Batches>) {
    let asked = Arc::new(Mutex::new(Asked::default()));
    let (batches, alone) = (asked.clone(), asked.clone());
    let many = async move |headers: HeaderMap, body: Bytes| {
        let domain = headers.get("x-domain-name").map_or("", |it| it.to_str().expect("text")).to_owned();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let mut beats = body["instances"].as_array().expect("a list").clone();
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let ids = beats.iter().map(|it| text(&it["instanceId"])).collect();
        batches.lock().batches.push((domain.clone(), ids));
        if domain == "broken" {
            return (broken, String::new());
        }
        for it in beats.iter_mut().filter(|it| !text(&it["instanceId"]).starts_with('i')) {
            it["errMessage"] = "no".into();
        }
        (StatusCode::OK, serde_json::json!({ "instances": beats }).to_string())
    };
    let one = async move |axum::extract::Path(id): axum::extract::Path<String>| {
        alone.lock().alone.push(id.clone());
        match id.as_str() {
            "gone" => (StatusCode::BAD_REQUEST, r#"{"errorCode":"400017"}"#),
            "refused" => (StatusCode::BAD_REQUEST, r#"{"errorCode":"400001"}"#),
            _ => (StatusCode::OK, ""),
        }
    };
    let router = Router::new()
        .route("/v4/p/registry/heartbeats", put(many))
        .route("/v4/p/registry/microservices/s%20x/instances/{id}/heartbeat", put(one));
    let forward = Arc::new(InProcess::new(router));
    (asked, Arc::new(Batches::new(forward, SessionMetrics::none())))
}

fn beat(id: &str, domain: &'static str) -> Beat {
    let path = format!("/v4/p/registry/microservices/s%20x/instances/{id}/heartbeat");
    let mut headers = HeaderMap::new();
    headers.insert("x-domain-name", HeaderValue::from_static(domain));
    headers.insert(USER_AGENT, HeaderValue::try_from(id).expect("a value"));
    Beat::new(path.parse().expect("a path"), headers)
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_without_company_goes_alone() {
    let (asked, batches) = control_plane(StatusCode::OK);
    assert_eq!(batches.beat(&beat("i1", "d")).await, Outcome::Lives);
    {
        let asked = asked.lock();
        assert_eq!((asked.alone.len(), asked.batches.len()), (1, 0));
    }
    assert!(batches.open.lock().is_empty(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn those_that_say_the_same_travel_together_and_no_others() {
    let (asked, batches) = control_plane(StatusCode::OK);
    let beats = [beat("i1", "a"), beat("i2", "b"), beat("i3", "a"), beat("i4", "b"), beat("i5", "c")];
    let outcomes = join_all(beats.iter().map(|it| batches.beat(it))).await;
    assert_eq!(outcomes, [Outcome::Lives; 5]);
    let mut seen = std::mem::take(&mut asked.lock().batches);
    seen.sort();
    let set = |ids: [&str; 2]| BTreeSet::from(ids.map(String::from));
    assert_eq!(seen, [("a".into(), set(["i1", "i3"])), ("b".into(), set(["i2", "i4"]))]);
    assert_eq!(asked.lock().alone, ["i5"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_does_not_wait() {
    let (asked, batches) = control_plane(StatusCode::OK);
    let beats: Vec<Beat> = (0..MOST + 1).map(|n| beat(&format!("i{n}"), "d")).collect();
    let (full, late) = beats.split_at(MOST);
    let (begun, all) = (Instant::now(), join_all(full.iter().map(|it| batches.beat(it))));
    assert_eq!(all.await, [Outcome::Lives; MOST]);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(batches.beat(&late[0]).await, Outcome::Lives);
    let sizes: Vec<usize> = asked.lock().batches.iter().map(|(_, ids)| ids.len()).collect();
    assert_eq!((sizes, asked.lock().alone.len()), (vec![MOST], 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_asked_alone_and_the_others_do_not_notice() {
    let (asked, batches) = control_plane(StatusCode::OK);
    let beats = [beat("gone", "d"), beat("i1", "d"), beat("refused", "d"), beat("i2", "d")];
    let outcomes = join_all(beats.iter().map(|it| batches.beat(it))).await;
    assert_eq!(outcomes, [Outcome::NoInstance, Outcome::Lives, Outcome::Failed, Outcome::Lives]);
    let mut alone = asked.lock().alone.clone();
    alone.sort();
    assert_eq!(alone, ["gone", "refused"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_an_answer_fails_for_all() {
    let (asked, batches) = control_plane(StatusCode::SERVICE_UNAVAILABLE);
    let beats = [beat("i1", "broken"), beat("i2", "broken")];
    assert_eq!(join_all(beats.iter().map(|it| batches.beat(it))).await, [Outcome::Failed; 2]);
    assert!(asked.lock().alone.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_whole_is_asked_for_each() {
    let (asked, batches) = control_plane(StatusCode::BAD_REQUEST);
    let beats = [beat("i1", "broken"), beat("gone", "broken")];
    let outcomes = join_all(beats.iter().map(|it| batches.beat(it))).await;
    assert_eq!(outcomes, [Outcome::Lives, Outcome::NoInstance]);
    assert_eq!(asked.lock().alone.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn those_that_waited_for_one_that_left_form_a_new_batch() {
    let (asked, batches) = control_plane(StatusCode::OK);
    let first = beat("i0", "d");
    let mut leaving = Box::pin(batches.beat(&first));
    assert!(timeout(Duration::ZERO, &mut leaving).await.is_err());
    let others = [beat("i1", "d"), beat("i2", "d")];
    let leave = async {
        tokio::time::sleep(WINDOW / 2).await;
        drop(leaving);
    };
    let (outcomes, ()) = tokio::join!(join_all(others.iter().map(|it| batches.beat(it))), leave);
    assert_eq!(outcomes, [Outcome::Lives; 2]);
    assert_eq!(asked.lock().batches.len(), 1);
    assert!(batches.open.lock().is_empty());
}

#[test]
fn the_ids_of_a_path_are_decoded() {
    let (batch, it) = ids("/v4/p%201/registry/microservices/a%20b/instances/i/heartbeat").expect("a path");
    assert_eq!(batch, "/v4/p%201/registry/heartbeats");
    assert_eq!((it.service_id.as_str(), it.instance_id.as_str()), ("a b", "i"));
    assert!(ids("/v4/p/registry/microservices/%ff/instances/i/heartbeat").is_none());
}
