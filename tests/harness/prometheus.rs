//! A real Prometheus with our rules, which scrapes what a test starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::process::Process;
use crate::{Client, eventually, port};

/// A Prometheus on a port and in a directory of its own. Killed when dropped.
pub struct Prometheus {
    process: Process,
    client: Client,
}

/// The files of `grafana/` that Prometheus reads.
pub fn rule_files() -> [PathBuf; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana");
    let folder = folder.canonicalize().expect("the repository has a folder grafana");
    [folder.join("rules.yml"), folder.join("alerts.yml")]
}

impl Prometheus {
    /// Starts one that scrapes these targets, by job, each second, and waits until it answers.
    ///
    /// # Panics
    /// When Prometheus is not installed or does not start.
    pub async fn start(jobs: &[(&str, Vec<SocketAddr>)]) -> Self {
        let address = port::local();
        let process = Process::installed("prometheus", "prometheus").args([
            "--config.file=prometheus.yml".to_owned(),
            "--storage.tsdb.path=data".to_owned(),
            format!("--web.listen-address={address}"),
        ]);
        let mut config = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files:\n".to_owned();
        for file in rule_files() {
            config += &format!("  - {}\n", file.display());
        }
        config += "scrape_configs:\n";
        for (job, targets) in jobs {
            let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
            let targets = targets.join(", ");
            config += &format!("  - {{job_name: {job}, static_configs: [{{targets: [{targets}]}}]}}\n");
        }
        std::fs::write(process.directory().join("prometheus.yml"), config).expect("a file is written");
        process.start();
        let prometheus = Self { process, client: Client::new(address) };
        eventually("Prometheus is ready", || async {
            assert!(prometheus.process.is_running(), "Prometheus has ended");
            (prometheus.client.try_get("/-/ready").await?.status == 200).then_some(())
        })
        .await;
        prometheus
    }

    /// The series that answer a query now, with their values.
    ///
    /// # Errors
    /// The error text of Prometheus for a query that it cannot answer.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/query?query={}", utf8_percent_encode(query, NON_ALPHANUMERIC));
        let answer: Value =
            serde_json::from_slice(&self.client.get(&path).await.body).map_err(|e| e.to_string())?;
        match answer["data"]["result"].as_array() {
            Some(series) => Ok(series.clone()),
            None => Err(answer["error"].as_str().unwrap_or("no answer").to_owned()),
        }
    }

    /// The rules with their state.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = self.client.get("/api/v1/rules").await.ok();
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }
}
