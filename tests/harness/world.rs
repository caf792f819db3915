//! A whole system: etcd, NATS, control planes and gateways as their real programs.
//!
//! `World::with()` begins a plan: how many processes, with which settings. `start()` turns the plan into
//! processes and returns when each of them has reported that it is ready.

use std::net::SocketAddr;

use host::telemetry::scrape::Scrape;
use tempfile::TempDir;

use crate::{Client, Etcd, Link, Nats, Process, Watcher, eventually, port};

/// The processes of a system. All of them end with it.
pub struct World {
    /// The store.
    pub etcd: Etcd,
    /// The bus.
    pub nats: Nats,
    /// The control planes.
    pub control_planes: Vec<Node>,
    /// The gateways, each of which knows all control planes.
    pub gateways: Vec<Node>,
    /// The key of the messages on the bus, in a world that signs them. Programs that restart read it again.
    _key: Option<TempDir>,
}

/// One of our programs, with its addresses.
pub struct Node {
    /// The process.
    pub process: Process,
    /// The address of its clients.
    pub api: SocketAddr,
    /// The address of its admin port.
    pub admin: SocketAddr,
    /// The address of its server of DNS; gateways in a world with DNS only.
    pub dns: Option<SocketAddr>,
    /// Its own link to the bus, in a world of links.
    pub bus: Option<Link>,
    /// Its own link to the store, in a world of links; control planes only.
    pub store: Option<Link>,
}

/// A world that has not been started: one control plane and one gateway, unless more are wanted.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Plan {
    planes: usize,
    gateways: usize,
    linked: bool,
    dns: bool,
    signed: bool,
    plane_flags: Vec<(String, String)>,
    gateway_flags: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    etcd_arguments: Vec<String>,
    nats_configuration: Option<String>,
}

impl Plan {
    /// Sets the number of control planes.
    pub fn planes(mut self, count: usize) -> Self {
        self.planes = count;
        self
    }

    /// Sets the number of gateways.
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// Gives every program links of its own to the store and the bus, to be cut, frozen or slowed.
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Lets every gateway answer DNS.
    pub fn dns(mut self) -> Self {
        self.dns = true;
        self
    }

    /// Lets all processes sign their messages on the bus, and drop those that are not signed.
    pub fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    /// Adds a flag to every control plane.
    pub fn plane_flag(mut self, flag: &str, value: &str) -> Self {
        self.plane_flags.push((flag.into(), value.into()));
        self
    }

    /// Adds a flag to every gateway.
    pub fn gateway_flag(mut self, flag: &str, value: &str) -> Self {
        self.gateway_flags.push((flag.into(), value.into()));
        self
    }

    /// Sets a variable in the environment of our programs.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds an argument of etcd.
    pub fn etcd_argument(mut self, argument: &str) -> Self {
        self.etcd_arguments.push(argument.into());
        self
    }

    /// Sets the configuration file of nats-server.
    pub fn nats_configuration(mut self, text: &str) -> Self {
        self.nats_configuration = Some(text.into());
        self
    }

    /// Starts the processes and waits until every part of the system is ready.
    ///
    /// # Panics
    /// When a program is missing, or is not ready within the deadline.
    pub async fn start(mut self) -> World {
        let key = self.signed.then(|| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let file = directory.path().join("keys");
            // As random as a test needs it: another world's messages are not genuine here.
            let key = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
            std::fs::write(&file, key).expect("a writable directory");
            let flag = ("--nats-signing-keys".to_owned(), file.display().to_string());
            self.plane_flags.push(flag.clone());
            self.gateway_flags.push(flag);
            directory
        });
        let etcd_arguments: Vec<&str> = self.etcd_arguments.iter().map(String::as_str).collect();
        let (etcd, nats) = tokio::join!(
            Etcd::start_with(&etcd_arguments),
            Nats::launch(&[], self.nats_configuration.as_deref())
        );
        let mut control_planes = Vec::new();
        for _ in 0..self.planes {
            control_planes.push(self.control_plane(&etcd, &nats).await);
        }
        let urls: Vec<String> = control_planes.iter().map(|node| format!("http://{}", node.api)).collect();
        let mut gateways = Vec::new();
        for _ in 0..self.gateways {
            gateways.push(self.gateway(&nats, &urls.join(",")).await);
        }
        let world = World { etcd, nats, control_planes, gateways, _key: key };
        // All start before any is waited for: they must come up in whatever order the machine runs them.
        for node in world.nodes() {
            node.process.start();
        }
        for node in world.nodes() {
            node.ready().await;
        }
        world
    }

    async fn control_plane(&self, etcd: &Etcd, nats: &Nats) -> Node {
        let store = if self.linked { Some(Link::to(etcd.endpoint()).await) } else { None };
        let store_endpoint = store.as_ref().map_or_else(|| etcd.endpoint(), Link::endpoint);
        let (bus, nats_url) = self.way_to_bus(nats).await;
        let mut flags = vec![("--etcd", format!("http://{store_endpoint}")), ("--nats", nats_url)];
        flags.extend(self.plane_flags.iter().map(|(flag, value)| (flag.as_str(), value.clone())));
        Node { store, bus, ..self.prepare("control-plane", &flags) }
    }

    async fn gateway(&self, nats: &Nats, control_planes: &str) -> Node {
        let (bus, nats_url) = self.way_to_bus(nats).await;
        let mut flags = vec![("--nats", nats_url), ("--control-plane", control_planes.to_owned())];
        flags.extend(self.gateway_flags.iter().map(|(flag, value)| (flag.as_str(), value.clone())));
        // The default drain takes half a minute, and most tests end with a drain of every gateway. No load
        // balancer is there that had to be waited for.
        for (quick, value) in [("--drain-over", "1s"), ("--drain-delay", "0s")] {
            if !flags.iter().any(|(flag, _)| *flag == quick) {
                flags.push((quick, value.into()));
            }
        }
        let dns = self.dns.then(port::local);
        if let Some(dns) = dns {
            flags.push(("--dns-listen", dns.to_string()));
        }
        Node { bus, dns, ..self.prepare("edge-gateway", &flags) }
    }

    /// The link to the bus, in a world of links, and the URL under which a program reaches the bus.
    async fn way_to_bus(&self, nats: &Nats) -> (Option<Link>, String) {
        if self.linked {
            let link = Link::to_bus(nats.endpoint()).await;
            let url = format!("nats://{}", link.endpoint());
            (Some(link), url)
        } else {
            (None, nats.url())
        }
    }

    /// A program on ports of its own, to be started.
    fn prepare(&self, program: &str, flags: &[(&str, String)]) -> Node {
        // Not port 0: a program must come back on the same address after a restart.
        let api = port::local();
        let admin = port::local();
        let addresses = [("--listen", api.to_string()), ("--admin-listen", admin.to_string())];
        let mut process = Process::ours(program);
        for (flag, value) in addresses.iter().chain(flags) {
            process = process.args([*flag, value.as_str()]);
        }
        for (name, value) in &self.environment {
            process = process.env(name, value);
        }
        Node { process, api, admin, dns: None, bus: None, store: None }
    }
}

