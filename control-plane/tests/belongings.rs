//! What belongs to a service: schemas, tags, rules; and what the dashboard shows of all.

mod probe;

use probe::Probe;
use serde_json::{Value, json};

#[tokio::test]
async fn schemas_are_stored_listed_replaced_and_deleted() {
    let probe = Probe::start().await;
    let id = probe
        .service(json!({"serviceName": "order", "environment": "production", "schemas": ["declared"]}))
        .await;
    let schemas = format!("/microservices/{id}/schemas");
    let one = format!("{schemas}/order.http");
    probe.get(&one).await.refused("400016");
    probe
        .put(&one, &json!({"schema": "swagger: '2.0'\n", "summary": "abc", "schemaId": "other"}))
        .await
        .empty();
    let read = probe.get(&one).await;
    assert_eq!(read.header("x-schema-summary"), Some("abc"));
    assert_eq!(read.body, br#"{"schema":"swagger: '2.0'\n"}"#);
    probe.put(&one, &json!({"schema": "new"})).await.empty();
    let listed = probe.get(&format!("{schemas}?withSchema=1")).await.ok();
    let expected =
        json!([{"schemaId": "declared"}, {"schemaId": "order.http", "summary": "abc", "schema": "new"}]);
    assert_eq!(listed["schemas"], expected, "editable in production, the old summary stays");
    let exists = format!("/existence?type=schema&serviceId={id}&schemaId=order.http");
    assert_eq!(probe.get(&exists).await.ok(), json!({"schemaId": "order.http", "serviceId": id}));
    let batch = json!({"schemas": [{"schemaId": "a", "summary": "s1", "schema": "A"}, {"schemaId": "b", "summary": "s2", "schema": "B"},
        {"schemaId": "a", "summary": "s3", "schema": "again"}]});
    probe.post(&schemas, &batch).await.empty();
    let listed = probe.get(&schemas).await.ok();
    assert_eq!(
        listed["schemas"],
        json!([{"schemaId": "a", "summary": "s1"}, {"schemaId": "b", "summary": "s2"}])
    );
    probe.delete(&format!("{schemas}/a")).await.empty();
    probe.delete(&format!("{schemas}/a")).await.refused("400016");
    assert_eq!(probe.get(&schemas).await.ok()["schemas"], json!([{"schemaId": "b", "summary": "s2"}]));
    for bad in [json!({"schemas": []}), json!({"schemas": [{"schemaId": "a", "schema": "no summary"}]})] {
        assert_eq!(probe.post(&schemas, &bad).await.refused("400001")["detail"], "Invalid request.");
    }
    probe.get("/microservices/nope/schemas").await.refused("400012");
    probe.get(&format!("{schemas}?withSchema=2")).await.refused("400001");
    probe.delete(&format!("/microservices/{id}?force=1")).await.empty();
    probe.service(json!({"serviceName": "order", "environment": "production"})).await;
    assert_eq!(probe.get(&schemas).await.ok(), json!({}), "the same id again has none of them");
}

#[tokio::test]
async fn more_schemas_than_one_transaction_holds_are_replaced_whole() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let schemas = format!("/microservices/{id}/schemas");
    let many = |prefix: &str| -> Value {
        let one = |n: usize| json!({"schemaId": format!("{prefix}{n:03}"), "summary": "s", "schema": "x".repeat(15_000)});
        json!({"schemas": (0..100).map(one).collect::<Vec<_>>()})
    };
    for prefix in ["a", "b"] {
        probe.post(&schemas, &many(prefix)).await.empty();
        let listed = probe.get(&schemas).await.ok()["schemas"].as_array().expect("a list").clone();
        assert_eq!(listed.len(), 100);
        assert!(
            listed.iter().all(|schema| schema["schemaId"].as_str().is_some_and(|id| id.starts_with(prefix)))
        );
    }
}

