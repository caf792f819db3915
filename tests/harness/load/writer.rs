//! Random writers. Each owns the instances it writes, so that its writes to one follow each other.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Counts, PATIENCE};
use crate::Client;
use crate::oracle::{Ledger, STAMP};

/// Instances of a writer.
const OWN: u64 = 6;
/// Instances of the provider that is deleted and registered again.
const VOLATILE: usize = 3;

pub(super) struct Writer {
    pub(super) number: u64,
    pub(super) dice: fastrand::Rng,
    pub(super) clients: Vec<Client>,
    pub(super) providers: Vec<(String, String)>,
    pub(super) ledger: Ledger,
    pub(super) counts: Arc<Counts>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) pause: Duration,
}

impl Writer {
    pub(super) async fn run(mut self) {
        while !self.stopping.load(Ordering::Relaxed) {
            let own = self.dice.u64(0..OWN);
            let provider = (self.number + own) as usize % self.providers.len();
            let service = self.providers[provider].0.clone();
            let id = format!("w{}-{own}", self.number);
            let client = &self.clients[self.dice.usize(0..self.clients.len())];
            let stamp = self.ledger.stamp();
            match self.dice.u8(0..20) {
                0..11 => self.put(client, &service, &id, stamp).await,
                11..15 => self.counts.note(register(client, &service, &id, 240, stamp).await),
                // Nobody beats for it: it expires.
                15..17 => self.counts.note(register(client, &service, &id, 2, stamp).await),
                _ => {
                    let path = format!("/microservices/{service}/instances/{id}");
                    self.counts.note(call(client, "DELETE", &path, &Value::Null).await);
                }
            }
            tokio::time::sleep(self.pause.mul_f64(self.dice.f64())).await;
        }
    }

    async fn put(&self, client: &Client, service: &str, id: &str, stamp: u64) {
        let path = format!("/microservices/{service}/instances/{id}/properties");
        let body = json!({"properties": {STAMP: stamp.to_string()}});
        self.counts.note(call(client, "PUT", &path, &body).await);
    }
}

/// The address of an instance: one of its own, since readers of xDS take two instances at one address for one
/// that has begun anew.
pub fn address_of(service: &str, id: &str) -> String {
    let mut hash = DefaultHasher::new();
    (service, id).hash(&mut hash);
    let [a, b, c, high, low, ..] = hash.finish().to_be_bytes();
    format!("10.{a}.{b}.{c}:{}", u16::from_be_bytes([high | 1, low]))
}

/// Registers an instance that lives for `seconds` without a heartbeat.
pub async fn register(client: &Client, service: &str, id: &str, seconds: u32, stamp: u64) -> Option<u16> {
    let body = json!({"instance": {"instanceId": id, "hostName": "node", "endpoints": [format!("rest://{}", address_of(service, id))],
        "properties": {STAMP: stamp.to_string()},
        "healthCheck": {"mode": "push", "interval": seconds, "times": 0}}});
    call(client, "POST", &format!("/microservices/{service}/instances"), &body).await
}

/// Deletes a service and registers it again, and changes dependencies and rules meanwhile.
pub(super) struct Volatile {
    pub(super) dice: fastrand::Rng,
    pub(super) clients: Vec<Client>,
    pub(super) provider: (String, String),
    pub(super) fickle: String,
    /// Providers whose rules change; id and name.
    pub(super) ruled: Vec<(String, String)>,
    pub(super) ledger: Ledger,
    pub(super) counts: Arc<Counts>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) pause: Duration,
}

impl Volatile {
    pub(super) async fn run(mut self) {
        let (id, name) = self.provider.clone();
        let consumer = self.fickle.clone();
        while !self.stopping.load(Ordering::Relaxed) {
            let client = self.clients[self.dice.usize(0..self.clients.len())].clone();
            // Under the same id again: the witnesses know their providers by id.
            let service = json!({"service": {"serviceId": id, "appId": "shop", "serviceName": name, "version": "1.0.0"}});
            self.counts.note(call(&client, "POST", "/microservices", &service).await);
            for number in 0..VOLATILE {
                let stamp = self.ledger.stamp();
                self.counts.note(register(&client, &id, &format!("v{number}"), 240, stamp).await);
            }
            for _ in 0..self.dice.u8(1..4) {
                self.change_dependencies(&client, &consumer, &name).await;
                let ruled = self.ruled[self.dice.usize(0..self.ruled.len())].0.clone();
                self.change_rules(&client, &ruled).await;
                tokio::time::sleep(self.pause.mul_f64(self.dice.f64())).await;
            }
            let path = format!("/microservices/{id}?force=1");
            self.counts.note(call(&client, "DELETE", &path, &Value::Null).await);
        }
    }

    /// The consumer depends on the provider, or on nothing.
    async fn change_dependencies(&mut self, client: &Client, consumer: &str, provider: &str) {
        let rule = json!({"appId": "shop", "serviceName": provider, "version": "0+"});
        let providers = if self.dice.bool() { json!([rule]) } else { json!([]) };
        let consumer = json!({"appId": "shop", "serviceName": consumer, "version": "1.0.0"});
        let body = json!({"dependencies": [{"consumer": consumer, "providers": providers}]});
        self.counts.note(call(client, "PUT", "/dependencies", &body).await);
    }

    async fn change_rules(&mut self, client: &Client, service: &str) {
        let path = format!("/microservices/{service}/rules");
        // Only the fickle consumer is shut out. Its watchers are allowed to miss changes; no other watcher's
        // interest may change.
        let rule = json!({"ruleType": "BLACK", "attribute": "ServiceName", "pattern": "^fickle"});
        let added = client.try_call("POST", &path, &json!({"rules": [rule]})).await;
        let Some(added) = added.filter(|answer| answer.status == 200) else { return };
        let Some(rule) = added.ok()["RuleIds"][0].as_str().map(str::to_owned) else { return };
        self.counts.note(call(client, "DELETE", &format!("{path}/{rule}"), &Value::Null).await);
    }
}

/// The status, or nothing when there was no answer in time.
async fn call(client: &Client, method: &str, path: &str, body: &Value) -> Option<u16> {
    let answer = tokio::time::timeout(PATIENCE, client.try_call(method, path, body)).await;
    answer.ok().flatten().map(|answer| answer.status)
}

impl Counts {
    fn note(&self, status: Option<u16>) {
        let count = match status {
            Some(200) => &self.written,
            Some(400..500) => &self.refused,
            _ => &self.unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if !matches!(status, Some(200 | 400..500)) {
            tracing::debug!(?status, "a write has an unknown outcome");
        }
    }
}
