//! Faults of the store as clients see them: the contract's codes and plain sentences, but no text of the
//! store.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use crate::probe::Probe;
use async_trait::async_trait;
use control_plane::store::{
    KeyValue, LeaseId, Op, RangeReply, RangeRequest, Store, StoreError, Txn, TxnReply, WatchStream,
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::sync::Semaphore;

/// The text of a fault that no client may see.
const INTERNAL: &str = "10.9.8.7:2379: no such peer";

/// A store in which calls that concern services and instances can be made to fail.
struct Faulty {
    store: Arc<dyn Store>,
    fault: Arc<Mutex<Option<Fault>>>,
}

#[derive(Clone)]
pub(crate) enum Fault {
    /// The next transaction fails.
    Once(StoreError),
    /// Every call fails.
    Always(StoreError),
    /// Nothing can be read.
    Reads(StoreError),
    /// Nothing can be learnt about the present revision.
    Barriers(StoreError),
    /// The same, and nobody is told so.
    NoWord,
    /// No lease is granted.
    Leases(StoreError),
    /// The next lease is granted once a permit is there.
    SlowLease(Arc<Semaphore>),
    /// No watch delivers anything; what it holds back comes afterwards.
    Watches,
    /// Overrides and shifts of a domain cannot be written.
    WritesOf(&'static str, StoreError),
}

impl Faulty {
    fn check(&self, is_txn: bool) -> Result<(), StoreError> {
        let mut fault = self.fault.lock();
        match fault.clone() {
            None
            | Some(
                Fault::Barriers(_)
                | Fault::NoWord
                | Fault::Reads(_)
                | Fault::Leases(_)
                | Fault::SlowLease(_)
                | Fault::Watches
                | Fault::WritesOf(..),
            ) => Ok(()),
            Some(Fault::Always(error)) => Err(error),
            Some(Fault::Once(_)) if !is_txn => Ok(()),
            Some(Fault::Once(error)) => {
                *fault = None;
                Err(error)
            }
        }
    }
}

fn key_of(op: &Op) -> &str {
    match op {
        Op::Put { key, .. }
        | Op::PutLast { key, .. }
        | Op::Delete(key)
        | Op::DeletePrefix(key)
        | Op::Get(key) => key,
    }
}

fn concerns_clients(op: &Op) -> bool {
    let key = key_of(op);
    key.starts_with("/cse-sr/ms/") || key.starts_with("/cse-sr/inst/")
}

#[async_trait]
impl Store for Faulty {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        if let Some(Fault::Reads(error)) = self.fault.lock().clone() {
            return Err(error);
        }
        self.store.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        if txn.then.iter().any(concerns_clients) {
            self.check(true)?;
        }
        if let Some(Fault::WritesOf(domain, error)) = self.fault.lock().clone() {
            let is_of = |kind: &str, op| key_of(op).contains(&format!("/muster/{kind}/{domain}/"));
            if txn.then.iter().any(|op| is_of("override", op) || is_of("shift", op)) {
                return Err(error);
            }
        }
        self.store.txn(txn).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        if let Some(Fault::Leases(error)) = self.fault.lock().clone() {
            return Err(error);
        }
        let slow = self.fault.lock().take_if(|fault| matches!(fault, Fault::SlowLease(_)));
        if let Some(Fault::SlowLease(permits)) = slow {
            permits.acquire().await.expect("never closed").forget();
        }
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check(false)?;
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        let watch = self.store.watch(prefix, from).await?;
        let fault = self.fault.clone();
        let held_back = watch.then(move |item| {
            let fault = fault.clone();
            async move {
                while matches!(*fault.lock(), Some(Fault::Watches)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                item
            }
        });
        Ok(WatchStream::new(held_back))
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        let fault = self.fault.lock().clone();
        match fault {
            Some(Fault::Barriers(error)) => return Err(error),
            Some(Fault::NoWord) => pending::<()>().await,
            _ => {}
        }
        self.store.barrier(prefix).await
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.store.compact(rev).await
    }

    fn endpoints(&self) -> Vec<String> {
        self.store.endpoints()
    }
}

pub(crate) async fn faulty() -> (Probe, Arc<Mutex<Option<Fault>>>) {
    let fault = Arc::new(Mutex::new(None));
    let shared = fault.clone();
    let probe = Probe::start_over(move |store| Arc::new(Faulty { store, fault: shared })).await;
    (probe, fault)
}

#[tokio::test]
async fn no_text_of_the_store_reaches_a_client() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&id, json!({"hostName": "n", "instanceId": "i"})).await;
    let instance = format!("/microservices/{id}/instances/i");
    for (error, code) in [
        (StoreError::Unavailable(INTERNAL.into()), "500011"),
        (StoreError::Refused(INTERNAL.into()), "500003"),
    ] {
        *fault.lock() = Some(Fault::Always(error));
        let register = json!({"service": {"serviceName": "cart"}});
        let beat = probe.put(&format!("{instance}/heartbeat"), &Value::Null).await;
        for refused in [
            probe.post("/microservices", &register).await.refused(code),
            // A renewal changes nothing that a client would have to look at.
            if code == "500011" { beat.not_now() } else { beat.refused(code) },
            probe.put(&format!("{instance}/status?value=DOWN"), &Value::Null).await.refused(code),
            probe.delete(&instance).await.refused(code),
        ] {
            assert!(!refused.to_string().contains("10.9.8.7"), "{refused}");
            assert!(refused["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{refused}");
        }
        let beats = json!({"instances": [{"serviceId": id, "instanceId": "i"}]});
        let outcome = probe.put("/heartbeats", &beats).await.ok()["instances"][0].clone();
        let message = outcome["errMessage"].as_str().expect("a reason");
        assert!(!message.contains("10.9.8.7"), "{message}");
    }
    *fault.lock() = None;
    probe.put(&format!("{instance}/heartbeat"), &Value::Null).await.empty();
}

#[tokio::test]
async fn a_registration_that_waits_for_its_lease_counts_those_that_overtake_it() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let permits = Arc::new(Semaphore::new(0));
    *fault.lock() = Some(Fault::SlowLease(permits.clone()));
    let slow = probe.instance(&id, json!({"hostName": "n", "instanceId": "slow"}));
    let others = async {
        // The slow one takes the fault when it asks for its lease.
        while fault.lock().is_some() {
            tokio::task::yield_now().await;
        }
        probe.instance(&id, json!({"hostName": "n", "instanceId": "a"})).await;
        probe.instance(&id, json!({"hostName": "n", "instanceId": "b"})).await;
        permits.add_permits(1);
    };
    tokio::join!(slow, others);
    let snapshot = probe.view().now().expect("a view");
    let view = snapshot.any_service(&ServiceRef::new(Tenant::default(), &id)).expect("the service");
    assert_eq!((view.usual_size, view.living()), (3, 3));
}

