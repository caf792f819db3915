//! Eureka's REST interface: what a client is told, within its rights, and never "none" without proof.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::{any, post};
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use edge_gateway::settings::UpstreamConfig;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use shared::event::Action::{Create, Delete};

use crate::call::call;
use crate::tokens::{self, token};
use crate::world::{PATIENCE, World, config};

/// The stub's services are of this application.
const APPS: &str = "/eureka/in/app=app/apps/";

async fn ask(
    world: &World,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let (head, body) = call(world, method.as_str(), path, headers, "").await.into_parts();
    (head.status.as_u16(), head.headers, body)
}

/// The ids and the hash of an answer in JSON.
fn told(body: &str) -> (Vec<String>, String) {
    let body: Value = serde_json::from_str(body).expect("JSON");
    let mut ids = Vec::new();
    for application in body["applications"]["application"].as_array().expect("a list") {
        for instance in application["instance"].as_array().expect("a list") {
            ids.push(instance["instanceId"].as_str().expect("an id").to_owned());
        }
    }
    (ids, body["applications"]["apps__hashcode"].as_str().expect("a hash").to_owned())
}

async fn json(world: &World, path: &str, account: Option<&str>) -> (Vec<String>, String) {
    let bearer = account.map(|account| format!("Bearer {}", token(account, 3600)));
    let mut headers = vec![("accept", "application/json")];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let (status, headers, body) = ask(world, Method::GET, path, &headers).await;
    assert_eq!((status, headers["content-type"].as_bytes()), (200, &b"application/json"[..]), "{body}");
    told(&body)
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect(what);
}

#[tokio::test]
async fn a_client_is_told_every_instance_as_it_is_now() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "1").await;
    assert_eq!(json(&world, APPS, None).await, (vec!["1".to_owned()], "UP_1_".to_owned()));
    world.control_plane.change("p", Create, "2").await;
    let both = (vec!["1".to_owned(), "2".to_owned()], "UP_2_".to_owned());
    until("the change arrives", async || json(&world, APPS, None).await == both).await;
    // The gateway began a moment ago, so a delta names everything.
    assert_eq!(json(&world, "/eureka/in/app=app/apps/delta", None).await, both);
    assert_eq!(json(&world, "/eureka/in/app=app/vips/P", None).await, both);
    // The absence of a name is known once a bookmark has covered the last change.
    world.control_plane.bookmark().await;
    assert_eq!(json(&world, "/eureka/in/app=app/svips/q", None).await, (vec![], String::new()));
    world.control_plane.change("p", Delete, "1").await;
    until("the change arrives", async || json(&world, APPS, None).await.1 == "UP_1_").await;
    let (status, _, body) = ask(&world, Method::GET, "/eureka/in/app=app/apps/p/2", &[]).await;
    assert!(status == 200 && body.starts_with("<instance><instanceId>2</instanceId>"), "{body}");
    let compressed = [("accept", "application/json"), ("accept-encoding", "gzip")];
    let (_, headers, _) = ask(&world, Method::GET, APPS, &compressed).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(json(&world, "/eureka/apps", None).await.0, [""; 0], "another application of the registry");
    // And so it is with an id that nobody has any more, here and below.
    world.control_plane.bookmark().await;
    for (method, path, expected) in [
        (Method::GET, "/eureka/in/app=app/instances/2", 200),
        (Method::GET, "/eureka/in/app=app/instances/1", 404),
        (Method::GET, "/eureka/in/color=red/apps", 400),
        (Method::GET, "/eureka/other", 404),
        (Method::POST, "/eureka/apps/p", 415),
    ] {
        assert_eq!(ask(&world, method, path, &[]).await.0, expected, "{path}");
    }
    assert_eq!(ask(&world, Method::PUT, "/eureka/in/app=app/apps/p/9", &[]).await.0, 404, "no such instance");
}

#[tokio::test]
async fn instances_that_are_not_known_are_no_empty_list() {
    let upstream = UpstreamConfig { open_timeout: Duration::from_millis(50), ..config().upstream };
    let world = World::with(Config { upstream, ..config() }).await;
    world.control_plane.change("p", Create, "1").await;
    world.control_plane.decline(1_000_000);
    for (method, path) in [
        (Method::GET, "apps"),
        (Method::GET, "apps/delta"),
        (Method::GET, "apps/p"),
        (Method::GET, "vips/p"),
        (Method::GET, "instances/1"),
        (Method::PUT, "apps/p/1"),
        (Method::DELETE, "apps/p/1"),
    ] {
        let as_json = [("accept", "application/json")];
        let (status, headers, body) =
            ask(&world, method, &format!("/eureka/in/app=app/{path}"), &as_json).await;
        assert!(status == 503 && headers.contains_key("retry-after"), "{path}: {status} {body}");
        // Nor is the refusal itself one: a client may decode it as if it were an answer.
        assert!(headers["content-type"].as_bytes().starts_with(b"text/plain"), "{path}: {headers:?}");
        assert!(serde_json::from_str::<Value>(&body).is_err() && body.ends_with('\n'), "{path}: {body}");
    }
    world.control_plane.decline(0);
    until("they become known", async || ask(&world, Method::GET, APPS, &[]).await.0 == 200).await;
    world.control_plane.decline(1_000_000);
    assert_eq!(json(&world, APPS, None).await.1, "UP_1_", "the last that is known stays");
}

