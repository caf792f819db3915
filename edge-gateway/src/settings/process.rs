//! The settings of the `edge-gateway` program beside those of the gateway itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bus::NatsConfig;
use host::exposure;
use host::program::{Program, ProgramSettings};
use host::tls::{self, ClientFiles};
use settings::{Config as Read, Settings, Size, Url};

use super::{Config, ForwardConfig};

/// The time before the end of the grace period at which the last plain watches end, also when no other
/// gateway can take them.
const LAST_FRAMES: Duration = Duration::from_secs(3);

/// The settings of the `edge-gateway` program.
pub struct ProcessConfig {
    /// The address of liveness, readiness and metrics.
    pub admin_listen: SocketAddr,
    /// Logs, the duration of a drain, and the token of remote operators.
    pub program: ProgramSettings,
    /// The bus.
    pub nats: NatsConfig,
    /// The control planes.
    pub forward: ForwardConfig,
    /// The gateway's rooms.
    pub gateway: Config,
}

impl Read for ProcessConfig {
    fn read(settings: &mut Settings<'_>) -> Self {
        let mut gateway = Config::read(settings);
        let forward = read_forward(settings);
        // Otherwise every request that is decided by a certificate here would be refused there.
        let is_known = forward.tls.identity.is_some()
            && forward.control_planes.iter().all(|url| url.starts_with("https://"));
        if !gateway.certificates.is_empty() && !is_known {
            settings.mistake(
                "rbac.certificates",
                "control planes believe a gateway by its certificate: https:// in control-plane.urls, and \
                 control-plane.certificate",
            );
        }
        let program = ProgramSettings::read(settings, "5s", "25s", "1h");
        let admin_listen = settings.get(
            "admin-listen",
            "127.0.0.1:30101",
            "Address of /live, /ready, /metrics, and for operators /config, /known, /access and /drain.",
        );
        exposure::check_apart(settings, ("admin-listen", admin_listen), ("listen", gateway.listen));
        // The end of the grace period cuts every session that still waits for its turn in the drain.
        if program.grace < gateway.drain_over {
            settings.mistake("grace", "the grace period must be at least as long as drain-over");
        }
        // The end of the grace period cuts connections, and clients of plain watches do not come back from
        // that.
        gateway.drain_latest = program.grace.saturating_sub(LAST_FRAMES);
        Self {
            admin_listen,
            program,
            nats: NatsConfig::read(settings, "muster-edge-gateway"),
            forward,
            gateway,
        }
    }
}

impl Program for ProcessConfig {
    const SERVICE: &'static str = "muster-edge-gateway";

    fn program(&self) -> &ProgramSettings {
        &self.program
    }
}

fn read_forward(settings: &mut Settings<'_>) -> ForwardConfig {
    settings.alias("control-plane.urls", "control-plane");
    let urls: Vec<Url> = settings.get(
        "control-plane.urls",
        "http://127.0.0.1:30110",
        "Addresses of the control planes, which get every request that is not a watch.",
    );
    let tls = settings.section("control-plane", read_control_plane_tls);
    if urls.iter().any(|url| !url.is_http_base()) {
        settings
            .mistake("control-plane.urls", "expected http://host:port or https://host:port, nothing more");
    }
    if urls.is_empty() {
        settings.mistake("control-plane.urls", "at least one control plane is needed");
    }
    ForwardConfig {
        control_planes: urls.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()).collect(),
        tls,
        largest_body: settings
            .within::<Size>("http.body-bytes", "2MiB", "64KiB"..="64MiB", "Largest body of a request.")
            .0,
        ..ForwardConfig::default()
    }
}

/// The authorities to trust at control planes that speak TLS, and our certificate for those that ask for one.
fn read_control_plane_tls(settings: &mut Settings<'_>) -> ClientFiles {
    let ca = settings.optional(
        "ca",
        "PEM file with the authorities to trust at https:// control planes. Default: the system's.",
    );
    let certificate: Option<PathBuf> = settings
        .optional("certificate", "PEM file with our certificate for control planes that ask for one.");
    let key: Option<PathBuf> =
        settings.optional("key", "PEM file with the key of our certificate for control planes.");
    if certificate.is_some() != key.is_some() {
        settings.mistake("certificate", "a certificate and its key go together");
    }
    let files = ClientFiles { ca, identity: certificate.zip(key) };
    // Read here only to report a mistake at the start; the client reads the files again when it is built.
    if files != ClientFiles::default()
        && let Err(error) = tls::client(&files)
    {
        settings.mistake("ca", error.to_string());
    }
    files
}
