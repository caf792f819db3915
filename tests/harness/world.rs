//! A whole system: etcd, NATS, control planes and gateways as their real programs.

use std::net::SocketAddr;

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
}

/// One of our programs and where it listens.
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub api: SocketAddr,
    /// Where it tells its state.
    pub admin: SocketAddr,
    /// Its own way to the bus, in a world of links.
    pub bus: Option<Link>,
    /// Its own way to the store, in a world of links; control planes only.
    pub store: Option<Link>,
}

/// Settings beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Tuning<'a> {
    /// Flags of control planes.
    pub control_plane: &'a [(&'a str, &'a str)],
    /// Flags of gateways.
    pub gateway: &'a [(&'a str, &'a str)],
    /// Environment of our programs.
    pub environment: &'a [(&'a str, &'a str)],
    /// Arguments of etcd.
    pub etcd: &'a [&'a str],
    /// The configuration of nats-server.
    pub nats: &'a str,
}

impl World {
    /// Starts a system and waits until every part of it is ready.
    pub async fn start(control_planes: usize, gateways: usize) -> Self {
        Self::start_with(control_planes, gateways, &[]).await
    }

    /// Like [`World::start`], with variables in the environment of our programs.
    pub async fn start_with(control_planes: usize, gateways: usize, environment: &[(&str, &str)]) -> Self {
        let (etcd, nats) = tokio::join!(Etcd::start(), Nats::start());
        let (store, bus) = (format!("http://{}", etcd.endpoint()), nats.url());
        let prepare = |program, flags: &[(&str, &str)]| {
            let node = Node::prepare(program, flags);
            let process = environment.iter().fold(node.process, |it, (name, value)| it.env(name, value));
            Node { process, ..node }
        };
        let planes = || prepare("control-plane", &[("--etcd", &store), ("--nats", &bus)]);
        let control_planes: Vec<Node> = (0..control_planes).map(|_| planes()).collect();
        let urls: Vec<String> = control_planes.iter().map(|node| format!("http://{}", node.api)).collect();
        let urls = urls.join(",");
        let flags = [("--nats", bus.as_str()), ("--control-plane", &urls), ("--drain-over", "1s")];
        let gateways: Vec<Node> = (0..gateways).map(|_| prepare("edge-gateway", &flags)).collect();
        let world = Self { etcd, nats, control_planes, gateways };
        let nodes = || world.control_planes.iter().chain(&world.gateways);
        nodes().for_each(|node| node.process.start());
        for node in nodes() {
            node.ready().await;
        }
        world
    }

    /// Like [`World::start`], with etcd and NATS reached under other addresses, such as links that can be cut.
    pub async fn start_on(
        etcd: Etcd,
        nats: Nats,
        store: &str,
        bus: &str,
        control_planes: usize,
        gateways: usize,
    ) -> Self {
        let store = if store.contains("://") { store.to_owned() } else { format!("http://{store}") };
        let control_planes: Vec<Node> = (0..control_planes)
            .map(|_| Node::prepare("control-plane", &[("--etcd", &store), ("--nats", bus)]))
            .collect();
        let urls: Vec<String> = control_planes.iter().map(|node| format!("http://{}", node.api)).collect();
        let urls = urls.join(",");
        let gateways: Vec<Node> = (0..gateways)
            .map(|_| {
                let flags = [("--nats", bus), ("--control-plane", &urls), ("--drain-over", "1s")];
                Node::prepare("edge-gateway", &flags)
            })
            .collect();
        for node in control_planes.iter().chain(&gateways) {
            node.process.start();
        }
        for node in control_planes.iter().chain(&gateways) {
            node.ready().await;
        }
        Self { etcd, nats, control_planes, gateways }
    }