/// A consumer that has found its provider, and a watcher of the consumer: how most tests begin.
pub struct Pair {
    /// The id of the service `cart`, which depends on `order`.
    pub consumer: String,
    /// The id of the service `order`.
    pub provider: String,
    /// A watch of the consumer.
    pub watcher: Watcher,
}

impl World {
    /// Plans a world of one control plane and one gateway.
    pub fn with() -> Plan {
        Plan {
            planes: 1,
            gateways: 1,
            linked: false,
            dns: false,
            signed: false,
            plane_flags: Vec::new(),
            gateway_flags: Vec::new(),
            environment: Vec::new(),
            etcd_arguments: Vec::new(),
            nats_configuration: None,
        }
    }

    /// Registers a consumer and its provider and opens a watch on this gateway. The provider has no instance.
    pub async fn pair(&self, gateway: usize) -> Pair {
        self.pair_of(gateway, &[]).await
    }

    /// Like [`World::pair`], with these instances of the provider registered before the watch is opened, so
    /// that the watcher is not sent them.
    pub async fn pair_of(&self, gateway: usize, instances: &[&str]) -> Pair {
        let client = self.client(0);
        let consumer = client.service("cart").await;
        let provider = client.service("order").await;
        for instance in instances {
            client.instance(&provider, instance).await;
        }
        client.find(&consumer, "order", "").await.ok();
        let watcher = self.watch(gateway, &consumer).await;
        Pair { consumer, provider, watcher }
    }

    /// Our programs: control planes first, then gateways.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.control_planes.iter().chain(&self.gateways)
    }

    /// Waits until one of the control planes publishes, and returns that one.
    pub async fn publisher(&self) -> &Node {
        eventually("a control plane publishes", || async {
            for node in &self.control_planes {
                if node.process.is_running()
                    && node.try_metric("muster_publisher_active", "").await == Some(1.0)
                {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Returns a client of this gateway.
    pub fn client(&self, gateway: usize) -> Client {
        Client::new(self.gateways[gateway].api)
    }

    /// Opens a watch of a consumer on this gateway.
    pub async fn watch(&self, gateway: usize, consumer: &str) -> Watcher {
        Watcher::connect(self.gateways[gateway].api, consumer).await
    }
}

impl Node {
    /// Waits until its admin port reports that it may be given work.
    pub async fn ready(&self) {
        let admin = Client::new(self.admin);
        eventually(&format!("{} is ready", self.api), || async {
            assert!(self.process.is_running(), "{} has ended", self.api);
            (admin.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
    }

    /// Sums one of its metrics over all series that have `labels`, written as in `/metrics`:
    /// `limit="memory"`.
    ///
    /// # Panics
    /// When the process does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        self.try_metric(name, labels).await.unwrap_or_else(|| panic!("no answer: {}", self.admin))
    }

    /// Like [`Node::metric`]; `None` when the process does not answer.
    pub async fn try_metric(&self, name: &str, labels: &str) -> Option<f64> {
        let text = Client::new(self.admin).try_get("/metrics").await?.text();
        // A counter that has not counted yet has no series.
        Some(Scrape::parse(&text).sum(name, labels).unwrap_or(0.0))
    }
}