#[tokio::test]
async fn made_up_heartbeats_of_a_batch_are_not_looked_up() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    // Every read of an instance would fail, and the answer would say so.
    *fault.lock() = Some(Fault::Reads(StoreError::Unavailable(INTERNAL.into())));
    let made_up: Vec<Value> =
        (0..100).map(|number| json!({"serviceId": id, "instanceId": format!("made-up-{number}")})).collect();
    let outcomes = probe.put("/heartbeats", &json!({"instances": made_up})).await.ok();
    for outcome in outcomes["instances"].as_array().expect("an outcome for each") {
        let message = outcome["errMessage"].as_str().expect("a reason");
        assert!(message.starts_with("Instance does not exist"), "{message}");
    }
    // Nothing is claimed that nobody knows.
    *fault.lock() = Some(Fault::Barriers(StoreError::Unavailable(INTERNAL.into())));
    let outcomes = probe.put("/heartbeats", &json!({"instances": made_up[..1]})).await.ok();
    let message = outcomes["instances"][0]["errMessage"].as_str().expect("a reason").to_owned();
    assert!(message.contains("could not be read") && !message.contains("10.9.8.7"), "{message}");
}

#[tokio::test]
async fn a_lost_lease_is_no_missing_instance_to_a_registration() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let path = format!("/microservices/{id}/instances");
    let body = json!({"instance": {"hostName": "n", "instanceId": "i"}});
    *fault.lock() = Some(Fault::Once(StoreError::LeaseNotFound));
    probe.post(&path, &body).await.not_now();
    probe.post(&path, &body).await.ok();
    // An instance that moves while its lease ends is stored by the next attempt of the same request.
    *fault.lock() = Some(Fault::Once(StoreError::LeaseNotFound));
    let moved = json!({"instance": {"hostName": "n", "instanceId": "i", "endpoints": ["rest://10.0.0.2:1"]}});
    probe.post(&path, &moved).await.ok();
    assert!(fault.lock().is_none(), "the fault was met");
    let read = probe.get(&format!("{path}/i")).await.ok();
    assert_eq!(read["instance"]["endpoints"], json!(["rest://10.0.0.2:1"]));
}

