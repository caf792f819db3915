//! The API over the embedded store, as clients call it: routes, codes, tolerances and traps of the contract.

mod probe;

use probe::Probe;
use serde_json::{Value, json};

const V4: &str = "/v4/default/registry";

#[tokio::test]
async fn a_service_lives_as_the_contract_says() {
    let probe = Probe::start().await;
    let body = json!({"service": {"appId": "default", "serviceName": "demo-provider", "version": "1.0.0"}});
    let id = probe.post("/microservices", &body).await.ok()["serviceId"].clone();
    assert_eq!(id, "abd2e34f75433ea906a632c6bec0ce0c64712d56");
    assert_eq!(probe.post("/microservices", &body).await.ok()["serviceId"], id, "again: the same id");

    let id = id.as_str().expect("text");
    let service = probe.get(&format!("/microservices/{id}")).await.ok()["service"].clone();
    assert_eq!(service["level"], "BACK");
    assert_eq!(service["status"], "UP");
    assert!(service["timestamp"].is_string() && service.get("environment").is_none());

    let update = json!({"properties": {"allowCrossApp": "true"}, "framework": {"name": "f", "version": "1"}});
    probe.put(&format!("/microservices/{id}/properties"), &update).await.empty();
    let service = probe.get(&format!("/microservices/{id}")).await.ok()["service"].clone();
    assert_eq!(service["properties"], json!({"allowCrossApp": "true"}));

    let query = "type=microservice&appId=default&serviceName=demo-provider&version=1.0.0&env";
    assert_eq!(probe.get(&format!("/existence?{query}")).await.ok()["serviceId"], id);
    let other = json!({"service": {"serviceId": "mine", "serviceName": "demo-provider", "version": "1.0.0"}});
    probe.post("/microservices", &other).await.refused("400010");

    probe.delete(&format!("/microservices/{id}?force=maybe")).await.refused("400001");
    probe.delete(&format!("/microservices/{id}?force=1")).await.empty();
    probe.get(&format!("/microservices/{id}")).await.refused("400012");
    probe.delete(&format!("/microservices/{id}")).await.refused("400012");
    assert_eq!(probe.post("/microservices", &body).await.ok()["serviceId"], id, "the same id after a delete");
}

#[tokio::test]
async fn an_alias_owner_answers_for_the_alias() {
    let probe = Probe::start().await;
    let first =
        probe.service(json!({"serviceName": "order", "alias": "shop:order", "version": "1.0.0"})).await;
    let second =
        probe.service(json!({"serviceName": "order2", "alias": "shop:order", "version": "1.0.0"})).await;
    assert_eq!(first, second, "the alias' owner, and nothing was created");
    let query = "type=microservice&appId=default&serviceName=shop:order&version=latest";
    assert_eq!(probe.get(&format!("/existence?{query}")).await.ok()["serviceId"], first);
}

#[tokio::test]
async fn bodies_are_taken_as_java_sends_them() {
    let probe = Probe::start().await;
    let service = r#"{"service":{"serviceId":null,"appId":"shop","serviceName":"cart","version":"1.0.0","alias":null,
        "description":null,"level":null,"schemas":[],"paths":[],"status":"UP","properties":{},"timestamp":null,
        "modTimestamp":null,"environment":"","registerBy":"SDK","framework":{"name":"java-chassis","version":"3.2.1"},
        "instances":[],"thirdPartyService":false}}"#;
    let id = probe.send("POST", &format!("{V4}/microservices"), &[], service.into()).await.ok()["serviceId"]
        .clone();
    let id = id.as_str().expect("text");
    let instance = r#"{"instance":{"instanceId":null,"serviceId":"other","version":"9","hostName":"node-1",
        "endpoints":["rest://10.0.0.9:9090?sslEnabled=false"],"status":"UP","properties":{},"timestamp":null,
        "modTimestamp":null,"healthCheck":{"mode":"push","port":0,"interval":15,"times":3,"ttl":null,"url":null},
        "dataCenterInfo":null}}"#;
    let path = format!("{V4}/microservices/{id}/instances");
    let answer = probe.send("POST", &path, &[], instance.into()).await.ok();
    let instance_id = answer["instanceId"].as_str().expect("text").to_owned();
    assert_eq!(instance_id.len(), 32);
    // Java 2.x reads it back at once, with itself as consumer.
    let path = format!("{path}/{instance_id}?global=true");
    let read =
        probe.send("GET", &path, &[("X-ConsumerId", id)], String::new()).await.ok()["instance"].clone();
    assert_eq!(read["serviceId"], id);
    assert_eq!(read["version"], "1.0.0", "copied from the service");
    assert_eq!(read["healthCheck"], json!({"mode": "push", "interval": 15, "times": 3}));
    assert!(read.get("properties").is_none() && read.get("dataCenterInfo").is_none());
}