#[tokio::test]
async fn an_absence_is_not_told_while_what_was_missed_is_being_requested() {
    let world = World::start().await;
    world.control_plane.change("p", Create, "1").await;
    world.control_plane.bookmark().await;
    assert_eq!(json(&world, APPS, None).await.1, "UP_1_");
    world.control_plane.lose("q", "2").await;
    world.until("muster_edge_requests_repeated_total", |count| count >= 1.0).await;
    let told =
        async |method, path: &str| ask(&world, method, &format!("/eureka/in/app=app/{path}"), &[]).await.0;
    let all = tokio::join!(
        told(Method::GET, "apps/q"),
        told(Method::GET, "apps/q/2"),
        told(Method::GET, "instances/2"),
        told(Method::GET, "vips/q"),
        told(Method::PUT, "apps/q/2"),
        told(Method::GET, "apps/p/1"),
    );
    assert_eq!(all, (503, 503, 503, 503, 503, 200), "what is there is told");
    // Nor is a list empty: of another application here, which the client may know from elsewhere.
    assert_eq!(ask(&world, Method::GET, "/eureka/apps", &[]).await.0, 503);
    world.control_plane.decline(0);
    until("it is told", async || told(Method::GET, "apps/q/2").await == 200).await;
    assert_eq!(told(Method::GET, "apps/q/3").await, 404);
    assert_eq!(json(&world, "/eureka/apps", None).await.0, [""; 0]);
}

#[tokio::test]
async fn an_account_is_told_what_its_rights_cover() {
    let world = World::start().await;
    for service in ["shop-a", "bank"] {
        world.control_plane.change(service, Create, service).await;
    }
    world.control_plane.policy(tokens::policy()).await;
    world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    assert_eq!(ask(&world, Method::GET, APPS, &[]).await.0, 401);
    assert_eq!(json(&world, APPS, Some("reader")).await.1, "UP_2_");
    assert_eq!(json(&world, APPS, Some("shop")).await, (vec!["shop-a".to_owned()], "UP_1_".to_owned()));
    assert_eq!(json(&world, "/eureka/in/app=app/apps/delta", Some("shop")).await.1, "UP_1_");
    let as_account = async |method, path: &str, account: &str| {
        let bearer = format!("Bearer {}", token(account, 3600));
        ask(&world, method, path, &[("authorization", &bearer)]).await.0
    };
    for (method, path, account, expected) in [
        (Method::GET, "/eureka/in/app=app/apps/bank", "reader", 200),
        (Method::GET, "/eureka/in/app=app/apps/bank", "shop", 404),
        (Method::GET, "/eureka/in/app=app/instances/bank", "shop", 404),
        (Method::GET, "/eureka/in/app=app/apps/bank/bank", "shop", 404),
        (Method::GET, "/eureka/in/app=app/apps", "idle", 403),
        (Method::DELETE, "/eureka/in/app=app/apps/bank/bank", "reader", 403),
        (Method::GET, "/eureka/in/app=app/apps", "bound", 403),
        (Method::GET, "/eureka/in/app=app,domain=mine,project=p/apps", "bound", 200),
        (Method::POST, "/eureka/in/domain=other/apps/x", "bound", 403),
    ] {
        assert_eq!(as_account(method, path, account).await, expected, "{path} as {account}");
    }
}

#[tokio::test]
async fn a_name_and_a_password_are_one_login_for_many_requests() {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = logins.clone();
    let login = post(async move |body: axum::body::Bytes| {
        count.fetch_add(1, Ordering::Relaxed);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        match (body["name"].as_str(), body["password"].as_str()) {
            (Some("reader"), Some("secret")) => {
                (StatusCode::OK, format!(r#"{{"token":"{}"}}"#, token("reader", 900)))
            }
            _ => (StatusCode::UNAUTHORIZED, r#"{"errorCode":"401202"}"#.to_owned()),
        }
    });
    let others = any(async || StatusCode::IM_A_TEAPOT);
    let router = Router::new().route("/v4/token", login).fallback_service(others);
    let world = World::with_forward(config(), Arc::new(InProcess::new(router))).await;
    world.control_plane.change("p", Create, "1").await;
    // "reader:secret"; without access control nobody has to log in.
    let right = [("authorization", "Basic cmVhZGVyOnNlY3JldA=="), ("accept", "application/json")];
    assert_eq!(told(&ask(&world, Method::GET, APPS, &right).await.2).1, "UP_1_");
    assert_eq!(logins.load(Ordering::Relaxed), 0);
    world.control_plane.policy(tokens::policy()).await;
    world.until("muster_edge_policy_revision", |revision| revision > 0.0).await;
    for _ in 0..3 {
        assert_eq!(told(&ask(&world, Method::GET, APPS, &right).await.2).1, "UP_1_");
    }
    assert_eq!(logins.load(Ordering::Relaxed), 1);
    let wrong = [("authorization", "Basic cmVhZGVyOndyb25n")];
    for attempt in 2..4 {
        let (status, headers, _) = ask(&world, Method::GET, APPS, &wrong).await;
        assert_eq!((status, headers.contains_key("www-authenticate")), (401, true));
        assert!(headers["content-type"].as_bytes().starts_with(b"text/plain"), "{headers:?}");
        assert_eq!(logins.load(Ordering::Relaxed), attempt, "a wrong password is never kept");
    }
    // Elsewhere a name and a password are no token, as ever.
    assert_eq!(ask(&world, Method::GET, "/v4/default/registry/microservices", &right).await.0, 401);
    // A token that counts no more is replaced at once.
    let mut policy = tokens::policy();
    policy.revoked.insert("reader-900".to_owned(), tokens::now() + 900);
    world.control_plane.policy(policy).await;
    until("the policy arrives", async || ask(&world, Method::GET, APPS, &right).await.0 == 401).await;
    assert!(logins.load(Ordering::Relaxed) > 3);
}

#[tokio::test]
async fn eureka_can_be_switched_off() {
    let world = World::with(Config { eureka: false, ..config() }).await;
    assert_eq!(ask(&world, Method::GET, APPS, &[]).await.0, 404);
}