#[tokio::test]
async fn a_linearizable_read_fails_when_the_store_is_away() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    probe.instance(&id, json!({"hostName": "n", "instanceId": "i"})).await;
    let path = format!("/microservices/{id}/instances/i");
    let linearizable = format!("{path}?noCache=1");
    probe.get(&linearizable).await.ok();
    *fault.lock() = Some(Fault::Barriers(StoreError::Unavailable(INTERNAL.into())));
    probe.get(&path).await.ok();
    let refused = probe.get(&linearizable).await.not_now();
    assert!(!refused.to_string().contains("10.9.8.7"), "{refused}");
    // A write that happens to carry the parameter asks nothing.
    probe.put(&format!("{path}/status?value=DOWN&noCache=1"), &Value::Null).await.empty();
}

/// The stored record of an instance.
async fn record(probe: &Probe, key: &str) -> KeyValue {
    let read = probe.store().range(RangeRequest::key(key)).await;
    read.expect("readable").items.pop().expect("it is there")
}

#[tokio::test]
async fn a_change_that_changes_nothing_is_not_written() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let body = json!({"hostName": "n", "instanceId": "i", "properties": {"tag": "a"}});
    probe.instance(&id, body).await;
    let path = format!("/microservices/{id}/instances/i");
    let key = format!("/cse-sr/inst/files/default/default/{id}/i");
    let before = record(&probe, &key).await;
    let same = json!({"properties": {"tag": "a"}});
    probe.put(&format!("{path}/properties"), &same).await.empty();
    probe.put(&format!("{path}/status?value=UP"), &Value::Null).await.empty();
    assert_eq!(record(&probe, &key).await.mod_rev, before.mod_rev);
    // Nobody can say then that it changes nothing.
    *fault.lock() = Some(Fault::Barriers(StoreError::Unavailable(INTERNAL.into())));
    probe.put(&format!("{path}/properties"), &same).await.empty();
    assert!(record(&probe, &key).await.mod_rev > before.mod_rev);
}

#[tokio::test]
async fn a_declaration_right_after_its_provider_counts_however_late_the_view_is() {
    let (probe, fault) = faulty().await;
    let consumer = probe.service(json!({"serviceName": "c", "version": "1.0.0"})).await;
    let key =
        |name: &str, version: &str| json!({"appId": "default", "serviceName": name, "version": version});
    let providers = [key("p", "0+")];
    let body = json!({"dependencies": [{"consumer": key("c", "1.0.0"), "providers": providers}]});
    // The name is noted, so nothing has to be written for it any more.
    probe.put("/dependencies", &body).await.empty();
    *fault.lock() = Some(Fault::Watches);
    // Answered without the view, after as long as a write waits for it.
    let provider = probe.service(json!({"serviceName": "p", "version": "1.0.0"})).await;
    let mut declared = Box::pin(async { probe.put("/dependencies", &body).await.empty() });
    // An answer that waits for nothing would come now, and would be wrong.
    let early = tokio::time::timeout(Duration::from_millis(200), declared.as_mut()).await;
    *fault.lock() = None;
    if early.is_err() {
        declared.await;
    }
    let found = probe.get(&format!("/microservices/{consumer}/providers")).await.ok();
    assert_eq!(found["providers"][0]["serviceId"], json!(provider), "{found}");
}

