//! An etcd that reaches its quota.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use harness::{Client, Process, World, eventually, port};
use serde_json::{Value, json};

/// Writes under ever new tenants, twice as much as a store of 64 MiB takes: with large values, and then with
/// smaller ones. Another tenant goes on.
async fn make_up_tenants(client: &Client) {
    let provider = client.service("order").await;
    let mut refused = 0;
    for n in 0..500 {
        let value = "x".repeat(if n < 200 { 400_000 } else { 100_000 });
        let services = format!("/v4/made-up-{n}/registry/microservices");
        let service = json!({"serviceName": "s", "appId": "a", "version": "1.0.0"});
        let body = json!({"service": service}).to_string();
        let registered = client.try_send("POST", &services, &[], body).await.expect("an answer");
        let answer = match registered.status {
            200 => {
                let id = registered.ok()["serviceId"].as_str().expect("an id").to_owned();
                let body = json!({"schema": value}).to_string();
                let path = format!("{services}/{id}/schemas/large");
                client.try_send("PUT", &path, &[], body).await.expect("an answer")
            }
            _ => registered,
        };
        match answer.status {
            200 => {}
            429 => refused += 1,
            other => panic!("tenant {n} fills the store: {other} {}", answer.text()),
        }
    }
    assert!(refused > 100, "{refused} refusals");
    for n in 0..20 {
        client.instance_with(&provider, &format!("i-{n}"), 300).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_are_made_up_do_not_fill_etcd() {
    let world = World::with()
        .etcd_argument("--quota-backend-bytes=67108864")
        .plane_flag("--etcd-quota", "64MiB")
        .start()
        .await;
    make_up_tenants(&world.client(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_are_made_up_do_not_fill_an_embedded_store() {
    let address = port::local();
    let listen = address.to_string();
    let flags = ["standalone", "--data-dir", "data", "--listen", &listen, "--store-quota", "64MiB"];
    let registry = Process::ours("muster").args(flags);
    registry.start();
    let client = Client::new(address);
    eventually("the registry is ready", || async {
        (client.try_get("/ready").await?.status == 200).then_some(())
    })
    .await;
    make_up_tenants(&client).await;
    let ready = client.get("/ready").await.text();
    assert!(ready.contains("of its quota are used"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_fills_the_store_is_slowed_first() {
    let world = World::with()
        .etcd_argument("--quota-backend-bytes=67108864")
        .plane_flag("--etcd-quota", "64MiB")
        .start()
        .await;
    let client = world.client(0);
    let provider = client.service("order").await;
    let loud = json!({"service": {"appId": "shop", "serviceName": "loud", "version": "1.0.0"}}).to_string();
    let loud = client.try_send("POST", "/v4/loud/registry/microservices", &[], loud).await;
    let loud = loud.expect("an answer").ok()["serviceId"].as_str().expect("an id").to_owned();

    let path = format!("/v4/loud/registry/microservices/{loud}/schemas/large");
    let plane = &world.control_planes[0];
    let condition = || async {
        let ready = harness::Client::new(plane.admin).get("/ready").await;
        (ready.status, ready.text())
    };
    let written = AtomicUsize::new(0);
    // The first refusal may come a little before the store's own figure reaches the limit: the control plane adds what
    // it has written since it last looked, and etcd may have put that into pages that it had freed. So the writer tries
    // again until the readiness tells it.
    eventually("the readiness tells how full the store is", || async {
        let refused = loop {
            let n = written.load(Relaxed);
            let body = json!({"schema": format!("{n} {}", "x".repeat(500_000))}).to_string();
            let answer = client.try_send("PUT", &path, &[], body).await.expect("an answer");
            if answer.status != 200 {
                break answer;
            }
            written.store(n + 1, Relaxed);
            assert!(n < 130, "{n} writes, of which the store takes 134 at most");
        };
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert!(refused.text().contains(r#""errorCode":"400100""#), "{}", refused.text());
        let (status, text) = condition().await;
        (status == 200 && text.contains("of its quota are used")).then_some(())
    })
    .await;
    for n in 0..20 {
        client.instance_with(&provider, &format!("i-{n}"), 300).await;
    }

    // Another program fills the rest, about which we can do nothing.
    let mut etcd = etcd_client::Client::connect([world.etcd.endpoint()], None).await.expect("etcd");
    for n in 0..100 {
        if etcd.put(format!("/other/{n}"), vec![b'x'; 1 << 20], None).await.is_err() {
            break;
        }
    }
    let path = format!("/microservices/{provider}/instances");
    let body = json!({"instance": {"hostName": "late", "endpoints": ["rest://10.0.0.9:80"]}});
    let full = client.call("POST", &path, "", &body).await;
    assert_eq!(full.status, 507, "{}", full.text());
    assert!(full.text().contains("the store is full"), "{}", full.text());
    let heartbeat = client.call("PUT", &format!("{path}/i-0/heartbeat"), "", &Value::Null).await;
    assert_eq!(heartbeat.status, 200, "leases need no room: {}", heartbeat.text());
    eventually("the readiness tells that the store is full", || async {
        condition().await.1.contains("refuses every write").then_some(())
    })
    .await;
}
