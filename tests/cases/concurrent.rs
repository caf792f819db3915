//! Clients that change the same thing at the same moment, over two control planes on one etcd and over the
//! embedded store: nobody's change is lost, and what belongs together stays together.

use futures_util::future::join_all;
use harness::{Client, Process, World, eventually, port};
use serde_json::{Value, json};

/// A registry under test: addresses that all serve the same one.
struct Registry {
    clients: Vec<Client>,
    _keep: Box<dyn std::any::Any + Send>,
}

impl Registry {
    async fn on_etcd() -> Self {
        let world = World::with().planes(2).gateways(0).start().await;
        let clients = world.control_planes.iter().map(|node| Client::new(node.api)).collect();
        Self { clients, _keep: Box::new(world) }
    }

    async fn embedded() -> Self {
        let api = port::local();
        let process =
            Process::ours("muster").args(["standalone", "--data-dir", "data", "--listen", &api.to_string()]);
        process.start();
        let client = Client::new(api);
        eventually("the registry is ready", || async {
            (client.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
        // The same address twice, so that the properties need not know how many replicas there are.
        Self { clients: vec![client.clone(), client], _keep: Box::new(process) }
    }

    /// Sends all of these at once, each to the next address.
    async fn at_once(&self, calls: Vec<(&str, String, Value)>) -> Vec<harness::Answer> {
        let calls = calls.iter().zip(self.clients.iter().cycle());
        join_all(calls.map(|((method, path, body), client)| client.call(method, path, "", body))).await
    }
}

/// Waits until a replica shows what another has answered for. A lost change never comes.
async fn shows(client: &Client, path: &str, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(&format!("{path} shows {what}"), || async {
        let read = client.call("GET", path, "", &Value::Null).await.ok();
        holds(&read).then_some(())
    })
    .await;
}

/// Properties and status are parts of one record: a change of one must not undo the other.
async fn updates_of_one_instance(registry: Registry) {
    let client = &registry.clients[0];
    let service = client.service("order").await;
    client.instance(&service, "i").await;
    let path = format!("/microservices/{service}/instances/i");
    for (round, status) in
        ["DOWN", "UP", "TESTING", "OUTOFSERVICE", "STARTING"].iter().cycle().take(15).enumerate()
    {
        let tag = round.to_string();
        let moved = json!({"instance": {"instanceId": "i", "hostName": format!("node-{round}")}});
        let answers = registry
            .at_once(vec![
                ("PUT", format!("{path}/properties"), json!({"properties": {"tag": tag}})),
                ("PUT", format!("{path}/status?value={status}"), Value::Null),
                ("PUT", format!("{path}/heartbeat"), Value::Null),
                ("PUT", format!("{path}/status?value={status}"), Value::Null),
            ])
            .await;
        answers.iter().for_each(|answer| _ = answer.ok());
        for client in &registry.clients {
            shows(client, &path, "both changes", |read| {
                let instance = &read["instance"];
                instance["properties"]["tag"] == json!(tag) && instance["status"] == json!(status)
            })
            .await;
        }
        // Moving replaces the properties and keeps the status.
        let answers = registry
            .at_once(vec![
                ("POST", format!("/microservices/{service}/instances"), moved),
                ("PUT", format!("{path}/status?value=DOWN"), Value::Null),
            ])
            .await;
        answers.iter().for_each(|answer| _ = answer.ok());
        let host = format!("node-{round}");
        shows(client, &path, "the move and the state", |read| {
            let instance = &read["instance"];
            instance["hostName"] == json!(host) && instance["status"] == "DOWN"
        })
        .await;
    }
}

/// Each of many writers changes a tag of its own: all of them are there in the end.
async fn updates_of_one_record(registry: Registry) {
    const WRITERS: usize = 10;
    let service = registry.clients[0].service("order").await;
    let tags = format!("/microservices/{service}/tags");
    let initial: serde_json::Map<_, _> = (0..WRITERS).map(|n| (format!("t{n}"), json!("old"))).collect();
    registry.clients[0].call("POST", &tags, "", &json!({"tags": initial})).await.ok();
    let calls = (0..WRITERS).map(|n| ("PUT", format!("{tags}/t{n}?value=new{n}"), Value::Null)).collect();
    registry.at_once(calls).await.iter().for_each(|answer| _ = answer.ok());
    shows(&registry.clients[1], &tags, "all changes", |read| {
        (0..WRITERS).all(|n| read["tags"][format!("t{n}")] == format!("new{n}"))
    })
    .await;
}

fn rule(kind: &str, n: usize) -> Value {
    json!({"ruleType": kind, "attribute": "AppId", "pattern": format!("p{n}")})
}

/// Rules of both types are added at the same moment: one type wins, the others are refused.
async fn rules_of_both_types(registry: Registry) {
    for round in 0..10 {
        let service = registry.clients[0].service(&format!("order-{round}")).await;
        let path = format!("/microservices/{service}/rules");
        // In pairs, so that each type goes to both addresses.
        let mut calls = Vec::new();
        for n in [0, 1, 3, 2] {
            let rules = json!({"rules": [rule(["BLACK", "WHITE"][n % 2], n)]});
            calls.push(("POST", path.clone(), rules));
        }
        let answers = registry.at_once(calls).await;
        let won = answers.iter().filter(|answer| answer.status == 200).count();
        // Two of the four requests are of each type: those of the winner are stored, the other two are
        // refused.
        let told = answers.iter().filter(|answer| answer.text().contains(r#""errorCode":"400020""#)).count();
        assert_eq!(
            (won, told),
            (2, 2),
            "{:?}",
            answers.iter().map(harness::Answer::text).collect::<Vec<_>>()
        );
        shows(&registry.clients[1], &path, "two rules of one type", |read| {
            let rules = read["rules"].as_array().map_or(&[][..], Vec::as_slice);
            rules.len() == 2 && rules[0]["ruleType"] == rules[1]["ruleType"]
        })
        .await;
    }
}

/// As many rules as a request may have come and go while others read: all of them or none.
async fn many_rules_in_one_request(registry: Registry) {
    let service = registry.clients[0].service("order").await;
    let path = format!("/microservices/{service}/rules");
    let all = json!({"rules": (0..100).map(|n| rule("BLACK", n)).collect::<Vec<_>>()});
    let writes = async {
        for _ in 0..5 {
            let added = registry.clients[0].call("POST", &path, "", &all).await.ok();
            let ids = added["RuleIds"].as_array().expect("ids").clone();
            assert_eq!(ids.len(), 100);
            // A path has at most 2048 bytes.
            for some in ids.chunks(50) {
                let list: Vec<&str> = some.iter().filter_map(Value::as_str).collect();
                let path = format!("{path}/{}", list.join(","));
                registry.clients[0].call("DELETE", &path, "", &Value::Null).await.ok();
            }
        }
    };
    let reads = async {
        loop {
            let read = registry.clients[1].call("GET", &path, "", &Value::Null).await.ok();
            let seen = read["rules"].as_array().map_or(0, Vec::len);
            // Fifty is legal: the deletion takes two requests, and only each of them is atomic.
            assert!([0, 50, 100].contains(&seen), "a request was seen half done: {seen} rules");
        }
    };
    tokio::select! { () = writes => {} () = reads => {} }
}

/// Sixty schemas, whose ids and contents show the prefix.
fn schemas(prefix: &str) -> Value {
    let mut all = Vec::new();
    for n in 0..60 {
        all.push(json!({"schemaId": format!("{prefix}{n}"), "summary": prefix, "schema": prefix.repeat(50)}));
    }
    json!({ "schemas": all })
}

/// All schemas are replaced while a reader looks and one schema is deleted. The reader sees one set or the
/// other, each with its contents.
async fn schemas_replaced_and_deleted(registry: Registry) {
    let service = registry.clients[0].service("order").await;
    let path = format!("/microservices/{service}/schemas");
    registry.clients[0].call("POST", &path, "", &schemas("a")).await.ok();
    shows(&registry.clients[1], &path, "the first set", |read| {
        read["schemas"].as_array().is_some_and(|schemas| schemas.len() == 60)
    })
    .await;
    let writes = async {
        for prefix in ["b", "a", "b", "a"] {
            let answers = registry
                .at_once(vec![
                    ("POST", path.clone(), schemas(prefix)),
                    ("DELETE", format!("{path}/{prefix}7"), Value::Null),
                ])
                .await;
            // Only the replacement must succeed: the deletion may come before its schema is there.
            answers[0].ok();
        }
    };
    let reads = async {
        loop {
            let read =
                registry.clients[1].call("GET", &format!("{path}?withSchema=0"), "", &Value::Null).await.ok();
            let seen = read["schemas"].as_array().expect("schemas").clone();
            assert_eq!(seen.len(), 60, "{} schemas", seen.len());
            // A schema that was deleted stays in the list of its service, and has nothing but its id.
            let is_deleted = |schema: &Value| {
                schema["summary"].is_null() && schema["schemaId"].as_str().is_some_and(|id| id.ends_with("7"))
            };
            let kept: Vec<&Value> = seen.iter().filter(|schema| !is_deleted(schema)).collect();
            let prefix = &kept[0]["summary"];
            let is_whole = kept.iter().all(|schema| schema["summary"] == *prefix && prefix.is_string());
            assert!(kept.len() >= 59 && is_whole, "{seen:?}");
        }
    };
    tokio::select! { () = writes => {} () = reads => {} }
}

macro_rules! on_both_stores {
    ($($property:ident: $etcd:ident, $embedded:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $etcd() {
            $property(Registry::on_etcd().await).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn $embedded() {
            $property(Registry::embedded().await).await;
        }
    )*};
}

on_both_stores! {
    updates_of_one_instance:
        concurrent_updates_of_an_instance_lose_none_on_etcd,
        concurrent_updates_of_an_instance_lose_none_on_the_embedded_store;
    updates_of_one_record:
        concurrent_updates_of_tags_lose_none_on_etcd,
        concurrent_updates_of_tags_lose_none_on_the_embedded_store;
    rules_of_both_types:
        rules_of_both_types_never_both_win_on_etcd,
        rules_of_both_types_never_both_win_on_the_embedded_store;
    many_rules_in_one_request:
        a_request_of_many_rules_is_seen_whole_on_etcd,
        a_request_of_many_rules_is_seen_whole_on_the_embedded_store;
    schemas_replaced_and_deleted:
        schemas_are_replaced_at_one_revision_on_etcd,
        schemas_are_replaced_at_one_revision_on_the_embedded_store;
}
