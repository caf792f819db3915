use std::collections::BTreeSet;

use axum::Router;
use axum::extract::Path;
use axum::routing::put;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::*;
use crate::forward::InProcess;

/// The requests that a control plane received.
#[derive(Default)]
struct Received {
    /// The domain and the instances of each batch.
    batches: Vec<(String, BTreeSet<String>)>,
    /// The instance of each single heartbeat.
    alone: Vec<String>,
}

/// A control plane on which instances named `i…` live and others do not. Batches of the domain `broken` fail
/// with the given status.
fn control_plane(broken: StatusCode) -> (Arc<Mutex<Received>>, Arc<Batches>) {
    let received = Arc::new(Mutex::new(Received::default()));
    let batches = received.clone();
    let many = async move |headers: HeaderMap, body: Bytes| {
        let domain =
            headers.get("x-domain-name").map_or("", |value| value.to_str().expect("text")).to_owned();
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let mut instances = body["instances"].as_array().expect("a list").clone();
        let ids = instances.iter().map(instance_id).collect();
        batches.lock().batches.push((domain.clone(), ids));
        if domain == "broken" {
            return (broken, String::new());
        }
        for instance in instances.iter_mut().filter(|instance| !instance_id(instance).starts_with('i')) {
            instance["errMessage"] = "no".into();
        }
        (StatusCode::OK, serde_json::json!({ "instances": instances }).to_string())
    };
    let alone = received.clone();
    let one = async move |Path(id): Path<String>| {
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
    (received, Arc::new(Batches::new(forward, Beats::none(), SessionMetrics::none())))
}

fn instance_id(instance: &Value) -> String {
    instance["instanceId"].as_str().expect("text").to_owned()
}

fn heartbeat(id: &str, domain: &'static str) -> Heartbeat {
    let path = format!("/v4/p/registry/microservices/s%20x/instances/{id}/heartbeat");
    let mut headers = HeaderMap::new();
    headers.insert("x-domain-name", HeaderValue::from_static(domain));
    // Different for each, so that the batches show that it does not keep heartbeats apart.
    headers.insert(USER_AGENT, HeaderValue::try_from(id).expect("a value"));
    Heartbeat::new(path.parse().expect("a path"), headers, None)
}

/// Sends all at once.
async fn send(batches: &Batches, heartbeats: &[Heartbeat]) -> Vec<Outcome> {
    join_all(heartbeats.iter().map(|heartbeat| batches.send(heartbeat))).await
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_without_company_goes_alone() {
    let (received, batches) = control_plane(StatusCode::OK);
    assert_eq!(batches.send(&heartbeat("i1", "d")).await, Outcome::Alive);
    assert_eq!(received.lock().alone.len(), 1);
    assert!(received.lock().batches.is_empty());
    assert!(batches.open.lock().is_empty(), "no open batch is left behind");
}

#[tokio::test(start_paused = true)]
async fn only_heartbeats_with_the_same_headers_travel_together() {
    let (received, batches) = control_plane(StatusCode::OK);
    let heartbeats = [
        heartbeat("i1", "a"),
        heartbeat("i2", "b"),
        heartbeat("i3", "a"),
        heartbeat("i4", "b"),
        heartbeat("i5", "c"),
    ];
    assert_eq!(send(&batches, &heartbeats).await, [Outcome::Alive; 5]);
    let mut sent = std::mem::take(&mut received.lock().batches);
    sent.sort();
    let a = BTreeSet::from(["i1", "i3"].map(String::from));
    let b = BTreeSet::from(["i2", "i4"].map(String::from));
    assert_eq!(sent, [("a".into(), a), ("b".into(), b)]);
    assert_eq!(received.lock().alone, ["i5"]);
}

#[tokio::test(start_paused = true)]
async fn no_heartbeat_travels_with_the_token_of_another() {
    let (received, batches) = control_plane(StatusCode::OK);
    let with = |id: &str, token: &'static str| {
        let mut heartbeat = heartbeat(id, "d");
        heartbeat.headers.insert(AUTHORIZATION, HeaderValue::from_static(token));
        Heartbeat::new(heartbeat.path, heartbeat.headers, None)
    };
    let heartbeats =
        [with("i1", "Bearer a"), with("i2", "Bearer b"), with("i3", "Bearer a"), heartbeat("i4", "d")];
    assert_eq!(send(&batches, &heartbeats).await, [Outcome::Alive; 4]);
    let mut received = received.lock();
    let of_a = BTreeSet::from(["i1", "i3"].map(String::from));
    assert_eq!(received.batches, [("d".into(), of_a)]);
    received.alone.sort();
    assert_eq!(received.alone, ["i2", "i4"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_does_not_wait() {
    let (received, batches) = control_plane(StatusCode::OK);
    let heartbeats: Vec<Heartbeat> = (0..MAX_BATCH + 1).map(|n| heartbeat(&format!("i{n}"), "d")).collect();
    let (full, late) = heartbeats.split_at(MAX_BATCH);
    let began = Instant::now();
    assert_eq!(send(&batches, full).await, [Outcome::Alive; MAX_BATCH]);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(batches.send(&late[0]).await, Outcome::Alive);
    let sizes: Vec<usize> = received.lock().batches.iter().map(|(_, ids)| ids.len()).collect();
    assert_eq!(sizes, [MAX_BATCH]);
    assert_eq!(received.lock().alone.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_fails_is_sent_alone_and_no_other() {
    let (received, batches) = control_plane(StatusCode::OK);
    let heartbeats =
        [heartbeat("gone", "d"), heartbeat("i1", "d"), heartbeat("refused", "d"), heartbeat("i2", "d")];
    let outcomes = send(&batches, &heartbeats).await;
    assert_eq!(outcomes, [Outcome::NoInstance, Outcome::Alive, Outcome::Failed, Outcome::Alive]);
    let mut alone = received.lock().alone.clone();
    alone.sort();
    assert_eq!(alone, ["gone", "refused"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_an_answer_fails_for_all() {
    let (received, batches) = control_plane(StatusCode::SERVICE_UNAVAILABLE);
    let heartbeats = [heartbeat("i1", "broken"), heartbeat("i2", "broken")];
    assert_eq!(send(&batches, &heartbeats).await, [Outcome::Failed; 2]);
    assert!(received.lock().alone.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_sent_as_single_heartbeats() {
    let (received, batches) = control_plane(StatusCode::BAD_REQUEST);
    let heartbeats = [heartbeat("i1", "broken"), heartbeat("gone", "broken")];
    assert_eq!(send(&batches, &heartbeats).await, [Outcome::Alive, Outcome::NoInstance]);
    assert_eq!(received.lock().alone.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_leader_that_ended_form_a_new_batch() {
    let (received, batches) = control_plane(StatusCode::OK);
    let leading = heartbeat("i0", "d");
    let mut leader = Box::pin(batches.send(&leading));
    assert!(timeout(Duration::ZERO, &mut leader).await.is_err());
    let followers = [heartbeat("i1", "d"), heartbeat("i2", "d")];
    let end = async {
        tokio::time::sleep(WINDOW / 2).await;
        drop(leader);
    };
    let (outcomes, ()) = tokio::join!(send(&batches, &followers), end);
    assert_eq!(outcomes, [Outcome::Alive; 2]);
    assert_eq!(received.lock().batches.len(), 1);
    assert!(batches.open.lock().is_empty());
}

#[test]
fn the_ids_of_a_path_are_decoded() {
    let (batch, ids) =
        parse_path("/v4/p%201/registry/microservices/a%20b/instances/i/heartbeat").expect("a path");
    assert_eq!(batch, "/v4/p%201/registry/heartbeats");
    assert_eq!(ids, InstanceIds { service_id: "a b".to_owned(), instance_id: "i".to_owned() });
    assert!(parse_path("/v4/p/registry/microservices/%ff/instances/i/heartbeat").is_none());
}
