//! A real etcd of one member.

use std::ops::Deref;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::{eventually, port};

/// An etcd with data and ports of its own. Killed when dropped.
pub struct Etcd {
    process: Process,
    port: u16,
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
        let (port, peer) = (port::free(), port::free());
        let (client_url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let process = Process::installed("etcd", "etcd-server")
            .args(["--data-dir", "data", "--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args(arguments.iter().copied());
        let etcd = Self { process, port };
        etcd.restart().await;
        etcd
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
            let mut stream = TcpStream::connect(self.endpoint()).await?;
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
