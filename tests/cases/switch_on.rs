//! Access control is switched on in a running fleet, one control plane after the other: no event is lost, and
//! no watcher ends that has the right to go on.

use std::net::SocketAddr;

use access::keys::SigningKey;
use access::token::{Claims, Issuer};
use harness::{World, eventually};
use serde_json::{Value, json};

use crate::key_files::KeyFiles;
use crate::operate::write;
use crate::tag_watch::{send, watch};

const SERVICES: &str = "/v4/default/registry/microservices";
/// The close code of a watch that has shown no token.
const TOKEN_MISSING: u16 = 4107;

/// Switches access control on under so many watchers at each of two gateways, a tenth of which have no token.
async fn switch_on(watchers: usize) {
    let keys = KeyFiles::new();
    let directory = tempfile::tempdir().expect("a directory");
    let open = "[rbac]\nenable = false\n";
    let file = write(directory.path(), "muster.toml", open);
    let world = keys.name(World::with().planes(2).gateways(2)).plane_flag("--config", &file).start().await;
    let gateways: Vec<SocketAddr> = world.gateways.iter().map(|gateway| gateway.api).collect();
    let mut etcd = etcd_client::Client::connect([world.etcd.endpoint()], None).await.expect("connects");
    let account = r#"{"name":"peter","roles":["developer"],"status":"active"}"#;
    etcd.put("/cse-sr/accounts/peter", account, None).await.expect("is stored");
    let issuer = Issuer::new(SigningKey::from_pem(keys.old.private.as_bytes()).expect("a key"));
    let claims = Claims { account: "peter".into(), exp: 4_000_000_000, iat: Some(1), ..Claims::default() };
    let token = format!("Bearer {}", issuer.issue(&claims).expect("is signed"));

    let service = json!({"service": {"serviceName": "order", "appId": "shop", "version": "1.0.0"}});
    let made = send(gateways[0], &token, "POST", SERVICES, service).await.expect("an answer").ok();
    let provider = made["serviceId"].as_str().expect("an id").to_owned();
    let instances = format!("{SERVICES}/{provider}/instances");
    let instance = json!({"instance": {"instanceId": "i", "hostName": "n", "endpoints": ["rest://10.0.0.1:80"],
        "healthCheck": {"mode": "push", "interval": 60, "times": 10}}});
    send(gateways[0], &token, "POST", &instances, instance).await.expect("an answer").ok();
    let mut keeping = Vec::new();
    let mut strangers = Vec::new();
    for gateway in &gateways {
        for number in 0..watchers {
            match number % 10 {
                0 => strangers.push(watch(*gateway, &provider, "").await),
                _ => keeping.push(watch(*gateway, &provider, &token).await),
            }
        }
    }

    let mut sent = Vec::new();
    let properties = format!("{instances}/i/properties");
    let mut change = async || {
        let tag = format!("t{}", sent.len());
        let body = json!({"properties": {"tag": tag}});
        // A control plane that restarts may leave a request unanswered; writing the same again changes
        // nothing.
        eventually("the change is written", || async {
            let answer = send(gateways[sent.len() % 2], &token, "PUT", &properties, body.clone()).await?;
            (answer.status == 200).then_some(())
        })
        .await;
        for watcher in &keeping {
            eventually("the watcher is told the change", || async {
                assert_eq!(watcher.lock().ended, None, "a watcher with the right goes on");
                (watcher.lock().tags.last() == Some(&tag)).then_some(())
            })
            .await;
        }
        sent.push(tag);
    };
    for _ in 0..3 {
        change().await;
    }
    write(directory.path(), "muster.toml", "[rbac]\nenable = true\n");
    for plane in &world.control_planes {
        assert_eq!(plane.process.terminate().await, Some(0), "a drain ends well");
        // One of them is closed now and the other one open, or away.
        change().await;
        plane.process.start();
        plane.ready().await;
        change().await;
    }
    for gateway in &gateways {
        eventually("strangers are refused", || async {
            let answer = send(*gateway, "", "GET", SERVICES, Value::Null).await?;
            (answer.status == 401).then_some(())
        })
        .await;
    }
    for stranger in &strangers {
        eventually("a watch without a token ends", || async { stranger.lock().ended }).await;
        assert_eq!(stranger.lock().ended, Some(TOKEN_MISSING));
    }
    for _ in 0..3 {
        change().await;
    }
    for watcher in &keeping {
        let mut told = watcher.lock().tags.clone();
        // The change before a state, or the one after, may be in it already.
        told.dedup();
        assert_eq!(told, sent, "once and in order");
        assert_eq!(watcher.lock().ended, None, "no watcher with the right loses its watch");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_control_is_switched_on_under_watchers() {
    switch_on(20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs some minutes and 8000 descriptors: cargo xtask switch"]
async fn access_control_is_switched_on_under_2000_watchers() {
    switch_on(1000).await;
}
