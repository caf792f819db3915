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
    /// Starts a server and waits until it greets.
    ///
    /// # Panics
    /// When nats-server is not installed or does not start.
    pub async fn start() -> Self {
        Self::launch(&[], None).await
    }

    /// Starts a server with these further arguments and, if there is one, this configuration file.
    ///
    /// # Panics
    /// When nats-server is not installed or does not start.
    pub async fn launch(arguments: &[&str], configuration: Option<&str>) -> Self {
        let port = port::free();
        let mut process = Process::installed("nats-server", "nats-server")
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .args(arguments.iter().copied());
        if let Some(text) = configuration {
            let file = process.directory().join("nats.conf");
            std::fs::write(&file, text).expect("the directory of a process is writable");
            process = process.args(["--config".into(), file.into_os_string()]);
        }
        let nats = Self { process, port };
        nats.restart().await;
        nats
    }

    /// Starts the server again on the same port and waits until it greets.
    pub async fn restart(&self) {
        self.process.start();
        eventually("nats-server greets", || async {
            assert!(self.process.is_running(), "nats-server has ended");
            // An open port is not enough: the kernel accepts connections before the server reads them.
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
