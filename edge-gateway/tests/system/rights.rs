//! Open watches of accounts: they end with the right, go on with a new token, and show what the right covers.

use std::sync::Arc;
use std::time::Duration;

use access::{Policy, Role};
use axum::Router;
use axum::routing::any;
use edge_gateway::Config;
use edge_gateway::forward::InProcess;
use edge_gateway::settings::PolicyConfig;
use proto::watch::v1::WatchRequest;
use proto::watch::v1::watch_client::WatchClient;
use serde_json::Value;
use shared::event::Action;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::tokens::{self, token};
use crate::world::{PATIENCE, Watcher, World, config};

const WATCHER: &str = "/v4/default/registry/microservices/c/watcher";
const RESUMABLE: &str = "/v4/default/registry/microservices/c/watcher?rev=0";

/// A gateway that lets sessions end quickly, whose control plane answers 200 and has this policy.
async fn world(policy: Policy) -> World {
    let access = PolicyConfig { end_over: Duration::from_millis(200), ..PolicyConfig::default() };
    let forward = InProcess::new(Router::new().fallback_service(any(async || "{}")));
    let world = World::with_forward(Config { access, ..config() }, Arc::new(forward)).await;
    world.control_plane.consumer("c", &["shop-a", "bank"]);
    set(&world, policy).await;
    world
}

/// Publishes a policy, and waits until the gateway has it.
async fn set(world: &World, policy: Policy) {
    let before = world.metric("muster_edge_policy_revision");
    world.control_plane.policy(policy).await;
    world.until("muster_edge_policy_revision", |revision| revision > before).await;
}

async fn grpc_watch(world: &World, account: &str) -> Streaming<proto::watch::v1::WatchResponse> {
    let endpoint = Channel::from_shared(format!("http://{}", world.api)).expect("an address");
    let mut client = WatchClient::new(endpoint.connect().await.expect("connects"));
    let message = WatchRequest { consumer_id: "c".to_owned(), ..WatchRequest::default() };
    let mut request = Request::new(message);
    let value = format!("Bearer {}", token(account, 3600));
    request.metadata_mut().insert("authorization", value.parse().expect("a value"));
    client.watch(request).await.expect("is admitted").into_inner()
}

/// The status with which a stream ends, after whatever it still carries.
async fn end_of(stream: &mut Streaming<proto::watch::v1::WatchResponse>) -> Status {
    loop {
        match timeout(PATIENCE, stream.message()).await.expect("in time") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => return status,
        }
    }
}

impl Watcher {
    /// The code and the words of the close frame, after whatever is still sent.
    async fn close_code(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Some(Ok(Message::Text(_))) => {}
                Some(Ok(Message::Close(Some(close)))) => {
                    return (close.code.into(), close.reason.to_string());
                }
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    }

    /// The next message that is no bookmark.
    async fn json(&mut self) -> Value {
        loop {
            let json: Value = serde_json::from_str(&self.text().await).expect("JSON");
            if json["action"] != "BOOKMARK" {
                return json;
            }
        }
    }
}

impl World {
    /// Commits and publishes a change, and awaits its event at a watcher that is sent other messages too.
    async fn change_reaches_json(&self, watcher: &mut Watcher, provider: &str, id: &str) {
        let event = self.control_plane.change(provider, Action::Create, id).await;
        while watcher.json().await["rev"] != event.at.rev.get() {}
    }
}

