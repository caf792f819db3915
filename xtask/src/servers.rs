//! The servers that system tests start. They are installed when that is possible; otherwise the error names
//! them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::run;

/// A program or library, and the Debian package that holds it.
const SERVERS: [(&str, &str); 8] = [
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("nats-server", "nats-server"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    // A client of DNS.
    ("dig", "bind9-dnsutils"),
    // A fault case loads this library into our programs to move their clocks.
    ("faketime/libfaketimeMT.so.1", "libfaketime"),
    // One of the examples is written in Python.
    ("python3", "python3"),
];
/// The file with which a Debian package is forbidden to start its service: a server that already listens
/// would take the ports and the data of the tests.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs the servers that are missing (on Debian, as root).
///
/// # Errors
/// When something is missing and cannot be installed; the error says what to install.
pub fn ensure_installed() -> Result<()> {
    ensure_tools(&SERVERS)
}

/// Installs those of these programs that are missing (on Debian, as root): each with the package that holds
/// it.
///
/// # Errors
/// When something is missing and cannot be installed; the error says what to install.
pub(crate) fn ensure_tools(tools: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<_> =
        tools.iter().filter(|(program, _)| !is_installed(program)).map(|(_, package)| *package).collect();
    // Programs of one package are neighbours in the table, so no sorting is needed.
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !Path::new("/etc/debian_version").exists() || !rustix::process::geteuid().is_root() {
        bail!(
            "this needs programs that are not on the search path. On Debian, as root: \
             apt-get install --no-install-recommends {packages}"
        );
    }
    let _policy = NoServices::new()?;
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        // A package with a question would wait for an answer for ever.
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    match tools.iter().find(|(program, _)| !is_installed(program)) {
        Some((program, package)) => bail!("{package} was installed but {program} is not found"),
        None => Ok(()),
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    // Debian puts some servers where the search path of an ordinary user does not lead.
    let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/lib", &libraries].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|directory| directory.join(program).is_file())
}

/// While it lives, package scripts start no services.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        // Container images often bring a policy of their own, which must still be there afterwards.
        let ours = !Path::new(POLICY).exists();
        if ours {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // A failure is harmless: the file would only keep other services from starting.
            _ = std::fs::remove_file(POLICY);
        }
    }
}