#[tokio::test]
async fn tags_are_replaced_changed_and_filter_finds() {
    let probe = Probe::start().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&id, json!({"hostName": "n"})).await;
    let tags = format!("/microservices/{id}/tags");
    probe.post(&tags, &json!({"tags": {"zone": "east", "tier": "gold"}})).await.empty();
    probe.put(&format!("{tags}/zone?value=west"), &Value::Null).await.empty();
    assert_eq!(probe.get(&tags).await.ok(), json!({"tags": {"zone": "west", "tier": "gold"}}));
    let find = |list: &str| format!("/instances?appId=default&serviceName=order&version=latest&tags={list}");
    assert!(probe.get(&find("zone,tier")).await.ok()["instances"].is_array());
    assert_eq!(probe.get(&find("zone,other")).await.ok(), json!({}));
    probe.put(&format!("{tags}/other?value=x"), &Value::Null).await.refused("400018");
    probe.delete(&format!("{tags}/zone,other")).await.refused("400018");
    probe.delete(&format!("{tags}/zone,tier")).await.empty();
    assert_eq!(probe.get(&tags).await.ok(), json!({}));
    probe.post(&tags, &json!({"tags": {"1": "x"}})).await.refused("400001");
    probe.get("/microservices/nope/tags").await.refused("400012");
}

#[tokio::test]
async fn rules_shut_consumers_out() {
    let probe = Probe::start().await;
    let consumer = probe.service(json!({"serviceName": "cart", "version": "1.0.0"})).await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&id, json!({"hostName": "n"})).await;
    let rules = format!("/microservices/{id}/rules");
    let find = "/instances?appId=default&serviceName=order&version=latest";
    assert!(probe.get_as(&consumer, find).await.ok()["instances"].is_array());
    let black = json!({"ruleType": "BLACK", "attribute": "ServiceName", "pattern": "^ca"});
    let added = probe.post(&rules, &json!({"rules": [black]})).await.ok();
    let rule = added["RuleIds"][0].as_str().expect("an id").to_owned();
    assert_eq!(probe.get_as(&consumer, find).await.ok(), json!({}));
    assert_eq!(probe.post(&rules, &json!({"rules": [black]})).await.ok(), json!({}), "exists already");
    let white = json!({"ruleType": "WHITE", "attribute": "tag_zone", "pattern": "east"});
    probe.post(&rules, &json!({"rules": [white]})).await.refused("400020");
    probe.put(&format!("{rules}/{rule}"), &white).await.refused("400021");
    let other = json!({"ruleType": "BLACK", "attribute": "ServiceName", "pattern": "^other"});
    probe.put(&format!("{rules}/{rule}"), &other).await.empty();
    assert!(probe.get_as(&consumer, find).await.ok()["instances"].is_array());
    probe.delete(&format!("{rules}/nope")).await.refused("400022");
    probe.delete(&format!("{rules}/{rule}")).await.empty();
    assert_eq!(probe.get(&rules).await.ok(), json!({}));
    probe.post("/microservices/nope/rules", &json!({"rules": [black]})).await.refused("400001");
    probe.get("/microservices/nope/rules").await.refused("400012");
}

#[tokio::test]
async fn a_service_brings_its_belongings_with_it() {
    let probe = Probe::start().await;
    let body = json!({"service": {"serviceName": "order"}, "tags": {"zone": "east"},
        "rules": [{"ruleType": "BLACK", "attribute": "AppId", "pattern": "test.*"}],
        "instances": [{"hostName": "a"}, {"hostName": "b"}]});
    let id = probe.post("/microservices", &body).await.ok()["serviceId"].as_str().expect("an id").to_owned();
    assert_eq!(probe.get(&format!("/microservices/{id}/tags")).await.ok()["tags"]["zone"], "east");
    let bad = json!({"service": {"serviceName": "late"}, "instances": [{"hostName": ""}]});
    probe.post("/microservices", &bad).await.refused("400001");
    let all = probe.get("/microservices").await.ok();
    assert!(
        all["services"].as_array().expect("a list").iter().any(|s| s["serviceName"] == "late"),
        "it exists all the same"
    );
}

