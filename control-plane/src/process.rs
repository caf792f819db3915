//! The settings of the `control-plane` program: this plane's own, its store, its bus and its listeners.

use std::net::SocketAddr;
use std::time::Duration;

use bus::NatsConfig;
use host::http::ServerLimits;
use host::program::Program;
use host::telemetry::logs::LogConfig;
use settings::{Config as Read, Secret, Settings, Url};

use crate::config::Config;
use crate::store::etcd::{EtcdConfig, EtcdTls};

/// Everything that the program is told.
pub struct ProcessConfig {
    /// Where the registry API is served.
    pub listen: SocketAddr,
    /// Where liveness, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// What proves from afar that an operator asks on the admin port.
    pub admin_token: Option<Secret>,
    /// How long a drain may take.
    pub grace: Duration,
    /// Limits of the API's listener.
    pub http: ServerLimits,
    /// Logs.
    pub log: LogConfig,
    /// The store.
    pub etcd: EtcdConfig,
    /// The bus.
    pub nats: NatsConfig,
    /// This plane.
    pub plane: Config,
}

impl Read for ProcessConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        let plane = Config::read(settings);
        Self {
            listen: settings.get("listen", "127.0.0.1:30110", "Address of the registry API."),
            admin_listen: settings.get(
                "admin-listen",
                "127.0.0.1:30111",
                "Address of /live, /ready, /metrics, and for operators /config, /known and /drain.",
            ),
            admin_token: settings.optional(
                "admin-token",
                "Lets who sends it as a bearer token use /config, /known and /drain from afar.",
            ),
            grace: settings.within(
                "grace",
                "10s",
                "0s"..="10m",
                "How long open requests may take after SIGTERM before they are dropped.",
            ),
            http: ServerLimits::read(settings, "api", "Connections open at once; more wait until one ends."),
            log: LogConfig::read(settings),
            etcd: etcd(settings),
            nats: NatsConfig::read(settings, &plane.name),
            plane,
        }
    }
}

impl Program for ProcessConfig {
    const SERVICE: &'static str = "muster-control-plane";

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn grace(&self) -> Duration {
        self.grace
    }

    fn admin_token(&self) -> Option<&Secret> {
        self.admin_token.as_ref()
    }
}

fn etcd(settings: &mut Settings<'_>) -> EtcdConfig {
    settings.alias("etcd.endpoints", "etcd");
    let endpoints: Vec<Url> =
        settings.get("etcd.endpoints", "http://127.0.0.1:2379", "Members of the etcd cluster.");
    let timeout = |settings: &mut Settings<'_>| {
        settings.within("etcd.timeout", "5s", "100ms"..="1m", "Deadline of a call to etcd.")
    };
    let user: Option<String> = settings.optional("etcd.user", "Name at etcd.");
    let password: Option<Secret> = settings.optional("etcd.password", "Password at etcd.");
    let mut pem = |key: &'static str, help: &'static str| {
        let path: Option<std::path::PathBuf> = settings.optional(key, help);
        path.and_then(|path| match std::fs::read(&path) {
            Ok(pem) => Some(pem),
            Err(error) => {
                settings.mistake(key, format!("{} cannot be read: {error}", path.display()));
                None
            }
        })
    };
    let ca_pem = pem("etcd.ca", "PEM file with the authorities to trust at etcd.");
    let certificate = pem("etcd.certificate", "PEM file with our certificate for etcd.");
    let key = pem("etcd.key", "PEM file with the key of our certificate for etcd.");
    if certificate.is_some() != key.is_some() {
        settings.mistake("etcd.certificate", "a certificate and its key go together");
    }
    let encrypted = endpoints.iter().any(|url| url.scheme() == "https") || ca_pem.is_some();
    EtcdConfig {
        endpoints: endpoints.iter().map(|url| url.as_str().to_owned()).collect(),
        request_timeout: timeout(settings),
        tls: encrypted.then(|| EtcdTls { ca_pem, identity_pem: certificate.zip(key), server_name: None }),
        user: user.map(|name| (name, password.map_or_else(String::new, |p| p.expose().to_owned()))),
        ..EtcdConfig::default()
    }
}
