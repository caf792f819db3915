//! The server under test: one of our own for the run, or any by address.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};

use harness::{Answer, Client, Process, eventually, port};
use parking_lot::Mutex;

use crate::document::Document;

/// Names the server to be tested.
const SERVER: &str = "MUSTER_CONFORMANCE_SERVER";

/// A server, and what it documents.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    client: Client,
    document: Option<Mutex<Document>>,
    domains: AtomicU64,
    run: u64,
    /// Ends with the run.
    _process: Option<Process>,
}

impl Server {
    /// The server that was named, else one of our own.
    pub(crate) async fn start() -> Self {
        let named = std::env::var(SERVER).ok().filter(|named| !named.is_empty());
        let (address, process) = match named {
            Some(named) => (resolve(&named), None),
            None => {
                let address = port::local();
                let flags = ["standalone", "--data-dir", "data", "--listen"];
                let process = Process::ours("muster").args(flags).args([address.to_string()]);
                process.start();
                (address, Some(process))
            }
        };
        let client = Client::new(address);
        eventually("the server answers", || async {
            assert!(process.as_ref().is_none_or(Process::is_running), "it has ended");
            // A node that has just begun is not registered in itself yet.
            let answer = client.try_get("/v4/default/registry/health").await?;
            answer.text().contains("instances").then_some(())
        })
        .await;
        let json = client.get("/openapi.json").await;
        let document = (json.status == 200).then(|| Mutex::new(Document::read(&json.body)));
        Self {
            address,
            client,
            document,
            domains: AtomicU64::new(0),
            // A server by address may still hold the services of an earlier run, so each run has domains of
            // its own.
            run: fastrand::u64(..),
            _process: process,
        }
    }

    /// A domain that nobody used before.
    pub(crate) fn domain(&self) -> String {
        format!("conformance-{:x}-{}", self.run, self.domains.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a request. The answer is held against the document.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let sent = self.client.try_send(method, path, headers, body).await;
        let answer = sent.ok_or_else(|| format!("no answer: {method} {path}"))?;
        if let Some(document) = &self.document {
            let noted = document.lock().note(method, path, &answer);
            noted.map_err(|e| format!("{method} {path}: {e}: {} {}", answer.status, answer.text()))?;
        }
        Ok(answer)
    }

    /// Promises of the document that no case has seen.
    pub(crate) fn unseen(&self) -> Vec<String> {
        self.document.as_ref().map(|document| document.lock().unseen()).unwrap_or_default()
    }
}

fn resolve(named: &str) -> SocketAddr {
    let host = named.strip_prefix("http://").unwrap_or(named).trim_end_matches('/');
    let mut found = host
        .to_socket_addrs()
        .unwrap_or_else(|e| panic!("{SERVER}={named}: {e}; http://host:port is expected"));
    found.next().unwrap_or_else(|| panic!("{SERVER}={named}: no such host"))
}