#[tokio::test]
async fn many_are_deleted_with_an_answer_for_each() {
    let probe = Probe::start().await;
    let (a, b) =
        (probe.service(json!({"serviceName": "a"})).await, probe.service(json!({"serviceName": "b"})).await);
    probe.instance(&b, json!({"hostName": "n"})).await;
    let path = "/v4/default/registry/microservices";
    let body = json!({"serviceIds": [a, b, a]}).to_string();
    let answer = probe.send("DELETE", path, &[], body).await.ok();
    let failed: Vec<bool> =
        answer["services"].as_array().expect("a list").iter().map(|s| s["errMessage"].is_string()).collect();
    assert_eq!(failed.iter().filter(|f| **f).count(), 1);
    assert_eq!(failed.len(), 2);
    probe.send("DELETE", path, &[], json!({"serviceIds": []}).to_string()).await.refused("400001");
}

#[tokio::test]
async fn the_dashboard_sees_everything() {
    let probe = Probe::start().await;
    let cart = probe.service(json!({"appId": "shop", "serviceName": "cart", "version": "1.0.0"})).await;
    let order = probe.service(json!({"appId": "shop", "serviceName": "order", "schemas": ["s"]})).await;
    probe.instance(&order, json!({"hostName": "n", "properties": {"zone": "east"}})).await;
    probe.get_as(&cart, "/instances?appId=shop&serviceName=order&version=0%2B").await.ok();
    let govern = async |path: &str| {
        probe.send("GET", &format!("/v4/default/govern{path}"), &[], String::new()).await.ok()
    };
    let listed = govern("/microservices?options=instances,dependencies&serviceName=order").await;
    let detail = &listed["allServicesDetail"][0];
    assert_eq!(detail["instances"][0]["hostName"], "n");
    assert_eq!(detail["consumers"][0]["serviceId"], cart);
    assert!(detail["microService"].get("schemas").is_none());
    let counted = govern("/microservices?options=instances&countOnly=1&serviceName=order").await;
    assert_eq!(counted["allServicesDetail"][0]["statics"], json!({"instances": {"count": 1}}));
    let statistics = json!({"services": {"count": 2, "onlineCount": 1}, "instances": {"count": 1, "countByDomain": 1}, "apps": {"count": 1}});
    assert_eq!(govern("/statistics").await, json!({ "statistics": statistics }));
    assert_eq!(govern("/microservices?options=statistics").await, json!({ "statistics": statistics }));
    assert_eq!(govern("/apps").await, json!({"appIds": ["shop"]}));
    assert_eq!(govern("/apps?env=testing").await, json!({}));
    let relations = govern("/relations").await;
    assert_eq!(relations["lines"][0]["to"]["name"], "order");
    assert_eq!(relations["circles"], Value::Null);
    let one = govern(&format!("/microservices/{order}")).await["service"].clone();
    assert_eq!(one["microServiceVersions"], json!(["0.0.1"]));
    assert_eq!(one["schemaInfos"], json!([{"schemaId": "s"}]));
    let dump = probe.send("GET", "/v4/default/admin/dump", &[], String::new()).await.ok();
    assert_eq!(dump["cache"]["services"].as_array().map(Vec::len), Some(3));
    assert!(dump["cache"]["dependencyRules"].as_array().is_some_and(|rules| rules.len() == 2));
    let foreign = [("X-Domain-Name", "other")];
    probe.send("GET", "/v4/default/admin/dump", &foreign, String::new()).await.refused("403001");
    let clusters = probe.send("GET", "/v4/default/admin/clusters", &[], String::new()).await.ok();
    assert!(clusters["clusters"]["default"].is_array());
    let body = json!({"matches": {"properties": {"zone": "east"}}, "status": "OUTOFSERVICE"});
    probe.put("/instances/status", &body).await.empty();
    let all = probe.get(&format!("/microservices/{order}/instances")).await.ok();
    assert_eq!(all["instances"][0]["status"], "OUTOFSERVICE");
}