#[tokio::test]
async fn a_watch_ends_with_the_right_and_says_why() {
    let good = tokens::policy();
    let changed = |change: fn(&mut Policy)| {
        let mut policy = tokens::policy();
        change(&mut policy);
        policy
    };
    for (policy, code, status) in [
        (changed(|policy| drop(policy.accounts.remove("reader"))), 4103, Code::Unauthenticated),
        (
            changed(|policy| policy.accounts.get_mut("reader").expect("is there").inactive = true),
            4104,
            Code::Unauthenticated,
        ),
        (
            changed(|policy| {
                policy.accounts.get_mut("reader").expect("is there").not_before = tokens::now() + 9
            }),
            4102,
            Code::Unauthenticated,
        ),
        (
            changed(|policy| policy.revoked = [("reader-3600".to_owned(), u64::MAX)].into()),
            4102,
            Code::Unauthenticated,
        ),
        (
            changed(|policy| drop(policy.roles.insert("reader".to_owned(), Arc::new(Role::default())))),
            4105,
            Code::PermissionDenied,
        ),
        (
            changed(|policy| {
                policy.accounts.get_mut("reader").expect("is there").tenants = vec!["mine".to_owned()]
            }),
            4105,
            Code::PermissionDenied,
        ),
        (
            changed(|policy| {
                policy.accounts.get_mut("reader").expect("is there").roles = vec!["shop".to_owned()]
            }),
            4106,
            Code::Aborted,
        ),
    ] {
        let world = world(good.clone()).await;
        let mut stays = world.watch_with("c", &token("dev", 3600)).await;
        let mut resumable = world.watch_path_with(RESUMABLE, &token("reader", 3600)).await;
        let mut plain = world.watch_with("c", &token("reader", 3600)).await;
        let mut stream = grpc_watch(&world, "reader").await;
        set(&world, policy).await;
        let (closed, words) = resumable.close_code().await;
        assert_eq!(closed, code, "{words}");
        assert!(!words.is_empty());
        let ended = end_of(&mut stream).await;
        assert_eq!((ended.code(), ended.message()), (status, &*words));
        // Old clients come back, with a new token, only after an error.
        match plain.next().await {
            Some(Err(_)) => {}
            other => panic!("an error was expected, not {other:?}"),
        }
        world.change_reaches(&mut stays, "bank", Action::Create, "1").await;
    }
}

#[tokio::test]
async fn a_watch_ends_with_its_token_unless_it_was_renewed() {
    let world = world(tokens::policy()).await;
    let short = token("dev", 3);
    let mut renewed = world.watch_path_with(RESUMABLE, &short).await;
    let mut ended = world.watch_path_with(RESUMABLE, &short).await;
    let mut plain = world.watch_with("c", &short).await;

    let message = serde_json::json!({ "token": token("dev", 3600) }).to_string();
    renewed.send(Message::text(message.clone())).await;
    // Such a message means nothing to a watch that cannot resume.
    plain.send(Message::text(message)).await;
    let answer = loop {
        let json = renewed.json().await;
        if json["action"] == "TOKEN" {
            break json;
        }
    };
    assert!(answer["expiresAt"].as_u64().expect("a time") > tokens::now() + 3000, "{answer}");

    assert_eq!(ended.close_code().await.0, 4101);
    assert!(plain.next().await.expect("an end").is_err());
    world.change_reaches_json(&mut renewed, "bank", "1").await;
    let line = "muster_edge_sessions_closed_total{reason=\"token_expired\"}";
    world.until(line, |count| count == 2.0).await;
}

#[tokio::test]
async fn a_bad_new_token_changes_nothing() {
    let world = world(tokens::policy()).await;
    for (bad, code) in
        [(token("reader", 3600), "403205"), (token("dev", 0), "401205"), ("x".to_owned(), "401201")]
    {
        let mut watcher = world.watch_path_with(RESUMABLE, &token("dev", 3600)).await;
        watcher.send(Message::text("[1]")).await;
        watcher.send(Message::text(serde_json::json!({ "token": bad }).to_string())).await;
        let answer = loop {
            let json = watcher.json().await;
            if json["action"] == "TOKEN" {
                break json;
            }
        };
        assert_eq!(answer["errorCode"], code, "{answer}");
        world.change_reaches_json(&mut watcher, "bank", code).await;
    }
    // Beyond the longest token nothing is kept.
    let mut watcher = world.watch_path_with(RESUMABLE, &token("dev", 3600)).await;
    watcher.send(Message::text("x".repeat(9000))).await;
    assert_eq!(watcher.close_code().await.0, 1009);
}

