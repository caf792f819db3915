//! A real etcd, of one member or several.

use std::ops::Deref;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::Authority;
use crate::process::Process;
use crate::{eventually, port};

/// An etcd with data and ports of its own. Killed when dropped.
pub struct Etcd {
    process: Process,
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    peer: u16,
    /// Its health is told on a port of its own, without TLS.
    health: u16,
}

impl Ports {
    fn free() -> Self {
        Self { client: port::free(), peer: port::free(), health: port::free() }
    }

    /// The member as its peers know it.
    fn member(&self, name: &str) -> String {
        format!("{name}=http://127.0.0.1:{}", self.peer)
    }
}

impl Etcd {
    /// Starts one and waits until it is healthy.
    ///
    /// # Panics
    /// When etcd is not installed or does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with more arguments.
    ///
    /// # Panics
    /// When etcd is not installed or does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let etcd = Self::single("http", arguments);
        etcd.restart().await;
        etcd
    }

    /// Starts a cluster and waits until each member is healthy.
    ///
    /// # Panics
    /// When etcd is not installed or does not start.
    pub async fn start_cluster(size: usize) -> Vec<Self> {
        let members: Vec<_> = (0..size).map(|n| (format!("member-{n}"), Ports::free())).collect();
        let cluster = members.iter().map(|(name, ports)| ports.member(name)).collect::<Vec<_>>().join(",");
        let members: Vec<_> =
            members.iter().map(|(name, ports)| Self::prepare("http", name, *ports, &cluster, &[])).collect();
        members.iter().for_each(|member| member.process.start());
        for member in &members {
            member.wait_until_healthy().await;
        }
        members
    }

    /// Starts one that speaks TLS and asks its clients for a certificate of the same authority.
    ///
    /// # Panics
    /// When etcd is not installed or does not start.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        let files = ["--trusted-ca-file", "ca.pem", "--cert-file", "etcd.pem", "--key-file", "etcd.key"];
        let etcd = Self::single("https", &[&files[..], &["--client-cert-auth"]].concat());
        let identity = authority.issue(&["localhost", "127.0.0.1"]);
        let contents = [authority.certificate_pem(), identity.certificate_pem, identity.key_pem];
        for (file, content) in ["ca.pem", "etcd.pem", "etcd.key"].iter().zip(contents) {
            std::fs::write(etcd.directory().join(file), content).expect("a writable directory");
        }
        etcd.restart().await;
        etcd
    }

    fn single(scheme: &str, arguments: &[&str]) -> Self {
        let ports = Ports::free();
        Self::prepare(scheme, "single", ports, &ports.member("single"), arguments)
    }

    fn prepare(scheme: &str, name: &str, ports: Ports, cluster: &str, arguments: &[&str]) -> Self {
        let client_url = format!("{scheme}://127.0.0.1:{}", ports.client);
        let [peer_url, health_url] =
            [ports.peer, ports.health].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Process::installed("etcd", "etcd-server")
            .args(["--name", name, "--data-dir", "data", "--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--listen-metrics-urls", &health_url, "--initial-cluster", cluster])
            .args(arguments.iter().copied());
        Self { process, ports }
    }

    /// Starts it again on the same port and data, and waits until it is healthy.
    pub async fn restart(&self) {
        self.process.start();
        self.wait_until_healthy().await;
    }

    /// Copies its data aside; it is down meanwhile.
    ///
    /// # Panics
    /// When the data cannot be copied.
    pub async fn back_up(&self) {
        self.process.kill();
        copy(&self.directory().join("data"), &self.directory().join("backup"));
        self.restart().await;
    }

    /// Ends it, and starts it on what was copied aside.
    ///
    /// # Panics
    /// When there is no copy.
    pub async fn restore(&self) {
        self.process.kill();
        let data = self.directory().join("data");
        std::fs::remove_dir_all(&data).expect("its data");
        copy(&self.directory().join("backup"), &data);
        self.restart().await;
    }

    async fn wait_until_healthy(&self) {
        eventually("etcd is healthy", || async {
            assert!(self.process.is_running(), "etcd has ended");
            self.is_healthy().await.then_some(())
        })
        .await;
    }

    /// The id of the running process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `host:port` of its clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    async fn is_healthy(&self) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports.health)).await?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        asked.await.is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }
}

/// The flag that sets the pause between etcd's own reports of progress. It lost its prefix with 3.6, and 3.7
/// ends at once when the prefix is given.
///
/// # Panics
/// When etcd is not installed.
pub fn progress_interval_flag() -> &'static str {
    let help = Process::installed("etcd", "etcd-server").output_of(&["--help"]);
    if help.lines().any(|line| line.trim_start().starts_with("--watch-progress-notify-interval")) {
        "--watch-progress-notify-interval"
    } else {
        "--experimental-watch-progress-notify-interval"
    }
}

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable directory");
    for entry in std::fs::read_dir(from).expect("a readable directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), &target).expect("a readable file"),
        }
    }
}

impl Deref for Etcd {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}
