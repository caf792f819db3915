//! Declared dependencies: changes of rules that are long, or meet others.

use std::sync::Arc;
use std::time::Duration;

use control_plane::record::DependencySet;
use control_plane::store::{Op, RangeRequest, Store};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::hooked::Hooked;
use crate::probe::Probe;

/// The prefix of the rules under their consumers.
const CONSUMERS: &str = "/cse-sr/ms/dep-rules/default/default/c/";

/// A body that declares these providers for a consumer.
fn declaration(consumer: &str, providers: impl IntoIterator<Item = String>) -> Value {
    let provider = |name| json!({"appId": "default", "serviceName": name, "version": "0+"});
    let providers: Vec<Value> = providers.into_iter().map(provider).collect();
    let consumer = json!({"appId": "default", "serviceName": consumer, "version": "1.0.0"});
    json!({"dependencies": [{"consumer": consumer, "providers": providers}]})
}

#[tokio::test]
async fn a_declaration_of_many_providers_lets_others_pass() {
    let probe = Probe::start().await;
    for name in ["many", "few", "p"] {
        probe.service(json!({"serviceName": name, "version": "1.0.0"})).await;
    }
    // Six transactions with fifty of them each.
    let many = declaration("many", (0..300).map(|n| format!("p{n}")));
    let few = declaration("few", ["p".to_owned()]);
    let (of_many, of_few) =
        tokio::join!(probe.post("/dependencies", &many), probe.post("/dependencies", &few));
    of_many.empty();
    of_few.empty();
    let rules = probe.store().range(RangeRequest::prefix(CONSUMERS)).await.expect("read").items;
    let written = |name: &str| {
        rules.iter().find(|rule| rule.key.contains(&format!("/{name}/"))).expect("a rule").mod_rev
    };
    assert!(written("few") < written("many"), "{} after {}", written("few"), written("many"));
}

/// The store of one of two replicas whose steps of long changes alternate as long as both make any: each step waits for
/// one of the other, but not for ever.
fn alternating(store: Arc<dyn Store>, own: usize, last: Arc<watch::Sender<usize>>) -> Arc<dyn Store> {
    Hooked::around(store, move |store, txn| {
        let last = last.clone();
        Box::pin(async move {
            let is_step = txn.compare.len() > 20;
            let reply = store.txn(txn).await?;
            if is_step && reply.succeeded {
                last.send_replace(own);
                let mut last = last.subscribe();
                let other = last.wait_for(|last| *last != own);
                let _ = timeout(Duration::from_millis(50), other).await;
            }
            Ok(reply)
        })
    })
}

#[tokio::test]
async fn two_replicas_that_replace_the_same_rules_do_not_undo_each_other_for_ever() {
    let last = Arc::new(watch::Sender::new(0));
    let mut store = None;
    let first = |own: Arc<dyn Store>| alternating(store.insert(own).clone(), 1, last.clone());
    let first = Probe::start_over(first).await;
    let store = store.expect("a store");
    let second = Probe::start_over(|_| alternating(store, 2, last.clone())).await;
    first.service(json!({"serviceName": "c", "version": "1.0.0"})).await;
    // Eight transactions each, if nobody else changes this consumer.
    let names = |of: &'static str| (0..200).map(move |n| format!("{of}{n}"));
    let provider = |name| first.service(json!({"serviceName": name, "version": "1.0.0"}));
    join_all(names("a").chain(names("b")).map(provider)).await;
    let (a, b) = (declaration("c", names("a")), declaration("c", names("b")));
    let both = async { tokio::join!(first.put("/dependencies", &a), second.put("/dependencies", &b)) };
    let (of_first, of_second) = timeout(Duration::from_secs(60), both).await.expect("both end");
    of_first.empty();
    of_second.empty();
    let rules = first.store().range(RangeRequest::prefix(CONSUMERS)).await.expect("read").items;
    let [rules] = rules.try_into().expect("one consumer");
    let rules: DependencySet = serde_json::from_slice(&rules.value).expect("a set");
    let count = |of: &str| rules.keys.iter().filter(|rule| rule.service_name.starts_with(of)).count();
    let counts = [count("a"), count("b")];
    assert!(counts == [200, 0] || counts == [0, 200], "{counts:?}: the rules of one of them, whole");
}

#[tokio::test]
async fn a_rule_that_a_find_adds_while_others_are_dropped_stays() {
    let (arrived, mut arrivals) = mpsc::channel(16);
    let go_on = Arc::new(Semaphore::new(0));
    let held = go_on.clone();
    let probe = Probe::start_over(|store| {
        // The note of the name whose rule is about to be dropped.
        Hooked::around(store, move |store, txn| {
            let (arrived, held) = (arrived.clone(), held.clone());
            Box::pin(async move {
                if txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.contains("/wanted/"))) {
                    arrived.send(()).await.expect("the test listens");
                    held.acquire().await.expect("never closed").forget();
                }
                store.txn(txn).await
            })
        })
    })
    .await;
    let service = |name| probe.service(json!({"serviceName": name, "version": "1.0.0"}));
    let (consumer, provider, _other) = tokio::join!(service("c"), service("p"), service("other"));
    probe.post("/dependencies", &declaration("c", ["gone".to_owned()])).await.empty();
    let other = declaration("other", []);
    let find = "/instances?appId=default&serviceName=p&version=0%2B";
    let (dropped, ()) = tokio::join!(probe.put("/dependencies", &other), async {
        timeout(Duration::from_secs(10), arrivals.recv()).await.expect("the name is noted");
        assert_eq!(probe.get_as(&consumer, find).await.status, 200);
        go_on.add_permits(16);
    });
    dropped.empty();
    assert_eq!(probe.providers_in("default", &consumer), [provider]);
}

#[tokio::test]
async fn a_declaration_of_other_versions_replaces_what_a_find_has_noted() {
    let probe = Probe::start().await;
    let consumer = probe.service(json!({"serviceName": "c", "version": "1.0.0"})).await;
    let find = "/instances?appId=default&serviceName=p&version=1.0.0";
    probe.get_as(&consumer, find).await.refused("400012");
    let mut newer = declaration("c", ["p".to_owned()]);
    newer["dependencies"][0]["providers"][0]["version"] = json!("2.0.0+");
    probe.put("/dependencies", &newer).await.empty();
    let provider = probe.service(json!({"serviceName": "p", "version": "2.1.0"})).await;
    assert_eq!(probe.providers_in("default", &consumer), [provider]);
}

#[tokio::test]
async fn a_deleted_service_takes_only_the_rules_about_its_own_name_along() {
    let probe = Probe::start().await;
    let service = |name| probe.service(json!({"serviceName": name, "version": "1.0.0"}));
    let (_, _, provider) = tokio::join!(service("c"), service("other"), service("p"));
    probe.post("/dependencies", &declaration("c", ["p".to_owned()])).await.empty();
    // Rules without a provider. Any number of consumers may have some, and a delete does not wait for these.
    probe.post("/dependencies", &declaration("other", ["gone".to_owned()])).await.empty();
    let path = format!("/microservices/{provider}?force=1");
    assert_eq!(probe.delete(&path).await.status, 200);
    let rules = probe.store().range(RangeRequest::prefix(CONSUMERS)).await.expect("read").items;
    let consumers: Vec<&str> =
        rules.iter().map(|rule| rule.key.rsplit('/').nth(1).expect("a name")).collect();
    assert_eq!(consumers, ["other"]);
}
