//! A gateway on a real NATS server, which stops and starts again.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use bus::{Bus as _, NatsBus, NatsConfig};
use host::lifecycle::Tasks;
use shared::event::Action::{Create, Update};

use crate::world::{PATIENCE, World, config};

struct Server(Child);

impl Server {
    fn start(port: u16) -> Self {
        let mut command = Command::new("nats-server");
        command
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("nats-server is installed"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("still ours");
        self.0.wait().expect("still ours");
    }
}

#[tokio::test]
async fn watchers_catch_up_after_the_server_was_away() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let server = Server::start(port);
    let nats = NatsConfig::new(vec![format!("nats://127.0.0.1:{port}")], "test");
    let bus = NatsBus::connect(nats, &Tasks::new()).await.expect("a good configuration");
    let connected = async |wanted: bool| {
        let mut link = bus.link();
        let waiting = link.wait_for(|link| link.connected == wanted);
        tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("the bus lives");
    };
    connected(true).await;
    let world = World::on_bus(config(), bus.clone()).await;
    world.control_plane.consumer("c", &["p"]);
    let mut watcher = world.watch("c").await;
    let event = world.control_plane.change("p", Create, "1").await;
    watcher.expect(&event).await;
    drop(server);
    connected(false).await;
    let unheard: Vec<_> = (0..5).map(|_| world.control_plane.commit("p", Update, "1")).collect();
    let _server = Server::start(port);
    for event in &unheard {
        watcher.expect(event).await;
    }
    world.change_reaches(&mut watcher, "p", Update, "1").await;
    // Watchers that come after the outage are served as well.
    let mut late = world.watch("c").await;
    let event = world.control_plane.change("p", Update, "1").await;
    late.expect(&event).await;
    watcher.expect(&event).await;
}
