//! A real nats-server.

use std::ops::Deref;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::{eventually, port};

/// A nats-server with a port of its own, without JetStream. Killed when dropped.
pub struct Nats {
    process: Process,
    port: u16,
}

impl Nats {
    /// Starts one and waits until it greets.
    ///
    /// # Panics
    /// When nats-server is not installed or does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with this configuration.
    ///
    /// # Panics
    /// When nats-server is not installed or does not start.
    pub async fn configured(configuration: &str) -> Self {
        let port = port::free();
        let process = Process::installed("nats-server", "nats-server").args([
            "--addr",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--config",
            "nats.conf",
        ]);
        std::fs::write(process.directory().join("nats.conf"), configuration).expect("a writable directory");
        let nats = Self { process, port };
        nats.restart().await;
        nats
    }

    /// Starts one with more arguments.
    ///
    /// # Panics
    /// When nats-server is not installed or does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let port = port::free();
        let process = Process::installed("nats-server", "nats-server")
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .args(arguments.iter().copied());
        let nats = Self { process, port };
        nats.restart().await;
        nats
    }

    /// Starts it again on the same port and waits until it greets.
    pub async fn restart(&self) {
        self.process.start();
        eventually("nats-server greets", || async {
            assert!(self.process.is_running(), "nats-server has ended");
            let stream = TcpStream::connect(self.endpoint()).await.ok()?;
            let mut greeting = String::new();
            BufReader::new(stream).read_line(&mut greeting).await.ok()?;
            greeting.starts_with("INFO ").then_some(())
        })
        .await;
    }

    /// `host:port` of its clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of its clients.
    pub fn url(&self) -> String {
        format!("nats://{}", self.endpoint())
    }
}

impl Deref for Nats {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}