#[tokio::test]
async fn the_find_walk_of_the_contract() {
    let probe = Probe::start().await;
    let consumer = probe.service(json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0"})).await;
    let find = async |rev: &str| {
        let path = format!("/instances?appId=shop&serviceName=order&version=0%252B&env=&rev={rev}");
        probe.get_as(&consumer, &path).await
    };
    find("").await.refused("400012");
    let provider = probe.service(json!({"appId": "shop", "serviceName": "order", "version": "2.1.0"})).await;
    let partners = format!("/microservices/{provider}/consumers");
    assert_eq!(probe.get(&partners).await.ok(), json!({}), "a find of nothing records no dependency");

    let answer = find("").await;
    let r0 = answer.revision();
    assert_eq!(answer.ok(), json!({}));
    assert_eq!(probe.get(&partners).await.ok()["consumers"][0]["serviceName"], "cart");
    let again = find(&r0).await;
    assert_eq!((again.status, again.revision(), again.body.len()), (304, r0.clone(), 0));

    let i1 =
        probe.instance(&provider, json!({"hostName": "node-7", "endpoints": ["rest://10.2.3.4:8080"]})).await;
    let answer = find(&r0).await;
    let r1 = answer.revision();
    assert_ne!(r1, r0);
    assert_eq!(answer.ok()["instances"][0]["instanceId"], i1);
    let instance = format!("/microservices/{provider}/instances/{i1}");
    probe.put(&format!("{instance}/heartbeat"), &Value::Null).await.empty();
    assert_eq!(find(&r1).await.status, 304, "a heartbeat changes nothing that is visible");
    probe.put(&format!("{instance}/status?value=DOWN"), &Value::Null).await.empty();
    let answer = find(&r1).await;
    let r2 = answer.revision();
    assert_eq!(answer.ok()["instances"][0]["status"], "DOWN");

    probe.delete(&format!("/microservices/{provider}")).await.refused("400023");
    probe.delete(&instance).await.empty();
    assert_eq!(find(&r2).await.ok(), json!({}));
    probe.delete(&format!("/microservices/{provider}?force=true")).await.empty();
    find(&r2).await.refused("400012");
}

#[tokio::test]
async fn an_unregistered_instance_is_gone_and_its_heartbeat_says_so() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let id = probe.instance(&provider, json!({"hostName": "n", "instanceId": "mine-1"})).await;
    assert_eq!(id, "mine-1");
    let again = probe.instance(&provider, json!({"hostName": "n", "instanceId": "mine-1"})).await;
    assert_eq!(again, "mine-1");
    let instance = format!("/microservices/{provider}/instances/mine-1");
    probe.delete(&instance).await.empty();
    probe.delete(&instance).await.refused("400017");
    probe.put(&format!("{instance}/heartbeat"), &Value::Null).await.refused("400017");
    probe.put("/microservices/nope/instances/x/heartbeat", &Value::Null).await.refused("400017");
    probe.get(&instance).await.refused("400017");
    probe
        .post("/microservices/nope/instances", &json!({"instance": {"hostName": "n"}}))
        .await
        .refused("400012");
}

#[tokio::test]
async fn an_instance_that_moved_is_stored_anew_when_it_registers_again() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let at = |port: u16| json!({"hostName": "n", "instanceId": "i", "endpoints": [format!("rest://10.0.0.1:{port}")]});
    probe.instance(&provider, at(1)).await;
    let path = format!("/microservices/{provider}/instances/i");
    probe.put(&format!("{path}/status?value=OUTOFSERVICE"), &Value::Null).await.empty();
    probe.instance(&provider, at(2)).await;
    let read = probe.get(&path).await.ok()["instance"].clone();
    assert_eq!(read["endpoints"], json!(["rest://10.0.0.1:2"]));
    assert_eq!(read["status"], "OUTOFSERVICE", "an operator's word outlives a restart");
}

#[tokio::test]
async fn heartbeats_of_many_tell_of_each() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&provider, json!({"hostName": "n", "instanceId": "a"})).await;
    let good = json!({"serviceId": provider, "instanceId": "a"});
    let bad = json!({"serviceId": provider, "instanceId": "b"});
    let answer = probe.put("/heartbeats", &json!({"instances": [good, bad, good]})).await.ok();
    let list = answer["instances"].as_array().expect("a list");
    assert_eq!(list.len(), 2);
    assert_eq!(list[0], good);
    assert!(list[1]["errMessage"].is_string());
    probe.put("/heartbeats", &json!({"instances": []})).await.refused("400001");
}

