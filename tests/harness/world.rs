//! A whole system: etcd, NATS, control planes and gateways as their real programs.

use std::net::SocketAddr;

use crate::{Client, Etcd, Nats, Process, Watcher, eventually, port};

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
}

impl World {
    /// Starts a system and waits until every part of it is ready.
    pub async fn start(control_planes: usize, gateways: usize) -> Self {
        let (etcd, nats) = tokio::join!(Etcd::start(), Nats::start());
        let (store, bus) = (etcd.endpoint(), nats.url());
        Self::start_on(etcd, nats, &store, &bus, control_planes, gateways).await
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
        Self { process: Process::ours(program).args(arguments), api, admin }
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
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = Client::new(self.admin).get("/metrics").await.text();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        });
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
