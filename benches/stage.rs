//! A system of real processes on which a bench plays: etcd, NATS, one control plane, one gateway, with
//! providers that change and consumers that watch them.

use anyhow::{Context, Result};
use etcd_client::{PutOptions, Txn, TxnOp};
use futures_util::{StreamExt as _, stream};
use harness::{Client, Plan, World};
use serde_json::{Map, Value, json};
use shared::clock::Clock;

use crate::stamp::Stamp;
use crate::usage;

/// Seconds between the heartbeats that instances promise: none comes while a bench runs, and none expires.
const INTERVAL: u32 = 7200;
/// Registrations under way at once.
const AT_ONCE: usize = 32;
/// Operations of one transaction. By default etcd takes 128 at most.
const TRANSACTION: usize = 120;
/// The prefix of the default tenant's instances in etcd.
const INSTANCES: &str = "/cse-sr/inst/files/default/default/";

/// The system.
pub struct Stage {
    /// Its processes.
    pub world: World,
    /// A client of the control plane.
    pub registry: Client,
}

/// A provider whose changes are numbered.
pub struct Provider {
    /// The number of the provider in its stamps.
    pub number: u32,
    /// The id of the service.
    pub id: String,
    seq: u64,
    instances: Vec<String>,
    /// Properties beside the stamp.
    reported: Map<String, Value>,
    clock: Clock,
}

impl Stage {
    /// Starts the system. Watchers are not limited, and are pinged at the interval `ping`.
    pub async fn start(ping: &str) -> Self {
        Self::tuned(ping, &[]).await
    }

    /// Like [`Stage::start`], with further settings of the gateway.
    pub async fn tuned(ping: &str, more: &[(&str, &str)]) -> Self {
        let plan = more.iter().fold(Self::plan(ping), |plan, (flag, value)| plan.gateway_flag(flag, value));
        Self::of(plan).await
    }

    /// A system as of [`Stage::start`], to be changed before it is started.
    pub fn plan(ping: &str) -> Plan {
        World::with()
            .plane_flag("--quota-services", "1000000")
            .gateway_flag("--watch-per-node", "0")
            .gateway_flag("--watch-per-consumer", "0")
            .gateway_flag("--watch-ping-interval", ping)
            // Watchers that are rarely pinged rarely send anything, and must not be taken for dead.
            .gateway_flag("--watch-read-timeout", "3h")
    }

    /// Starts a planned system.
    pub async fn of(plan: Plan) -> Self {
        let world = plan.start().await;
        // Without a publisher the first changes would wait for the election and count as slow.
        world.publisher().await;
        let registry = Client::new(world.control_planes[0].api);
        Self { world, registry }
    }

    /// Registers a provider with this number of instances.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub async fn provider(&self, number: u32, instances: usize) -> Provider {
        let id = self.registry.service(&provider_name(number)).await;
        let instances: Vec<String> = (0..instances).map(|n| format!("{id}-{n:04}")).collect();
        for instance in &instances {
            self.registry.instance_with(&id, instance, INTERVAL).await;
        }
        Provider { number, id, seq: 0, instances, reported: Map::new(), clock: Clock::system() }
    }

    /// Registers consumers `from..to`, each of which depends on the providers that `of` names for it.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub async fn consumers(&self, from: usize, to: usize, of: impl Fn(usize) -> Vec<u32>) -> Vec<String> {
        let of = &of;
        let registering = (from..to).map(|number| async move {
            let id = self.registry.service(&format!("consumer-{number}")).await;
            for provider in of(number) {
                // The find records the dependency, so that a watch of this consumer covers the provider.
                self.registry.find(&id, &provider_name(provider), "").await.ok();
            }
            id
        });
        // `buffered` keeps the order: benches address consumers by their number.
        stream::iter(registering).buffered(AT_ONCE).collect().await
    }

    /// CPU seconds of the gateway so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn gateway_cpu(&self) -> Result<f64> {
        usage::cpu_seconds(self.world.gateways[0].process.pid())
    }

    /// Resident bytes of the gateway.
    ///
    /// # Errors
    /// When it has ended.
    pub fn gateway_resident(&self) -> Result<f64> {
        usage::resident(self.world.gateways[0].process.pid())
    }

    /// CPU seconds of the control plane so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn control_plane_cpu(&self) -> Result<f64> {
        usage::cpu_seconds(self.world.control_planes[0].process.pid())
    }
}

impl Provider {
    /// Changes made.
    pub fn changes(&self) -> u64 {
        self.seq
    }

    /// Its instances report this property, too, with every change from now on.
    pub fn report(&mut self, name: &str, value: &str) {
        self.reported.insert(name.to_owned(), value.into());
    }

    /// The id of the instance with this number.
    ///
    /// # Panics
    /// When the provider has fewer.
    pub fn instance(&self, number: usize) -> &str {
        &self.instances[number]
    }

    /// The stamp of the next change, which is asked for now.
    pub fn next_stamp(&mut self) -> Stamp {
        self.seq += 1;
        Stamp { provider: self.number, seq: self.seq, at: self.clock.micros() }
    }

    /// Changes the properties of the first instance through the API.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn change(&mut self, registry: &Client) {
        let path = format!("/microservices/{}/instances/{}/properties", self.id, self.instances[0]);
        let stamp = self.next_stamp();
        let body = json!({ "properties": self.properties(&stamp) });
        registry.call("PUT", &path, "", &body).await.ok();
    }

    /// Makes a burst: `changes` changes, to one instance after another and then to the same ones again, in as
    /// few transactions as etcd takes.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn burst(&mut self, etcd: &mut etcd_client::Client, changes: usize) -> Result<()> {
        let at_once = self.instances.len().min(TRANSACTION);
        let mut left = changes;
        while left > 0 {
            let count = left.min(at_once);
            let mut puts = Vec::with_capacity(count);
            for n in 0..count {
                let stamp = self.next_stamp();
                let instance = &self.instances[n];
                let service = &self.id;
                let value = json!({"instanceId": instance, "serviceId": service, "hostName": "node",
                    "endpoints": [format!("rest://10.0.0.1:80/{instance}")], "status": "UP",
                    "properties": self.properties(&stamp), "version": "1.0.0",
                    "healthCheck": {"mode": "push", "interval": INTERVAL, "times": 1},
                    "timestamp": "1700000000", "modTimestamp": (stamp.at / 1_000_000).to_string()});
                let key = format!("{INSTANCES}{service}/{instance}");
                // The instance keeps its lease, so the change looks to every reader like one made through the
                // API.
                puts.push(TxnOp::put(key, value.to_string(), Some(PutOptions::new().with_ignore_lease())));
            }
            etcd.txn(Txn::new().and_then(puts)).await?;
            left -= count;
        }
        Ok(())
    }

    fn properties(&self, stamp: &Stamp) -> Value {
        let mut properties = stamp.properties();
        if let Value::Object(properties) = &mut properties {
            properties.extend(self.reported.clone());
        }
        properties
    }
}

/// Registers providers `0..count` with one instance each, some at a time.
pub async fn providers(stage: &Stage, count: u32) -> Vec<Provider> {
    stream::iter((0..count).map(|number| stage.provider(number, 1))).buffered(AT_ONCE).collect().await
}

/// A client of the stage's etcd.
///
/// # Errors
/// When it does not answer.
pub async fn etcd(stage: &Stage) -> Result<etcd_client::Client> {
    etcd_client::Client::connect([stage.world.etcd.endpoint()], None).await.context("etcd")
}

fn provider_name(number: u32) -> String {
    format!("provider-{number}")
}
