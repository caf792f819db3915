//! The settings of the `control-plane` program: those of the plane, its store, its bus and its listeners.

use std::net::SocketAddr;
use std::path::PathBuf;

use bus::NatsConfig;
use host::certificates::Certificates;
use host::exposure;
use host::http::ServerLimits;
use host::program::{Program, ProgramSettings};
use host::tls::ServerTls;
use settings::{Config as Read, Secret, Settings, Size, Url};

use super::{Config, LeaseConfig};
use crate::store::etcd::{DEFAULT_ENDPOINT, EtcdConfig, EtcdTls};

/// The settings of the program.
pub struct ProcessConfig {
    /// Address on which the registry API is served.
    pub listen: SocketAddr,
    /// Address on which liveness, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// Logs, the duration of a drain, and the token of remote operators.
    pub program: ProgramSettings,
    /// Limits of the API's listener.
    pub http: ServerLimits,
    /// Connection to the store.
    pub etcd: EtcdConfig,
    /// Connection to the bus.
    pub nats: NatsConfig,
    /// The plane itself.
    pub plane: Config,
}

impl Read for ProcessConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        // First, because the connection to the bus carries the name of the replica.
        let mut plane = Config::read(settings);
        plane.leases = LeaseConfig::read(settings);
        let listen = settings.get("listen", "127.0.0.1:30110", "Address of the registry API.");
        plane.exposure.check(settings, "listen", listen);
        let http = ServerLimits::read(settings, "api", "Connections open at once; more wait until one ends.");
        let asks = http.tls.as_ref().is_some_and(ServerTls::asks_for_certificates);
        plane.rbac.certificates = Certificates::read(settings, asks);
        plane.rbac.certificates.read_gateways(settings, asks);
        let admin_listen = settings.get(
            "admin-listen",
            "127.0.0.1:30111",
            "Address of /live, /ready, /metrics, and for operators /config, /known, /access and /drain.",
        );
        exposure::check_apart(settings, ("admin-listen", admin_listen), ("listen", listen));
        Self {
            listen,
            admin_listen,
            program: ProgramSettings::read(settings, "0s", "10s", "10m"),
            http,
            etcd: etcd(settings),
            nats: NatsConfig::read(settings, &plane.name),
            plane,
        }
    }
}

impl Program for ProcessConfig {
    const SERVICE: &'static str = "muster-control-plane";

    fn program(&self) -> &ProgramSettings {
        &self.program
    }
}

fn etcd(settings: &mut Settings<'_>) -> EtcdConfig {
    settings.alias("etcd.endpoints", "etcd");
    let endpoints: Vec<Url> =
        settings.get("etcd.endpoints", DEFAULT_ENDPOINT, "Members of the etcd cluster.");
    if endpoints.is_empty() {
        settings.mistake("etcd.endpoints", "at least one member is needed");
    }
    if endpoints.iter().any(|url| !url.is_http_base()) {
        settings.mistake("etcd.endpoints", "expected http://host:port or https://host:port, nothing more");
    }
    let user: Option<String> = settings.optional("etcd.user", "Name of the user at etcd.");
    let password: Option<Secret> = settings.optional("etcd.password", "Password of the user at etcd.");
    let ca_pem = pem(settings, "etcd.ca", "PEM file with the authorities to trust at etcd.");
    let certificate = pem(settings, "etcd.certificate", "PEM file with our certificate for etcd.");
    let key = pem(settings, "etcd.key", "PEM file with the key of our certificate for etcd.");
    // Found here, because a connection without a certificate would fail much later and without this reason.
    if certificate.is_some() != key.is_some() {
        settings.mistake("etcd.certificate", "a certificate and its key go together");
    }
    let encrypted = endpoints.iter().any(|url| url.scheme() == "https") || ca_pem.is_some();
    let default = EtcdConfig::default();
    EtcdConfig {
        // As they were given: the type adds a slash, and `/admin/clusters` shows these.
        endpoints: endpoints.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()).collect(),
        request_timeout: settings.within_or(
            "etcd.timeout",
            default.request_timeout,
            "100ms"..="1m",
            "Deadline of a call to etcd.",
        ),
        quota: settings
            .within::<Size>(
                "etcd.quota",
                "2GiB",
                "1MiB"..="1024GiB",
                "etcd's --quota-backend-bytes. etcd 3.6 and later tell theirs, and this is not used.",
            )
            .0 as u64,
        tls: encrypted.then(|| EtcdTls { ca_pem, identity_pem: certificate.zip(key), server_name: None }),
        user: user.map(|name| (name, password.map_or_else(String::new, |p| p.expose().to_owned()))),
        ..default
    }
}

/// The content of a PEM file. A file that cannot be read is a mistake.
fn pem(settings: &mut Settings<'_>, key: &'static str, help: &'static str) -> Option<Vec<u8>> {
    let path: PathBuf = settings.optional(key, help)?;
    match std::fs::read(&path) {
        Ok(pem) => Some(pem),
        Err(error) => {
            settings.mistake(key, format!("{} cannot be read: {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use settings::{Sources, parse};

    use super::*;

    #[test]
    fn addresses_with_a_scheme_that_nobody_serves_are_mistakes_all_at_once() {
        let sources = Sources::default()
            .with_flag("etcd.endpoints", "http://127.0.0.1:2379,redis://127.0.0.1:6379")
            .with_flag("nats.urls", "amqp://127.0.0.1:5672")
            .with_flag("rbac.oidc.issuer", "https://issuer.example")
            .with_flag("rbac.oidc.audience", "muster")
            .with_flag("rbac.oidc.keys", "ftp://issuer.example/keys")
            .with_flag("admin-listen", "127.0.0.1:30110");
        let Err(mistakes) = parse::<ProcessConfig>(&sources) else { panic!("no mistake was found") };
        let mistakes = mistakes.to_string();
        for key in ["--etcd-endpoints", "--nats-urls", "--rbac-oidc-keys", "--admin-listen"] {
            assert!(mistakes.contains(key), "{key}: {mistakes}");
        }
    }

    #[test]
    fn an_audience_without_an_issuer_is_a_mistake() {
        let sources = Sources::default().with_flag("rbac.oidc.audience", "muster");
        let Err(mistakes) = parse::<ProcessConfig>(&sources) else { panic!("no mistake was found") };
        assert!(mistakes.to_string().contains("--rbac-oidc-audience"), "{mistakes}");
    }
}
