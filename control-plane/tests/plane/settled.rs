//! Writes that find everything so already, in a view that does not show yet what another replica has changed.

use std::sync::Arc;
use std::time::Duration;

use control_plane::store::{Op, RangeRequest, StoreError, Txn};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::hooked::Hooked;
use crate::probe::Probe;
use crate::store_faults::{Fault, faulty};

/// Runs a request while the view does not show a change that is committed already. The view gets it once an answer that
/// waits for nothing would have come.
async fn on_a_late_view<T>(
    fault: &Mutex<Option<Fault>>,
    change: impl Future<Output = ()>,
    request: impl Future<Output = T>,
) -> T {
    *fault.lock() = Some(Fault::Watches);
    change.await;
    let mut request = Box::pin(request);
    let early = timeout(Duration::from_millis(200), request.as_mut()).await;
    *fault.lock() = None;
    match early {
        Ok(answer) => answer,
        Err(_) => request.await,
    }
}

/// The service `c`, and the service `p` with the instance `i`.
async fn consumer_and_provider(probe: &Probe) -> (String, String) {
    let consumer = probe.service(json!({"serviceName": "c"})).await;
    let provider = probe.service(json!({"serviceName": "p"})).await;
    probe.instance(&provider, json!({"hostName": "n", "instanceId": "i"})).await;
    (consumer, provider)
}

/// Deletes every key below a prefix that contains `part`, as another replica does.
async fn delete_elsewhere(probe: &Probe, prefix: &str, part: &str) {
    let found = probe.store().range(RangeRequest::prefix(prefix)).await.expect("read").items;
    let is_meant = |text: &[u8]| String::from_utf8_lossy(text).contains(part);
    let meant = found.into_iter().filter(|item| is_meant(item.key.as_bytes()) || is_meant(&item.value));
    let then: Vec<Op> = meant.map(|item| Op::Delete(item.key)).collect();
    assert!(!then.is_empty(), "{part} stands below {prefix}");
    probe.store().txn(Txn { then, ..Txn::default() }).await.expect("writable");
}

#[tokio::test]
async fn a_service_that_was_deleted_elsewhere_is_registered_again() {
    let (probe, fault) = faulty().await;
    let service = json!({"serviceName": "order", "version": "1.0.0"});
    let id = probe.service(service.clone()).await;
    let again =
        on_a_late_view(&fault, delete_elsewhere(&probe, "/cse-sr/ms/", &id), probe.service(service)).await;
    assert_eq!(again, id);
    probe.instance(&id, json!({"hostName": "n", "instanceId": "i"})).await;
}

#[tokio::test]
async fn a_service_that_was_given_an_instance_or_a_consumer_elsewhere_is_not_deleted() {
    let (probe, fault) = faulty().await;
    let provider = probe.service(json!({"serviceName": "p", "version": "1.0.0"})).await;
    let path = format!("/microservices/{provider}");
    let instance = format!("/cse-sr/inst/files/default/default/{provider}/i");
    let rules = "/cse-sr/ms/dep-rules/default/default/p//default/p/0+".to_owned();
    probe.service(json!({"serviceName": "c", "version": "1.0.0"})).await;
    let consumer =
        json!({"tenant": "default/default", "appId": "default", "serviceName": "c", "version": "1.0.0"});
    for (key, value, refused) in [
        (instance, json!({"serviceId": provider, "instanceId": "i", "hostName": "n"}), "400013"),
        (rules, json!({"Dependency": [consumer]}), "400023"),
    ] {
        let write = async |op| {
            probe.store().txn(Txn { then: vec![op], ..Txn::default() }).await.expect("writable");
        };
        let put = write(Op::put(key.clone(), value.to_string()));
        on_a_late_view(&fault, put, probe.delete(&path)).await.refused(refused);
        // What has gone again keeps it no longer.
        let gone = write(Op::Delete(key));
        let settled = on_a_late_view(&fault, gone, probe.delete(&format!("{path}?force=0"))).await;
        assert_eq!(settled.status, 200, "{}", settled.text());
        assert_eq!(probe.service(json!({"serviceName": "p", "version": "1.0.0"})).await, provider);
    }
}