#[tokio::test]
async fn a_watcher_is_sent_what_its_labels_cover() {
    let world = world(tokens::policy()).await;
    for provider in ["shop-a", "bank"] {
        world.control_plane.change(provider, Action::Create, "first").await;
    }
    let mut all = world.watch_with("c", &token("dev", 3600)).await;
    let mut some = world.watch_with("c", &token("shop", 3600)).await;
    let mut from_the_start = world.watch_path_with(RESUMABLE, &token("shop", 3600)).await;
    let reset = from_the_start.json().await;
    assert_eq!(
        (&reset["action"], &reset["key"]["serviceName"]),
        (&"RESET".into(), &"shop-a".into()),
        "{reset}"
    );
    let since = world.control_plane.change("bank", Action::Update, "first").await;
    all.expect(&since).await;
    let visible = world.control_plane.change("shop-a", Action::Update, "first").await;
    all.expect(&visible).await;
    some.expect(&visible).await;
    assert_eq!(from_the_start.json().await["key"]["serviceName"], "shop-a", "no other state, no other event");

    // A watcher that resumes is replayed its part.
    world.control_plane.bookmark().await;
    let path = format!("{WATCHER}?rev={}", since.at.rev.get() - 1);
    let mut resumed = world.watch_path_with(&path, &token("shop", 3600)).await;
    let replayed = resumed.json().await;
    assert_eq!(
        (&replayed["key"]["serviceName"], &replayed["rev"]),
        (&"shop-a".into(), &visible.at.rev.get().into())
    );

    // The two kinds of watchers of one consumer share everything else.
    world.change_reaches(&mut all, "bank", Action::Delete, "first").await;
    let last = world.control_plane.change("shop-a", Action::Delete, "first").await;
    some.expect(&last).await;
}

#[tokio::test]
async fn a_client_that_was_away_while_its_rights_changed_begins_anew() {
    let world = world(tokens::policy()).await;
    for provider in ["shop-a", "bank"] {
        world.control_plane.change(provider, Action::Create, "first").await;
    }
    let known = world.control_plane.change("shop-a", Action::Update, "first").await.at.rev;
    let path = format!("{WATCHER}?rev={known}");
    let mut policy = tokens::policy();
    let mut shop = Role::clone(&policy.roles["shop"]);
    shop.perms[0].resources[0].labels.insert("serviceName".to_owned(), "bank".to_owned());
    policy.roles.insert("shop".to_owned(), Arc::new(shop));
    policy.role_revisions.insert("shop".to_owned(), known.next());
    set(&world, policy).await;

    let mut resumed = world.watch_path_with(&path, &token("shop", 3600)).await;
    let void = resumed.json().await;
    assert_eq!((&void["action"], &void["key"]), (&"RESET".into(), &Value::Null), "{void}");
    assert_eq!(resumed.json().await["key"]["serviceName"], "bank", "the only one that it may read now");
    let mut unchanged = world.watch_path_with(&path, &token("dev", 3600)).await;
    let later = world.control_plane.change("bank", Action::Update, "first").await;
    for watcher in [&mut resumed, &mut unchanged] {
        let next = watcher.json().await;
        assert_eq!((&next["action"], &next["rev"]), (&"UPDATE".into(), &later.at.rev.get().into()), "{next}");
    }
    // What it has since then is by its rights of now.
    world.control_plane.bookmark().await;
    let path = format!("{WATCHER}?rev={}", later.at.rev);
    let mut resumed = world.watch_path_with(&path, &token("shop", 3600)).await;
    world.change_reaches_json(&mut resumed, "bank", "second").await;
}

#[tokio::test]
async fn switched_on_only_clients_without_a_right_lose_their_watch() {
    let off = Policy { enabled: false, keys: Vec::new(), ..Policy::default() };
    let world = world(off).await;
    let mut anonymous = world.watch("c").await;
    let mut anonymous_too = world.watch_path(RESUMABLE).await;
    let mut shown = world.watch_with("c", &token("dev", 3600)).await;
    let mut wrong = world.watch_path_with(RESUMABLE, &token("nobody", 3600)).await;
    world.change_reaches(&mut anonymous, "bank", Action::Create, "1").await;

    set(&world, tokens::policy()).await;
    assert_eq!(anonymous_too.close_code().await.0, 4107);
    assert_eq!(wrong.close_code().await.0, 4107);
    let ended = loop {
        match anonymous.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    world.until("muster_edge_sessions", |open| open == 1.0).await;
    let before = world.control_plane.change("bank", Action::Update, "1").await;
    loop {
        if shown.event().await.2 == before.at.rev.get() {
            break;
        }
    }
}