#[tokio::test]
async fn batch_find_sorts_each_element_into_its_place() {
    let probe = Probe::start().await;
    let provider = probe.service(json!({"appId": "shop", "serviceName": "order"})).await;
    let id = probe.instance(&provider, json!({"hostName": "n"})).await;
    let order =
        json!({"service": {"appId": "shop", "serviceName": "order", "version": "0+", "environment": ""}});
    let nope = json!({"service": {"appId": "shop", "serviceName": "nope", "version": "0+"}});
    let one = json!({"instance": {"serviceId": provider, "instanceId": id}});
    let wrong = json!({"instance": {"serviceId": provider, "instanceId": "wrong"}});
    let body = json!({"services": [order, nope], "instances": [one, wrong]});
    let answer = probe.post("/instances/action?type=query", &body).await.ok();
    assert_eq!(answer["services"]["updated"][0]["index"], 0);
    assert_eq!(answer["services"]["updated"][0]["instances"][0]["instanceId"], id);
    assert_eq!(answer["services"]["failed"][0]["indexes"], json!([1]));
    assert_eq!(answer["services"]["failed"][0]["error"]["errorCode"], "400012");
    assert_eq!(answer["instances"]["failed"][0]["error"]["errorCode"], "400017");
    let rev = answer["services"]["updated"][0]["rev"].clone();
    let again = json!({"services": [{"service": order["service"], "rev": rev}]});
    let answer = probe.post("/instances/action?type=query", &again).await.ok();
    assert_eq!(answer, json!({"services": {"notModified": [0]}}));
    probe.post("/instances/action", &body).await.refused("400001");
    probe.post("/instances/action?type=query", &json!({})).await.refused("400001");
}

