//! Discovery for Prometheus: every target, within the caller's rights, and never "none" without proof.

use std::time::Duration;

use edge_gateway::Config;
use edge_gateway::settings::{ReadsConfig, UpstreamConfig};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use shared::event::Action::{Create, Delete};

use crate::call::call;
use crate::tokens::{self, token};
use crate::world::{PATIENCE, World, config};

const TARGETS: &str = "/prometheus/v1/targets";

/// The status, headers and body of an answer.
async fn ask(world: &World, method: Method, query: &str, account: Option<&str>) -> (u16, HeaderMap, String) {
    let bearer = account.map(|account| format!("Bearer {}", token(account, 3600)));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    let path = format!("{TARGETS}{query}");
    let (head, body) = call(world, method.as_str(), &path, &headers, "").await.into_parts();
    (head.status.as_u16(), head.headers, body)
}

/// The addresses of an answer with targets.
async fn targets(world: &World, query: &str, account: Option<&str>) -> Vec<String> {
    let (status, headers, body) = ask(world, Method::GET, query, account).await;
    assert_eq!((status, headers["content-type"].as_bytes()), (200, &b"application/json"[..]), "{body}");
    let list: Vec<Value> = serde_json::from_str(&body).expect("a list");
    list.iter().map(|target| target["targets"][0].as_str().expect("an address").to_owned()).collect()
}

#[tokio::test]
async fn prometheus_is_told_every_target_as_it_is_now() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "1").await;
    let (_, _, body) = ask(&world, Method::GET, "?service=p", None).await;
    let expected = json!([{
        "targets": ["1.example:8080"],
        "labels": {
            "__meta_muster_app": "app",
            "__meta_muster_host_name": "rev-101",
            "__meta_muster_instance_id": "1",
            "__meta_muster_protocol": "rest",
            "__meta_muster_service": "p",
            "__meta_muster_service_id": "p",
            "__meta_muster_status": "UP",
            "__meta_muster_version": "1.0.0",
        },
    }]);
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON"), expected);

    // A service that is registered later, and an instance that goes, without a bookmark in between.
    world.control_plane.change("q", Create, "2").await;
    world.control_plane.register("q").await;
    world.control_plane.change("p", Delete, "1").await;
    let waiting = async {
        while targets(&world, "", None).await != ["2.example:8080"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the change arrives");
    for nothing in ["?service=p", "?app=other", "?env=test", "?port-name=grpc", "?domain=other"] {
        assert_eq!(targets(&world, nothing, None).await, [""; 0], "{nothing}");
    }
    assert_eq!(targets(&world, "?app=app&env=&service=q&port-name=REST", None).await, ["2.example:8080"]);
    let mistakes = [
        (Method::GET, "?servise=q", 400),
        (Method::GET, "?app=a&app=b", 400),
        (Method::POST, "", 405),
        (Method::HEAD, "", 405),
    ];
    for (method, query, expected) in mistakes {
        assert_eq!(ask(&world, method, query, None).await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn targets_that_are_not_known_are_no_empty_list() {
    let upstream = UpstreamConfig { open_timeout: Duration::from_millis(50), ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.change("p", Create, "1").await;
    world.control_plane.decline(1_000_000);
    let (status, headers, body) = ask(&world, Method::GET, "", None).await;
    assert_eq!(status, 503, "{body}");
    assert!(headers.contains_key("retry-after") && body.contains("500011"), "{body}");
    world.control_plane.decline(0);
    let waiting = async {
        while ask(&world, Method::GET, "", None).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("they become known");
    // Nothing is asked again for what is followed.
    world.control_plane.decline(1_000_000);
    assert_eq!(targets(&world, "", None).await, ["1.example:8080"]);
}

#[tokio::test]
async fn no_list_is_empty_while_what_was_missed_is_being_requested() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "1").await;
    world.control_plane.bookmark().await;
    assert_eq!(targets(&world, "", None).await, ["1.example:8080"]);
    world.control_plane.lose("q", "2").await;
    world.until("muster_edge_requests_repeated_total", |count| count >= 1.0).await;
    assert_eq!(ask(&world, Method::GET, "?service=q", None).await.0, 503);
    assert_eq!(targets(&world, "", None).await, ["1.example:8080"], "what is there is told");
    world.control_plane.decline(0);
    // The new one may be there before all else is confirmed.
    let waiting = async {
        for choice in ["?service=q", "?service=r"] {
            while ask(&world, Method::GET, choice, None).await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it arrives");
    assert_eq!(targets(&world, "?service=q", None).await, ["2.example:8080"]);
    assert_eq!(targets(&world, "?service=r", None).await, [""; 0]);
}

#[tokio::test]
async fn the_last_known_targets_are_marked_with_their_age() {
    let reads = ReadsConfig { fresh: Duration::ZERO, ..ReadsConfig::default() };
    let upstream = UpstreamConfig { reads, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.change("p", Create, "1").await;
    world.control_plane.bookmark().await;
    let waiting = async {
        loop {
            let (status, headers, _) = ask(&world, Method::GET, "", None).await;
            assert_eq!(status, 200);
            if headers.contains_key("warning") && headers.contains_key("age") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the bookmark arrives");
}

#[tokio::test]
async fn tenants_that_nobody_reads_make_room() {
    let reads = ReadsConfig { tenants: 2, ..ReadsConfig::default() };
    let upstream = UpstreamConfig { reads, ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.change("p", Create, "1").await;
    for number in 0..10 {
        assert_eq!(targets(&world, &format!("?project=made-up-{number}"), None).await, [""; 0]);
        assert_eq!(targets(&world, "", None).await, ["1.example:8080"]);
    }
    world.until("muster_edge_held_tenants", |held| held <= 2.0).await;
}

#[tokio::test]
async fn an_account_is_told_the_targets_of_its_rights() {
    let world = World::start().await;
    for service in ["shop-a", "bank"] {
        world.control_plane.change(service, Create, service).await;
    }
    world.control_plane.policy(tokens::policy()).await;
    world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    assert_eq!(ask(&world, Method::GET, "", None).await.0, 401);
    assert_eq!(ask(&world, Method::GET, "", Some("idle")).await.0, 403);
    let mut all = targets(&world, "", Some("reader")).await;
    all.sort();
    assert_eq!(all, ["bank.example:8080", "shop-a.example:8080"]);
    assert_eq!(targets(&world, "", Some("shop")).await, ["shop-a.example:8080"]);
    assert_eq!(ask(&world, Method::GET, "", Some("bound")).await.0, 403);
    assert_eq!(targets(&world, "?domain=mine&project=p", Some("bound")).await, [""; 0]);
}

#[tokio::test]
async fn the_discovery_can_be_switched_off() {
    let world = World::with(Config { http_sd: false, ..config() }).await;
    assert_eq!(ask(&world, Method::GET, "", None).await.0, 404);
}
