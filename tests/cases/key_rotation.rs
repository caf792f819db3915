//! The keys of tokens are replaced in a running fleet, in which nothing is restarted: old tokens count until
//! their key is taken away, and no watcher notices before that.

use std::net::SocketAddr;

use harness::{Client, World, eventually, port};
use serde_json::{Value, json};

use crate::key_files::{KeyFiles, ROOT_PASSWORD};
use crate::tag_watch::{send, watch};

const SERVICES: &str = "/v4/default/registry/microservices";

async fn login(gateway: SocketAddr) -> Option<String> {
    let body = json!({"name": "root", "password": ROOT_PASSWORD}).to_string();
    let answer = Client::new(gateway).try_send("POST", "/v4/token", &[], body).await?;
    (answer.status == 200).then(|| format!("Bearer {}", answer.ok()["token"].as_str().expect("a token")))
}

/// Replaces the keys under so many watchers at each of two gateways.
async fn replace_keys(count: usize) {
    let keys = KeyFiles::new();
    let world = keys.guard(World::with().planes(2).gateways(2)).start().await;
    let gateways: Vec<SocketAddr> = world.gateways.iter().map(|gateway| gateway.api).collect();
    let planes: Vec<SocketAddr> = world.control_planes.iter().map(|plane| plane.api).collect();
    let token = eventually("root logs in through a gateway", || login(gateways[0])).await;
    let old_token = token.as_str();
    for gateway in &gateways {
        eventually("the account is known at the gateway", || async {
            let answer = send(*gateway, old_token, "GET", SERVICES, Value::Null).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    let service = json!({"service": {"serviceName": "order", "appId": "shop", "version": "1.0.0"}});
    let made = send(gateways[0], old_token, "POST", SERVICES, service).await.expect("an answer").ok();
    let provider = made["serviceId"].as_str().expect("an id").to_owned();
    let instance = json!({"instance": {"instanceId": "i", "hostName": "n", "endpoints": ["rest://10.0.0.1:80"],
        "healthCheck": {"mode": "push", "interval": 60, "times": 10}}});
    let instances = format!("{SERVICES}/{provider}/instances");
    send(gateways[0], old_token, "POST", &instances, instance).await.expect("an answer").ok();
    let mut watchers = Vec::new();
    for gateway in &gateways {
        for _ in 0..count {
            watchers.push(watch(*gateway, &provider, old_token).await);
        }
    }

    let mut sent = Vec::new();
    let properties = format!("{instances}/i/properties");
    let mut change = async |token: &str| {
        let tag = format!("t{}", sent.len());
        let body = json!({"properties": {"tag": tag}});
        // A control plane that is busy may leave a request unanswered; writing the same again changes
        // nothing.
        eventually("the change is written", || async {
            let answer = send(gateways[sent.len() % 2], token, "PUT", &properties, body.clone()).await?;
            (answer.status == 200).then_some(())
        })
        .await;
        // Told before the next change, because a gateway that lacks several changes while every control plane
        // has just listed the store is sent the state that came of them.
        for watcher in &watchers {
            eventually("the watcher is told the change", || async {
                (watcher.lock().tags.last() == Some(&tag)).then_some(())
            })
            .await;
        }
        sent.push(tag);
    };
    for _ in 0..5 {
        change(old_token).await;
    }
    // First every process knows the new key, then it signs, then the old one goes.
    keys.announce_new(&planes).await;
    change(old_token).await;
    keys.sign_with_new(&planes).await;
    change(old_token).await;
    let fresh = eventually("root logs in again", || login(gateways[1])).await;
    let head = |token: &str| token.trim_start_matches("Bearer ").split('.').next().map(str::to_owned);
    assert_ne!(head(&fresh), head(old_token), "the new key signs");
    change(&fresh).await;
    change(old_token).await;
    for watcher in &watchers {
        eventually("the watcher was told everything", || async {
            let told = watcher.lock();
            assert_eq!(told.ended, None, "no watcher loses its watch");
            (told.tags.last() == sent.last()).then_some(())
        })
        .await;
        let mut tags = watcher.lock().tags.clone();
        // The change before a state, or the one after, may be in it already.
        tags.dedup();
        assert_eq!(tags, sent, "once and in order");
    }
    let stays = watch(gateways[0], &provider, &fresh).await;

    keys.forget_old(&planes).await;
    for gateway in &gateways {
        eventually("the old key counts no more", || async {
            let answer = send(*gateway, old_token, "GET", SERVICES, Value::Null).await?;
            (answer.status == 401).then_some(())
        })
        .await;
        let answer = send(*gateway, &fresh, "GET", SERVICES, Value::Null).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    eventually("watches of the old key end", || async {
        watchers.iter().all(|watcher| watcher.lock().ended.is_some()).then_some(())
    })
    .await;
    assert!(
        watchers.iter().all(|watcher| watcher.lock().ended.is_some_and(|code| (4100..4200).contains(&code)))
    );
    assert_eq!(stays.lock().ended, None, "a watch of the new key goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_under_watchers_and_nothing_is_lost() {
    replace_keys(20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs some minutes and 8000 descriptors: cargo xtask switch"]
async fn keys_are_replaced_under_2000_watchers() {
    replace_keys(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_registry_takes_replaced_keys() {
    let keys = KeyFiles::new();
    let api = port::local();
    let _process = keys.standalone(api).await;
    let old_token = eventually("root logs in", || login(api)).await;
    let status =
        async |token: &str| send(api, token, "GET", SERVICES, Value::Null).await.map(|answer| answer.status);
    eventually("the token counts", || async { (status(&old_token).await? == 200).then_some(()) }).await;
    keys.announce_new(&[api]).await;
    keys.sign_with_new(&[api]).await;
    let fresh = login(api).await.expect("root logs in");
    assert_eq!((status(&old_token).await, status(&fresh).await), (Some(200), Some(200)), "both count");
    keys.forget_old(&[api]).await;
    eventually("the old key counts no more", || async { (status(&old_token).await? == 401).then_some(()) })
        .await;
    assert_eq!(status(&fresh).await, Some(200));
}
