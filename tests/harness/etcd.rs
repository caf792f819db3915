//! A real etcd of one member.

use std::ops::Deref;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::Authority;
use crate::process::Process;
use crate::{eventually, port};

/// An etcd with data and ports of its own. Killed when dropped.
pub struct Etcd {
    process: Process,
    port: u16,
    /// Its health is told on a port of its own, without TLS.
    health: u16,
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
        let etcd = Self::prepare("http", arguments);
        etcd.restart().await;
        etcd
    }

    /// Starts one that speaks TLS and asks its clients for a certificate of the same authority.
    ///
    /// # Panics
    /// When etcd is not installed or does not start.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        let files = ["--trusted-ca-file", "ca.pem", "--cert-file", "etcd.pem", "--key-file", "etcd.key"];
        let etcd = Self::prepare("https", &[&files[..], &["--client-cert-auth"]].concat());
        let identity = authority.issue(&["localhost", "127.0.0.1"]);
        let contents = [authority.certificate_pem(), identity.certificate_pem, identity.key_pem];
        for (file, content) in ["ca.pem", "etcd.pem", "etcd.key"].iter().zip(contents) {
            std::fs::write(etcd.directory().join(file), content).expect("a writable directory");
        }
        etcd.restart().await;
        etcd
    }

    fn prepare(scheme: &str, arguments: &[&str]) -> Self {
        let (port, peer, health) = (port::free(), port::free(), port::free());
        let client_url = format!("{scheme}://127.0.0.1:{port}");
        let [peer_url, health_url] = [peer, health].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Process::installed("etcd", "etcd-server")
            .args(["--data-dir", "data", "--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--listen-metrics-urls", &health_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args(arguments.iter().copied());
        Self { process, port, health }
    }

    /// Starts it again on the same port and data, and waits until it is healthy.
    pub async fn restart(&self) {
        self.process.start();
        eventually("etcd is healthy", || async {
            assert!(self.process.is_running(), "etcd has ended");
            self.is_healthy().await.then_some(())
        })
        .await;
    }

    /// `host:port` of its clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn is_healthy(&self) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.health)).await?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        asked.await.is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }
}

impl Deref for Etcd {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}