#[tokio::test]
async fn dependencies_are_declared_listed_and_cleared() {
    let probe = Probe::start().await;
    let cart = probe.service(json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0"})).await;
    let order = probe.service(json!({"appId": "shop", "serviceName": "order", "version": "1.5.0"})).await;
    let consumer = json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0"});
    let rule = |version: &str| json!({"appId": "shop", "serviceName": "order", "version": version});
    let declare =
        |providers: Value| json!({"dependencies": [{"consumer": consumer, "providers": providers}]});
    let added = probe.post("/dependencies", &declare(json!([rule("1.0.0+")]))).await;
    assert_eq!(added.header("deprecation"), Some("version=\"v4\""));
    added.empty();
    let providers = format!("/microservices/{cart}/providers");
    assert_eq!(probe.get(&providers).await.ok()["providers"][0]["serviceId"], order);
    probe.put("/dependencies", &declare(json!([rule("2.0.0+")]))).await.empty();
    assert_eq!(probe.get(&providers).await.ok(), json!({}), "the rule matches no version now");
    probe.post("/dependencies", &declare(json!([{"serviceName": "*"}]))).await.empty();
    let all = probe.get(&format!("{providers}?noSelf=1")).await.ok();
    assert_eq!(all["providers"].as_array().map(Vec::len), Some(1));
    probe.put("/dependencies", &declare(json!([]))).await.empty();
    assert_eq!(probe.get(&providers).await.ok(), json!({}));
    probe.post("/dependencies", &declare(json!([]))).await.refused("400001");
    probe.post("/dependencies", &declare(json!([rule("1+"), rule("2+")]))).await.refused("400001");
    probe
        .post("/dependencies", &declare(json!([{"appId": "shop", "serviceName": "order"}])))
        .await
        .refused("400001");
    let unknown = json!({"dependencies": [{"consumer": {"appId": "a", "serviceName": "b", "version": "1.0.0"},
        "providers": [rule("1+")]}]});
    probe.post("/dependencies", &unknown).await.refused("400012");
}

#[tokio::test]
async fn another_application_sees_nothing_unless_it_is_let_in() {
    let probe = Probe::start().await;
    let consumer = probe.service(json!({"appId": "a", "serviceName": "c"})).await;
    let provider = probe.service(json!({"appId": "b", "serviceName": "p"})).await;
    probe.instance(&provider, json!({"hostName": "n"})).await;
    let path = "/instances?appId=b&serviceName=p&version=latest";
    assert_eq!(probe.get_as(&consumer, path).await.ok(), json!({}));
    assert!(probe.get(path).await.ok()["instances"].is_array(), "nobody in particular sees everything");
    let open = json!({"properties": {"allowCrossApp": "TRUE"}});
    probe.put(&format!("/microservices/{provider}/properties"), &open).await.empty();
    assert!(probe.get_as(&consumer, path).await.ok()["instances"].is_array());
    probe.get_as("nobody", path).await.refused("400012");
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_changes_nothing() {
    let probe = Probe::start().await;
    let send = async |method: &str, path: &str, body: &str| {
        probe.send(method, &format!("{V4}{path}"), &[], body.to_owned()).await
    };
    for body in ["", "[]", "null", "{", "{\"service\":null}", "{\"service\":{\"serviceName\":7}}", "\u{0}"] {
        send("POST", "/microservices", body).await.refused("400001");
    }
    let deep = format!("{}{}", "{\"service\":".repeat(200), "}".repeat(200));
    send("POST", "/microservices", &deep).await.refused("400001");
    let twice = r#"{"service":{"serviceName":"x","serviceName":"last-one-counts"}}"#;
    send("POST", "/microservices", twice).await.ok();
    let provider = probe.service(json!({"serviceName": "order"})).await;
    let large = json!({"instance": {"hostName": "n", "properties": {"p": "x".repeat(5 << 10)}}}).to_string();
    let answer = send("POST", &format!("/microservices/{provider}/instances"), &large).await;
    assert_eq!(answer.clone().refused("400001")["detail"], "http: request body too large");
    send("POST", &format!("/microservices/{provider}/instances"), "{}").await.refused("400001");
    let long = format!("/microservices/{}", "a".repeat(65));
    send("GET", &long, "").await.refused("400001");
    send("GET", "/instances?appId=shop&serviceName=x&version=abc", "").await.refused("400001");
    send("GET", "/instances?serviceName=x&version=0%2B", "").await.refused("400001");
    send("PUT", &format!("/microservices/{provider}/instances/i/status?value=up"), "")
        .await
        .refused("400001");
    send("GET", "/existence?type=other", "").await.refused("400001");
    let services = probe.get("/microservices").await.ok();
    assert_eq!(services["services"].as_array().map(Vec::len), Some(3), "two of ours and the registry itself");
}

#[tokio::test]
async fn the_edges_of_http_are_the_old_ones() {
    let probe = Probe::start().await;
    let missing = probe.send("GET", "/v4/default/registry/nothing", &[], String::new()).await;
    assert_eq!((missing.status, &missing.body[..]), (404, &b"404 page not found\n"[..]));
    let method = probe.send("DELETE", "/v4/default/registry/heartbeats", &[], String::new()).await;
    assert_eq!((method.status, &method.body[..]), (405, &b"Method Not Allowed\n"[..]));
    assert_eq!(method.header("allow"), Some("PUT"));
    let slash = probe.send("GET", "/v4/default/registry/microservices/", &[], String::new()).await;
    assert_eq!(slash.status, 404);
    let options = probe.send("OPTIONS", "/anything", &[], String::new()).await;
    assert_eq!((options.status, options.body.len()), (200, 0));
    let guarded =
        probe.send("GET", "/v4/default/registry/instances?version=1.0.0+", &[], String::new()).await;
    assert_eq!(guarded.status, 400);
    assert!(guarded.body.starts_with(b"Invalid Request URI "));
    let ready = probe.get("/health/readiness").await;
    assert_eq!((ready.status, ready.body.len()), (200, 0));
    assert_eq!(probe.get("/version").await.ok()["apiVersion"], "4.0.0");
    assert_eq!(probe.send("GET", "/version", &[], String::new()).await.ok()["apiVersion"], "3.0.0");
    let own = probe.get("/health").await.ok();
    assert_eq!(own["instances"][0]["endpoints"], json!(["rest://127.0.0.1:30100/"]));
    let other =
        probe.send("GET", &format!("{V4}/microservices"), &[("X-Domain-Name", "new")], String::new()).await;
    assert_eq!(other.body, b"{}");
    let v3 =
        probe.send("GET", "/registry/v3/microservices", &[("X-Tenant-Name", "new")], String::new()).await;
    assert_eq!(v3.body, b"{}");
    let bad =
        probe.send("GET", &format!("{V4}/microservices"), &[("X-Domain-Name", "a/b")], String::new()).await;
    bad.refused("400001");
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (consumer, provider) = {
        let probe = Probe::start_in(directory.path()).await;
        let consumer =
            probe.service(json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0"})).await;
        let provider = probe.service(json!({"appId": "shop", "serviceName": "order"})).await;
        probe.instance(&provider, json!({"hostName": "n", "instanceId": "i"})).await;
        probe.get_as(&consumer, "/instances?appId=shop&serviceName=order&version=0%2B").await.ok();
        probe.stop().await;
        (consumer, provider)
    };
    let probe = Probe::start_in(directory.path()).await;
    let instance = format!("/microservices/{provider}/instances/i");
    probe.put(&format!("{instance}/heartbeat"), &Value::Null).await.empty();
    let providers = probe.get(&format!("/microservices/{consumer}/providers")).await.ok();
    assert_eq!(providers["providers"][0]["serviceId"], provider);
    probe.stop().await;
}