#[tokio::test]
async fn a_rule_that_was_deleted_elsewhere_is_added_again() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let rules = format!("/microservices/{id}/rules");
    let rule = json!({"rules": [{"ruleType": "BLACK", "attribute": "ServiceName", "pattern": "^evil"}]});
    probe.post(&rules, &rule).await.ok();
    let added = on_a_late_view(
        &fault,
        async {
            // The service's record changes with each deleted rule, as that of another replica does.
            delete_elsewhere(&probe, "/cse-sr/ms/rule", &id).await;
        },
        probe.post(&rules, &rule),
    )
    .await
    .ok();
    assert_eq!(added["RuleIds"].as_array().map(Vec::len), Some(1), "{added}");
    assert_eq!(probe.get(&rules).await.ok()["rules"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_dependency_that_was_dropped_elsewhere_is_declared_again() {
    let (probe, fault) = faulty().await;
    for name in ["c", "p"] {
        probe.service(json!({"serviceName": name, "version": "1.0.0"})).await;
    }
    let key = |name, version| json!({"appId": "default", "serviceName": name, "version": version});
    let body = json!({"dependencies": [{"consumer": key("c", "1.0.0"), "providers": [key("p", "0+")]}]});
    probe.post("/dependencies", &body).await.empty();
    on_a_late_view(
        &fault,
        delete_elsewhere(&probe, "/cse-sr/ms/dep-rules/", "default"),
        probe.post("/dependencies", &body),
    )
    .await
    .empty();
    let rules = probe.store().range(RangeRequest::prefix("/cse-sr/ms/dep-rules/")).await.expect("read").items;
    assert_eq!(rules.len(), 2, "one under the consumer, and one under the provider");
}

#[tokio::test]
async fn a_shift_that_was_resumed_elsewhere_is_paused_again() {
    let (probe, fault) = faulty().await;
    let mut services = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        services.push(probe.service(json!({"serviceName": "order", "version": version})).await);
    }
    let [from, to] = [0, 1].map(|n| json!({"serviceId": services[n]}));
    let plan = json!({"from": from, "to": to, "steps": [{"toWeight": 10, "seconds": 3600}], "reason": "r"});
    let id = probe.post("/shifts", &plan).await.ok()["shiftId"].as_str().expect("an id").to_owned();
    let pause = format!("/shifts/{id}/pause");
    probe.put(&pause, &json!({})).await.empty();
    let stored = async || {
        let found = probe.store().range(RangeRequest::prefix("/cse-sr/muster/shift/")).await.expect("read");
        let [shift] = found.items.try_into().expect("one shift");
        (shift.key, String::from_utf8(shift.value.to_vec()).expect("text"))
    };
    let resume = async {
        let (key, value) = stored().await;
        let value = value.replace(r#""state":"paused""#, r#""state":"running""#);
        let then = vec![Op::put(key, value)];
        probe.store().txn(Txn { then, ..Txn::default() }).await.expect("writable");
    };
    on_a_late_view(&fault, resume, probe.put(&pause, &json!({}))).await.empty();
    let (_, value) = stored().await;
    assert!(value.contains(r#""state":"paused""#), "{value}");
}

#[tokio::test]
async fn a_find_is_answered_though_the_store_has_no_room_to_record_it() {
    let (probe, fault) = faulty().await;
    let (consumer, provider) = consumer_and_provider(&probe).await;
    let find = |name: &str| format!("/instances?appId=default&serviceName={name}&version=0%2B");
    for error in [StoreError::Rationed, StoreError::Full("no room".into())] {
        *fault.lock() = Some(Fault::Once(error.clone()));
        let found = probe.get_as(&consumer, &find("p")).await.ok();
        assert_eq!(found["instances"][0]["instanceId"], "i", "{error}");
        *fault.lock() = Some(Fault::Once(error));
        probe.get_as(&consumer, &find("nobody")).await.refused("400012");
        *fault.lock() = None;
    }
    assert_eq!(probe.providers_in("default", &consumer), [""; 0], "nothing was recorded");
    probe.get_as(&consumer, &find("p")).await.ok();
    assert_eq!(probe.providers_in("default", &consumer), [provider]);
}

#[tokio::test]
async fn the_declarations_of_one_tenant_neither_hold_up_nor_refuse_those_of_another() {
    let go_on = Arc::new(Semaphore::new(0));
    let held = go_on.clone();
    let (arrived, mut arrivals) = mpsc::channel(1);
    let probe = Probe::start_over(|store| {
        Hooked::around(store, move |store, txn| {
            let (held, arrived) = (held.clone(), arrived.clone());
            Box::pin(async move {
                let is_of_loud =
                    |op: &Op| matches!(op, Op::Put { key, .. } if key.contains("/dep-rules/loud/"));
                if txn.then.iter().any(is_of_loud) {
                    arrived.send(()).await.expect("the test listens");
                    held.acquire().await.expect("never closed").forget();
                    return Err(StoreError::Rationed);
                }
                store.txn(txn).await
            })
        })
    })
    .await;
    let in_domain = async |domain: &str, path: &str, body: &Value| {
        let path = format!("/v4/default/registry{path}");
        probe.send("POST", &path, &[("x-domain-name", domain)], body.to_string()).await
    };
    for name in ["c", "p"] {
        let service = json!({"service": {"serviceName": name, "version": "1.0.0"}});
        for domain in ["default", "loud"] {
            in_domain(domain, "/microservices", &service).await.ok();
        }
    }
    let key =
        |name: &str, version: &str| json!({"appId": "default", "serviceName": name, "version": version});
    let declare = async |domain: &str| {
        let declaration = json!({"consumer": key("c", "1.0.0"), "providers": [key("p", "0+")]});
        in_domain(domain, "/dependencies", &json!({"dependencies": [declaration]})).await
    };
    let (of_loud, ()) = tokio::join!(declare("loud"), async {
        arrivals.recv().await.expect("it is being written");
        declare("default").await.empty();
        go_on.add_permits(1);
    });
    assert_eq!(of_loud.status, 429, "{}", of_loud.text());
}

#[tokio::test]
async fn a_rule_that_nobody_can_confirm_is_not_said_to_be_there() {
    let (probe, fault) = faulty().await;
    let service = json!({"serviceName": "order", "version": "1.0.0"});
    let id = probe.service(service.clone()).await;
    let rules = format!("/microservices/{id}/rules");
    let rule = json!({"rules": [{"ruleType": "BLACK", "attribute": "ServiceName", "pattern": "^evil"}]});
    probe.post(&rules, &rule).await.ok();
    *fault.lock() = Some(Fault::NoWord);
    let unconfirmed = timeout(Duration::from_secs(20), probe.post(&rules, &rule)).await.expect("an answer");
    unconfirmed.not_now();
    // A service goes on through its start.
    let registered = timeout(Duration::from_secs(20), probe.service(service)).await.expect("an answer");
    assert_eq!(registered, id);
}

#[tokio::test]
async fn a_poll_gets_the_whole_reply_when_the_store_says_nothing() {
    let (probe, fault) = faulty().await;
    let (consumer, _) = consumer_and_provider(&probe).await;
    let find = "/instances?appId=default&serviceName=p&version=0%2B";
    let rev = probe.get_as(&consumer, find).await.revision();
    let poll = format!("{find}&rev={rev}");
    assert_eq!(probe.get_as(&consumer, &poll).await.status, 304);
    *fault.lock() = Some(Fault::NoWord);
    let whole = timeout(Duration::from_secs(10), probe.get_as(&consumer, &poll)).await.expect("an answer");
    assert_eq!(whole.ok()["instances"][0]["instanceId"], "i");
    // A batch of such polls asks once for all, and waits no longer.
    let poll = json!({"service": {"appId": "default", "serviceName": "p", "version": "0+"}, "rev": rev});
    let polls = json!({"services": vec![poll; 20]});
    let batch = probe.post("/instances/action?type=query", &polls);
    let whole = timeout(Duration::from_secs(10), batch).await.expect("an answer").ok();
    let updated = whole["services"]["updated"].as_array().expect("whole replies");
    assert_eq!(updated.len(), 20, "{whole}");
}

#[tokio::test]
async fn instances_that_another_replica_holds_are_released() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let held = format!("/cse-sr/muster/held/default/default/{id}/");
    let hold = async {
        let record = json!({"instance": {"serviceId": id, "instanceId": "i", "hostName": "n"}});
        let then = vec![Op::put(format!("{held}i"), record.to_string())];
        probe.store().txn(Txn { then, ..Txn::default() }).await.expect("writable");
    };
    let release = format!("/v4/default/admin/protections/{id}");
    on_a_late_view(&fault, hold, probe.send("DELETE", &release, &[], String::new())).await.empty();
    let left = probe.store().range(RangeRequest::prefix(&held)).await.expect("read").items;
    assert!(left.is_empty(), "{left:?}");
}