#[tokio::test]
async fn a_change_back_is_written_however_late_the_view_is() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let key = format!("/cse-sr/inst/files/default/default/{id}/i");
    let instances = format!("/microservices/{id}/instances");
    let body = json!({"hostName": "n", "instanceId": "i", "properties": {"tag": "a"}});
    probe.instance(&id, body.clone()).await;
    for is_registration in [false, true] {
        // Another replica makes a change, and this one's view does not have it yet.
        *fault.lock() = Some(Fault::Watches);
        let KeyValue { value, lease, .. } = record(&probe, &key).await;
        let text = String::from_utf8(value.to_vec()).expect("text");
        let value = text.replace(r#""tag":"a""#, r#""tag":"b""#).into();
        let put = Op::Put { key: key.clone(), value, lease };
        probe.store().txn(Txn { then: vec![put], ..Txn::default() }).await.expect("writable");
        let mut back = Box::pin(async {
            if is_registration {
                probe.post(&instances, &json!({"instance": body})).await.ok();
            } else {
                let properties = json!({"properties": {"tag": "a"}});
                probe.put(&format!("{instances}/i/properties"), &properties).await.empty();
            }
        });
        // An answer that waits for nothing would come now, and would be wrong.
        let early = tokio::time::timeout(Duration::from_millis(200), back.as_mut()).await;
        *fault.lock() = None;
        if early.is_err() {
            back.await;
        }
        let stored = record(&probe, &key).await.value;
        assert!(String::from_utf8_lossy(&stored).contains(r#""tag":"a""#), "{stored:?}");
    }
}

#[tokio::test]
async fn a_store_with_too_many_changes_asks_for_patience() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let body = json!({"instance": {"hostName": "n", "instanceId": "i"}});
    let path = format!("/microservices/{id}/instances");
    *fault.lock() = Some(Fault::Once(StoreError::Busy));
    probe.post(&path, &body).await.not_now();
    probe.post(&path, &body).await.ok();
}

#[tokio::test]
async fn a_registration_that_gets_no_lease_is_asked_to_come_back() {
    let (probe, fault) = faulty().await;
    let id = probe.service(json!({"serviceName": "order"})).await;
    let body = json!({"instance": {"hostName": "n", "instanceId": "i"}});
    let path = format!("/microservices/{id}/instances");
    *fault.lock() = Some(Fault::Leases(StoreError::Unavailable(INTERNAL.into())));
    let refused = probe.post(&path, &body).await.not_now();
    assert!(!refused.to_string().contains("10.9.8.7"), "{refused}");
    *fault.lock() = None;
    // An empty list is left out.
    assert_eq!(probe.get(&path).await.ok()["instances"], Value::Null, "nothing was written");
    probe.post(&path, &body).await.ok();
}

#[tokio::test]
async fn refused_ends_of_one_tenant_hold_up_no_others() {
    let (probe, fault) = faulty().await;
    let send = async |domain: &str, method: &str, path: &str, body: Value| {
        let path = format!("/v4/default/registry{path}");
        probe.send(method, &path, &[("x-domain-name", domain)], body.to_string()).await.ok()
    };
    let mut services = Vec::new();
    for domain in ["loud", "quiet"] {
        let service = json!({"service": {"serviceName": "order"}});
        let id = send(domain, "POST", "/microservices", service).await["serviceId"].clone();
        services.push((domain, id));
    }
    // The store has no room for one of them, whose end is due first.
    for (domain, service) in &services {
        let wish = json!({"serviceId": service, "weight": 1, "reason": "r", "seconds": 1});
        send(domain, "PUT", "/overrides", wish).await;
        fault.lock().get_or_insert(Fault::WritesOf("loud", StoreError::Rationed));
    }
    let mut revisions = probe.revisions();
    let ended = async {
        while send("quiet", "GET", "/overrides", Value::Null).await != json!({}) {
            revisions.changed().await.expect("the view lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("within the deadline");
    assert_ne!(send("loud", "GET", "/overrides", Value::Null).await, json!({}));
    probe.stop().await;
}
