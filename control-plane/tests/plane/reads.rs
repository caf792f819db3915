//! Reads that must contain certain writes.

use std::io::Read as _;
use std::sync::Arc;

use crate::probe::Probe;
use control_plane::keys;
use control_plane::store::{Op, Txn};
use serde_json::{Value, json};
use shared::model::{ServiceRef, Tenant};

#[tokio::test]
async fn a_linearizable_read_sees_what_others_have_committed() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let instance = keys::instance(&ServiceRef::new(Tenant::default(), &id), "i");
    let path = format!("/microservices/{id}/instances");
    let finds =
        json!({"services": [{"service": {"appId": "default", "serviceName": "order", "version": "0+"}}]});
    for number in 0..50 {
        let host = format!("host-{number}");
        // As another control plane writes it: this one hears of it a moment later.
        let record =
            json!({"instanceId": "i", "serviceId": id, "hostName": host, "status": "UP"}).to_string();
        let txn = Txn { then: vec![Op::put(&instance, record)], ..Txn::default() };
        probe.store().txn(txn).await.expect("stored");
        let read = match number % 3 {
            0 => probe.get(&format!("{path}/i?noCache=1")).await.ok()["instance"].clone(),
            1 => probe.get(&format!("{path}?noCache=true")).await.ok()["instances"][0].clone(),
            _ => {
                let found = probe.post("/instances/action?type=query&noCache=1", &finds).await.ok();
                found["services"]["updated"][0]["instances"][0].clone()
            }
        };
        assert_eq!(read["hostName"], Value::String(host));
    }
}

#[tokio::test]
async fn the_answer_to_a_write_names_its_revision() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let properties = format!("/microservices/{id}/properties");
    let mut last = 0;
    for value in 0..5 {
        let answer = probe.put(&properties, &json!({"properties": {"tag": value.to_string()}})).await;
        let named = answer.headers.get("x-muster-revision").expect("a revision").to_str().expect("a number");
        let rev: u64 = named.parse().expect("a number");
        assert!(rev > last, "{rev} after {last}");
        last = rev;
        // A replica is told of no revision in which the registry does not change, so none is named.
        let elsewhere = Txn { then: vec![Op::put("/elsewhere", "x")], ..Txn::default() };
        assert!(probe.store().txn(elsewhere).await.expect("stored").revision.get() > rev);
    }
    let finds = json!({"services": []});
    for read in [
        probe.get(&format!("/microservices/{id}")).await,
        probe.get("/microservices/none").await,
        probe.post("/instances/action?type=query", &finds).await,
    ] {
        assert!(!read.headers.contains_key("x-muster-revision"), "a read writes nothing");
        assert_eq!(read.header("x-muster-shown"), Some(format!("0/{last}").as_str()), "{}", read.text());
    }
}

#[tokio::test]
async fn a_client_that_has_the_list_of_services_is_sent_none() {
    let probe = Probe::start().await;
    let ask = async |headers: &[(&str, &str)]| {
        probe.send("GET", "/v4/default/registry/microservices", headers, String::new()).await
    };
    probe.service(json!({"serviceName": "order"})).await;
    let first = ask(&[]).await;
    let tag = first.header("etag").expect("a tag").to_owned();
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    for headers in
        [&[("if-none-match", tag.as_str())][..], &[("if-none-match", "*"), ("accept-encoding", "gzip")]]
    {
        let again = ask(headers).await;
        assert_eq!(
            (again.status, again.text(), again.header("etag")),
            (304, String::new(), Some(tag.as_str()))
        );
        assert_eq!(again.header("content-type"), None);
    }
    // A cache must not take one form for the other.
    for number in 0..20 {
        probe.service(json!({"serviceName": format!("pay-{number}")})).await;
    }
    let zipped = ask(&[("if-none-match", &tag), ("accept-encoding", "gzip")]).await;
    assert_eq!((zipped.status, zipped.header("content-encoding")), (200, Some("gzip")));
    assert_ne!(zipped.header("etag"), Some(tag.as_str()));
    let plain = ask(&[]).await;
    let tags = [&zipped, &plain].map(|answer| answer.header("etag").expect("a tag").to_owned());
    assert_ne!(tags[0], tags[1]);
    for (tag, accepted) in tags.iter().zip(["gzip", "identity"]) {
        assert_eq!(ask(&[("if-none-match", tag), ("accept-encoding", accepted)]).await.status, 304);
        assert_eq!(
            ask(&[("if-none-match", tag), ("accept-encoding", accepted), ("x-domain-name", "other")])
                .await
                .status,
            200
        );
    }
    let unchanged = ask(&[("if-none-match", &tags[0]), ("accept-encoding", "gzip")]).await;
    assert_eq!(
        (unchanged.header("content-encoding"), unchanged.header("vary")),
        (None, Some("Accept-Encoding"))
    );
    let other = probe.get("/microservices/none").await;
    assert_eq!(other.header("etag"), None);
}

#[tokio::test]
async fn a_list_of_services_is_made_once_for_their_records() {
    let probe = Probe::start().await;
    let tenant = || probe.view().now().expect("a view").tenant(&Tenant::default()).expect("services").list();
    let names = async || {
        let listed = probe.get("/microservices").await.ok();
        let services = listed["services"].as_array().expect("a list").iter();
        let mut names: Vec<_> = services.map(|service| service["serviceName"].to_string()).collect();
        names.sort();
        names.retain(|name| !name.contains("SERVICECENTER"));
        names
    };
    let order = probe.service(json!({"serviceName": "order"})).await;
    let first = tenant();
    probe.instance(&order, json!({"hostName": "n"})).await;
    assert!(Arc::ptr_eq(&first, &tenant()), "an instance does not change the list");
    assert_eq!(names().await, [r#""order""#]);
    let stock = probe.service(json!({"serviceName": "stock"})).await;
    assert!(!Arc::ptr_eq(&first, &tenant()));
    assert_eq!(names().await, [r#""order""#, r#""stock""#]);
    probe
        .put(&format!("/microservices/{stock}/properties"), &json!({"properties": {"k": "v"}}))
        .await
        .empty();
    assert!(String::from_utf8_lossy(tenant().plain()).contains(r#""k":"v""#));
    probe.delete(&format!("/microservices/{stock}")).await.empty();
    assert_eq!(names().await, [r#""order""#]);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&tenant().gzip()[..]).read_to_end(&mut plain).expect("gzip");
    assert_eq!(plain, tenant().plain()[..]);
}