    /// Starts a system of one control plane and one gateway without links, with settings beyond the usual.
    pub async fn tuned(control_plane_flags: &[(&str, &str)], gateway_flags: &[(&str, &str)]) -> Self {
        let (etcd, nats) = tokio::join!(Etcd::start(), Nats::start());
        let (store, bus) = (format!("http://{}", etcd.endpoint()), nats.url());
        let mut flags = vec![("--etcd", store.as_str()), ("--nats", &bus)];
        flags.extend(control_plane_flags);
        let control_plane = Node::prepare("control-plane", &flags);
        let url = format!("http://{}", control_plane.api);
        let mut flags = vec![("--nats", bus.as_str()), ("--control-plane", &url), ("--drain-over", "1s")];
        flags.extend(gateway_flags);
        let gateway = Node::prepare("edge-gateway", &flags);
        control_plane.process.start();
        gateway.process.start();
        control_plane.ready().await;
        gateway.ready().await;
        Self { etcd, nats, control_planes: vec![control_plane], gateways: vec![gateway] }
    }

    /// Starts a system in which every program has links of its own to the store and the bus.
    pub async fn linked(control_planes: usize, gateways: usize, tuning: &Tuning<'_>) -> Self {
        let (etcd, nats) = tokio::join!(Etcd::start_with(tuning.etcd), Nats::configured(tuning.nats));
        let prepare = |program: &str, flags: &[(&str, &str)]| {
            let mut node = Node::prepare(program, flags);
            for (name, value) in tuning.environment {
                node.process = node.process.env(*name, *value);
            }
            node
        };
        let mut planes = Vec::new();
        for _ in 0..control_planes {
            let (store, bus) = (Link::to(etcd.endpoint()).await, Link::to_bus(nats.endpoint()).await);
            let (etcd, nats) = (format!("http://{}", store.endpoint()), format!("nats://{}", bus.endpoint()));
            let mut flags = vec![("--etcd", etcd.as_str()), ("--nats", &nats)];
            flags.extend(tuning.control_plane);
            let node = prepare("control-plane", &flags);
            planes.push(Node { store: Some(store), bus: Some(bus), ..node });
        }
        let urls: Vec<String> = planes.iter().map(|node| format!("http://{}", node.api)).collect();
        let urls = urls.join(",");
        let mut edges = Vec::new();
        for _ in 0..gateways {
            let bus = Link::to_bus(nats.endpoint()).await;
            let nats = format!("nats://{}", bus.endpoint());
            let mut flags =
                vec![("--nats", nats.as_str()), ("--control-plane", &urls), ("--drain-over", "1s")];
            flags.extend(tuning.gateway);
            edges.push(Node { bus: Some(bus), ..prepare("edge-gateway", &flags) });
        }
        let world = Self { etcd, nats, control_planes: planes, gateways: edges };
        let nodes = || world.control_planes.iter().chain(&world.gateways);
        nodes().for_each(|node| node.process.start());
        for node in nodes() {
            node.ready().await;
        }
        world
    }

    /// The control plane that publishes.
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

    /// A client of a gateway.
    pub fn client(&self, gateway: usize) -> Client {
        Client::new(self.gateways[gateway].api)
    }

    /// A watch of a consumer on a gateway.
    pub async fn watch(&self, gateway: usize, consumer: &str) -> Watcher {
        Watcher::connect(self.gateways[gateway].api, consumer).await
    }
}

impl Node {
    /// A program on ports of its own, to be started.
    fn prepare(program: &str, flags: &[(&str, &str)]) -> Self {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (api, admin) = (local(port::free()), local(port::free()));
        let mut arguments =
            vec!["--listen".to_owned(), api.to_string(), "--admin-listen".into(), admin.to_string()];
        arguments.extend(flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]));
        Self { process: Process::ours(program).args(arguments), api, admin, bus: None, store: None }
    }

    /// Waits until it says that it may be given work.
    pub async fn ready(&self) {
        let admin = Client::new(self.admin);
        eventually(&format!("{} is ready", self.api), || async {
            assert!(self.process.is_running(), "{} has ended", self.api);
            (admin.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
    }

    /// A figure of its metrics: the sum over all series of a name whose labels contain `labels`.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        self.try_metric(name, labels).await.unwrap_or_else(|| panic!("no answer: {}", self.admin))
    }

    /// Like [`Node::metric`]; `None` when it does not answer.
    pub async fn try_metric(&self, name: &str, labels: &str) -> Option<f64> {
        let text = Client::new(self.admin).try_get("/metrics").await?.text();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        });
        Some(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}
