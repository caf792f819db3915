//! Operations on running processes: certificates, settings, drains.

use std::net::SocketAddr;
use std::path::Path;

use harness::port::local;
use harness::{Authority, Client, Etcd, Identity, Nats, Process, eventually};
use serde_json::json;

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    // Replaced at once, as tools that renew certificates do.
    let new = directory.join(format!("{name}.new"));
    std::fs::write(&new, text).expect("is written");
    std::fs::rename(&new, &path).expect("is replaced");
    path.display().to_string()
}

pub(crate) fn write_identity(directory: &Path, identity: &Identity) -> (String, String) {
    let key = write(directory, "key.pem", &identity.key_pem);
    (write(directory, "certificate.pem", &identity.certificate_pem), key)
}

/// Runs the command line to its end: its status, and everything it printed.
pub(crate) async fn muster(arguments: &[&str]) -> (i32, String) {
    let process = Process::ours("muster").args(arguments.iter().copied());
    process.start();
    let status = process.ended().await.expect("is not killed");
    (status, process.log())
}

/// `muster standalone` with a store of its own.
pub(crate) struct Registry {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    admin: SocketAddr,
}

impl Registry {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let api = local();
        let admin = local();
        let process = Process::ours("muster")
            .args(["standalone", "--data-dir", "data", "--listen", &api.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .args(arguments.iter().copied());
        let registry = Self { process, api, admin };
        registry.start_again().await;
        registry
    }

    pub(crate) async fn start_again(&self) {
        self.process.start();
        eventually("the registry is ready", || async {
            assert!(self.process.is_running(), "it has ended");
            (Client::new(self.admin).try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
    }

    async fn services(&self, flags: &[&str]) -> (i32, String) {
        let server = format!("https://{}", self.api);
        muster(&[&["services", "--server", &server], flags].concat()).await
    }

    async fn figure(&self, name: &str, label: &str) -> f64 {
        let text = Client::new(self.admin).try_get("/metrics").await.expect("answers").text();
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
        let line = line.unwrap_or_else(|| panic!("no {name} {label}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("is a number")
    }
}

const RELOADS: &str = "muster_config_reloads_total";
const APPLIED: &str = r#"result="applied""#;
const REFUSED: &str = r#"result="refused""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_tls_serves_only_clients_that_trust_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let ca = write(directory.path(), "ca.pem", &authority.certificate_pem());
    let stranger = write(directory.path(), "stranger.pem", &Authority::new().certificate_pem());
    let (certificate, key) = write_identity(directory.path(), &authority.issue(&["127.0.0.1"]));
    let registry = Registry::start(&["--tls-certificate", &certificate, "--tls-key", &key]).await;

    // Requests, and a push over wss.
    let server = format!("https://{}", registry.api);
    let (status, text) = muster(&["doctor", "--server", &server, "--ca", &ca]).await;
    assert!(status == 0 && text.contains("a change arrived after"), "{text}");

    let (status, text) = registry.services(&["--ca", &stranger]).await;
    assert!(status == 69 && text.contains("certificate"), "{status}: {text}");
    let answer = Client::new(registry.api).try_get("/ready").await.expect("an answer in plain HTTP");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (400, "this port expects TLS: use https:// or wss://")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_in_use_and_a_broken_one_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let old = Authority::new();
    let new = Authority::new();
    let of_old = write(directory.path(), "old.pem", &old.certificate_pem());
    let of_new = write(directory.path(), "new.pem", &new.certificate_pem());
    let (certificate, key) = write_identity(directory.path(), &old.issue_expired(&["127.0.0.1"]));
    let registry = Registry::start(&["--tls-certificate", &certificate, "--tls-key", &key]).await;
    let (status, text) = registry.services(&["--ca", &of_old]).await;
    assert!(status == 69 && text.contains("expired"), "{status}: {text}");
    let expiry = "muster_tls_certificate_expiry_timestamp_seconds";
    assert!(registry.figure(expiry, "").await < 1.1e9, "it ended in 2002");

    write(directory.path(), "certificate.pem", "junk");
    eventually("the junk is refused", || async {
        (registry.figure("muster_tls_reloads_total", REFUSED).await >= 1.0).then_some(())
    })
    .await;
    let (status, _) = registry.services(&["--ca", &of_old]).await;
    assert_eq!(status, 69, "the old one is still there");

    write_identity(directory.path(), &new.issue(&["127.0.0.1"]));
    eventually("the new one is used", || async {
        (registry.services(&["--ca", &of_new]).await.0 == 0).then_some(())
    })
    .await;
    assert!(registry.figure(expiry, "").await > 2e9);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_a_required_certificate_are_turned_away() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let ca = write(directory.path(), "ca.pem", &authority.certificate_pem());
    let (certificate, key) = write_identity(directory.path(), &authority.issue(&["127.0.0.1"]));
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key, "--tls-client-ca", &ca];
    let registry = Registry::start(&flags).await;
    assert_ne!(registry.services(&["--ca", &ca]).await.0, 0);
    let (status, text) =
        registry.services(&["--ca", &ca, "--certificate", &certificate, "--key", &key]).await;
    assert_eq!(status, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_reaches_its_control_plane_over_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let ca = write(directory.path(), "ca.pem", &authority.certificate_pem());
    let (certificate, key) = write_identity(directory.path(), &authority.issue(&["127.0.0.1"]));
    let (etcd, nats) = tokio::join!(Etcd::start(), Nats::start());
    let [plane, plane_admin, edge, edge_admin] = [local(), local(), local(), local()];
    let plane_process = Process::ours("control-plane")
        .args(["--etcd", &format!("http://{}", etcd.endpoint()), "--nats", &nats.url()])
        .args(["--listen", &plane.to_string(), "--admin-listen", &plane_admin.to_string()])
        .args(["--tls-certificate", &certificate, "--tls-key", &key]);
    let edge_process = Process::ours("edge-gateway")
        .args(["--nats", &nats.url(), "--listen", &edge.to_string()])
        .args(["--admin-listen", &edge_admin.to_string(), "--control-plane", &format!("https://{plane}")])
        .args(["--control-plane-ca", &ca]);
    plane_process.start();
    edge_process.start();
    eventually("both are ready", || async {
        let answer = Client::new(edge_admin).try_get("/ready").await?;
        (answer.status == 200 && Client::new(plane_admin).try_get("/ready").await?.status == 200)
            .then_some(())
    })
    .await;
    Client::new(edge).service("order").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_it_runs_and_a_bad_file_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write(directory.path(), "muster.toml", "[quota]\nservices = 50\n");
    let registry = Registry::start(&["--config", &file]).await;
    let client = Client::new(registry.api);
    let admin = Client::new(registry.admin);
    client.service("first").await;

    write(directory.path(), "muster.toml", "[quota]\nservices = 1\n");
    eventually("the quota is read", || async {
        (registry.figure(RELOADS, APPLIED).await >= 1.0).then_some(())
    })
    .await;
    let body =
        json!({"service": {"appId": "default", "serviceName": "second", "version": "1.0.0"}}).to_string();
    let path = "/v4/default/registry/microservices";
    let answer = client.try_send("POST", path, &[], body).await.expect("answers");
    assert!(answer.text().contains("400100"), "{}", answer.text());

    write(directory.path(), "muster.toml", "[quota]\nservices = 0\nservice = 3\n");
    eventually("the file is refused", || async {
        (registry.figure(RELOADS, REFUSED).await >= 1.0).then_some(())
    })
    .await;
    let log = registry.process.log();
    assert!(log.contains("2 mistakes") && log.contains("did you mean `quota.services`"), "{log}");
    let config = admin.try_get("/config").await.expect("answers").text();
    assert!(config.contains("services = 1 # file"), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_masked_and_the_admin_port_drains_the_process() {
    let registry = Registry::start(&["--admin-token", "hunter2"]).await;
    let client = Client::new(registry.admin);
    let token = [("authorization", "Bearer hunter2")];
    let config = client.try_send("GET", "/config", &token, String::new()).await.expect("answers").text();
    assert!(config.contains("admin-token = \"***\"") && !config.contains("hunter2"), "{config}");
    // With a token, this machine is trusted no more than another: a page in a browser on it could send this.
    let form = [("origin", "https://evil.example"), ("content-type", "application/x-www-form-urlencoded")];
    for headers in [&form[..], &[]] {
        let answer = client.try_send("POST", "/drain", headers, String::new()).await.expect("answers");
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    let url = format!("http://{}", registry.admin);
    let (status, text) = muster(&["drain", &url]).await;
    assert!(status != 0 && text.contains("admin-token"), "{text}");
    let (status, text) = muster(&["drain", "--token", "hunter2", &url]).await;
    assert!(status == 0 && text.contains("has drained after"), "{text}");
    assert_eq!(registry.process.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_service_center_warns_of_each_dead_setting() {
    let directory = tempfile::tempdir().expect("a directory");
    let api = local();
    let yaml = format!("server:\n  host: 127.0.0.1\n  port: {}\nregistry:\n  kind: etcd\n", api.port());
    let file = write(directory.path(), "app.yaml", &yaml);
    let process = Process::ours("muster").args(["standalone", "--data-dir", "data", "--config", &file]);
    process.start();
    process.line(&["registry.kind has no effect"], 0).await;
    eventually("it answers", || async { Client::new(api).try_get("/ready").await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_for_a_bus_that_is_away_is_logged() {
    let nobody = local();
    let gateway = Process::ours("edge-gateway")
        .args(["--nats", &format!("nats://{nobody}"), "--listen", &local().to_string()])
        .args(["--admin-listen", &local().to_string(), "--control-plane", &format!("http://{}", local())]);
    gateway.start();
    // The address and the error of the system, and not only the kind of error that NATS' client hands on.
    gateway.line(&["WARN", "cannot be connected", &nobody.to_string(), "Connection refused"], 0).await;
}
