//! Replies that are made once and sent often: the same for every client, plain or compressed, and new after a
//! change.

use std::io::Read;

use crate::probe::Probe;
use serde_json::{Value, json};

fn unpacked(body: &[u8]) -> Value {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).expect("gzip");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn a_compressed_reply_equals_the_plain_one_after_every_change() {
    let probe = Probe::start().await;
    let mut services = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let id = probe.service(json!({"appId": "shop", "serviceName": "order", "version": version})).await;
        for n in 0..20 {
            probe.instance(&id, json!({"hostName": "n", "instanceId": format!("{version}-{n:02}")})).await;
        }
        services.push(id);
    }
    // The reply for one version is kept by the view; that for both is joined from two.
    for (rule, count) in [("2.0.0", 20), ("0%2B", 40)] {
        let path = format!("/v4/default/registry/instances?appId=shop&serviceName=order&version={rule}");
        let gzip = [("Accept-Encoding", "gzip")];
        for _ in 0..2 {
            let plain = probe.send("GET", &path, &[], String::new()).await;
            let packed = probe.send("GET", &path, &gzip, String::new()).await;
            assert_eq!(packed.header("content-encoding"), Some("gzip"));
            assert_eq!(packed.header("x-resource-revision"), plain.header("x-resource-revision"));
            assert!(packed.body.len() * 3 < plain.body.len());
            let plain = plain.ok();
            assert_eq!(unpacked(&packed.body), plain);
            assert_eq!(plain["instances"].as_array().map(Vec::len), Some(count));
        }
        let change = format!("/microservices/{}/instances/2.0.0-00/status?value=DOWN", services[1]);
        probe.put(&change, &Value::Null).await.empty();
        let after = unpacked(&probe.send("GET", &path, &gzip, String::new()).await.body);
        assert_eq!(after["instances"][0]["status"], "DOWN", "newest version first, in the order of ids");
    }
    let small = "/v4/default/registry/instances?appId=shop&serviceName=order&version=9%2B";
    let answer = probe.send("GET", small, &[("Accept-Encoding", "gzip")], String::new()).await;
    assert_eq!((answer.header("content-encoding"), &answer.body[..]), (None, &b"{}"[..]));
}

#[tokio::test]
async fn an_answer_says_what_it_holds() {
    let probe = Probe::start().await;
    for version in ["1.0.0", "2.0.0"] {
        let id = probe.service(json!({"appId": "shop", "serviceName": "order", "version": version})).await;
        probe.instance(&id, json!({"hostName": "h".repeat(60), "properties": {"p": "x".repeat(4000)}})).await;
    }
    let find = "/v4/default/registry/instances?appId=shop&serviceName=order&version=";
    let [one, several] = ["1.0.0", "0%2B"].map(|rule| format!("{find}{rule}"));
    let dump = "/v4/default/admin/dump";
    for headers in [&[][..], &[("Accept-Encoding", "gzip")]] {
        for path in [&one[..], &several[..], "/v4/default/registry/microservices", dump] {
            let answer = probe.send("GET", path, headers, String::new()).await;
            let counted = answer.held.map_or(answer.body.len(), |held| held.bytes());
            assert_eq!((answer.status, counted), (200, answer.body.len()), "{path}");
        }
    }
    let [first, second] =
        [probe.send("GET", &one, &[], String::new()), probe.send("GET", &one, &[], String::new())];
    let [first, second] = [first.await.held, second.await.held];
    assert!(first.is_some() && first == second, "both hold what the view keeps");
}
