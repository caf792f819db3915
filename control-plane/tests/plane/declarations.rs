//! Declared dependencies: changes of rules that are long, or meet others.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use control_plane::record::DependencySet;
use control_plane::store::{Op, RangeRequest, Store};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::{Barrier, Semaphore, mpsc, watch};
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

/// A store that holds back for ever what changes the rules of consumers whose names begin with `slow`, once it is told to.
fn withholding(store: Arc<dyn Store>, begun: Arc<AtomicBool>) -> Arc<dyn Store> {
    Hooked::around(store, move |store, txn| {
        let begun = begun.clone();
        Box::pin(async move {
            let is_of_slow = |op: &Op| matches!(op, Op::Put { key, .. } | Op::Delete(key) if key.starts_with(CONSUMERS) && key.contains("/slow"));
            if begun.load(Ordering::Relaxed) && txn.then.iter().any(is_of_slow) {
                pending::<()>().await;
            }
            store.txn(txn).await
        })
    })
}

#[tokio::test]
async fn a_client_does_not_wait_for_ever_for_rules_that_are_tidied_up() {
    let begun = Arc::new(AtomicBool::new(false));
    let probe = Probe::start_over(|store| withholding(store, begun.clone())).await;
    let service = |name| probe.service(json!({"serviceName": name, "version": "1.0.0"}));
    let (_, _, provider) = tokio::join!(service("quick"), service("slow"), service("p"));
    // A rule without a provider, which the next declaration tidies up, and one whose provider is about to go.
    probe.post("/dependencies", &declaration("slow", ["gone".to_owned(), "p".to_owned()])).await.empty();
    begun.store(true, Ordering::Relaxed);
    let declared = declaration("quick", ["p".to_owned()]);
    let path = format!("/microservices/{provider}?force=1");
    for waits_for_tidying in [probe.put("/dependencies", &declared).boxed(), probe.delete(&path).boxed()] {
        let answer = timeout(Duration::from_secs(20), waits_for_tidying).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    probe.get(&format!("/microservices/{provider}")).await.refused("400012");
}

#[tokio::test]
async fn tenants_that_depend_on_a_shared_service_at_once_lose_no_rule() {
    const SHARED_KEY: &str = "/cse-sr/ms/dep-rules/default/default/p//default/SERVICECENTER/";
    // Two transactions that change the key of the shared service meet before either is committed.
    let meeting = Arc::new(Barrier::new(2));
    let to_meet = Arc::new(AtomicUsize::new(2));
    let count = to_meet.clone();
    let probe = Probe::start_over(|store| {
        Hooked::around(store, move |store, txn| {
            let (meeting, count) = (meeting.clone(), count.clone());
            Box::pin(async move {
                let is_of_shared = |op: &Op| matches!(op, Op::Put { key, .. } if key.starts_with(SHARED_KEY));
                if txn.then.iter().any(is_of_shared)
                    && count
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                        .is_ok()
                {
                    meeting.wait().await;
                }
                store.txn(txn).await
            })
        })
    })
    .await;
    let declare = async |domain: &str| {
        let headers = [("x-domain-name", domain)];
        let service = json!({"service": {"serviceName": "c", "version": "1.0.0"}}).to_string();
        probe.send("POST", "/v4/default/registry/microservices", &headers, service).await.ok();
        let mut body = declaration("c", ["SERVICECENTER".to_owned()]);
        body["dependencies"][0]["providers"][0]["tenant"] = json!("default/default");
        probe.send("POST", "/v4/default/registry/dependencies", &headers, body.to_string()).await.empty();
    };
    let both = async { tokio::join!(declare("one"), declare("two")) };
    timeout(Duration::from_secs(20), both).await.expect("both are written");
    assert_eq!(to_meet.load(Ordering::Relaxed), 0, "they have met");
    let rules = probe.store().range(RangeRequest::prefix(SHARED_KEY)).await.expect("read").items;
    let [rules] = rules.try_into().expect("one provider");
    let rules: DependencySet = serde_json::from_slice(&rules.value).expect("a set");
    let mut tenants: Vec<&str> = rules.keys.iter().map(|consumer| consumer.tenant.as_str()).collect();
    tenants.sort_unstable();
    assert_eq!(tenants, ["one/default", "two/default"]);
}
