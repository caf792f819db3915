//! `muster init`: the keys, passwords and certificates with which a site with access control begins.
//!
//! In: a directory. Out: files that only their owner can read. Nothing that is there is ever replaced.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use access::keys::KeyPairText;
use clap::Args;
use serde_json::json;

use super::certificate::{Certificate, write};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};

/// The letters of generated passwords, without those that look alike.
const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
const SMALL_LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz";
const DIGITS: &[u8] = b"23456789";
const SIGNS: &[u8] = b"-_.!@#%+=";
/// The length of generated passwords: some 120 bits.
const PASSWORD_LENGTH: usize = 20;

/// Arguments of `muster init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Directory of the files; made if it is missing.
    #[arg(long, value_name = "DIRECTORY")]
    dir: PathBuf,
    /// Host name or address under which servers are reached; may be repeated.
    #[arg(
        long = "name",
        value_name = "NAME",
        default_values_t = ["localhost", "127.0.0.1", "::1"].map(String::from),
        conflicts_with = "fleet"
    )]
    names: Vec<String>,
    /// Make a password for Grafana as well, in the file `grafana-password`.
    #[arg(long)]
    grafana: bool,
    /// One directory for each kind of process (control-plane, edge-gateway, grafana), so that each can be
    /// given its own secrets alone. Makes no certificates.
    #[arg(long)]
    fleet: bool,
    /// Make nothing: succeed if the files are there.
    #[arg(long)]
    check: bool,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

/// The files of a site.
struct Site {
    dir: PathBuf,
    /// Signs tokens.
    private: PathBuf,
    /// Verifies tokens.
    public: PathBuf,
    /// The first password of `root`.
    root: PathBuf,
    /// The key of the messages between the planes, once for each place from which it is read.
    bus: Vec<PathBuf>,
    /// The password of Grafana's administrator.
    dashboards: PathBuf,
    /// The authority, the certificate and their keys; none for a fleet.
    certificates: Vec<PathBuf>,
}

impl Init {
    pub(crate) fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let site = Site::new(&self.dir, self.fleet);
        if self.check {
            return site.check(self.grafana, screen);
        }
        // All of them first: half a site, of new keys and an old password, would fit nothing.
        if let Some(there) = site.files(true).find(|path| path.exists()) {
            return Err(CommandFailure::Usage(format!(
                "{} is there already, and nothing is ever replaced: choose another --dir, or remove what is not needed",
                there.display()
            )));
        }
        let password = site.make(self.grafana, self.names)?;
        let Site { dir, private, public, root, bus, .. } = &site;
        match self.output {
            OutputFormat::Json => screen.json(&json!({
                "dir": dir, "privateKey": private, "publicKey": public, "rootPasswordFile": root,
                "rootPassword": password, "signingKeys": bus,
            })),
            OutputFormat::Table => site.show(screen, self.grafana, &password),
        }
    }
}

impl Site {
    fn new(dir: &Path, is_fleet: bool) -> Self {
        let place = |process: &str, name: &str| {
            if is_fleet { dir.join(process).join(name) } else { dir.join(name) }
        };
        let mut bus = vec![place("control-plane", "signing-keys")];
        let mut certificates = Vec::new();
        if is_fleet {
            bus.push(place("edge-gateway", "signing-keys"));
        } else {
            certificates
                .extend(["ca.pem", "ca-key.pem", "server.pem", "server-key.pem"].map(|name| dir.join(name)));
        }
        Self {
            dir: dir.to_owned(),
            private: place("control-plane", "private.key"),
            public: place("control-plane", "public.key"),
            root: place("control-plane", "root-password"),
            bus,
            dashboards: place("grafana", "grafana-password"),
            certificates,
        }
    }

    fn files(&self, with_grafana: bool) -> impl Iterator<Item = &PathBuf> {
        let dashboards = with_grafana.then_some(&self.dashboards);
        let keys = [&self.private, &self.public, &self.root];
        keys.into_iter().chain(&self.bus).chain(dashboards).chain(&self.certificates)
    }

    /// Makes the files, and returns the password of `root`.
    fn make(&self, with_grafana: bool, names: Vec<String>) -> Result<String, CommandFailure> {
        for directory in self.files(with_grafana).filter_map(|path| path.parent()) {
            std::fs::create_dir_all(directory).map_err(|error| unusable(directory, &error))?;
        }
        let not_made = |error: &dyn std::fmt::Display| unusable(&self.dir, error);
        let pair = KeyPairText::generate().map_err(|error| not_made(&error))?;
        write(&self.private, &pair.private, 0o600)?;
        write(&self.public, &pair.public, 0o644)?;
        let password = password().map_err(|error| not_made(&error))?;
        write(&self.root, &format!("{password}\n"), 0o600)?;
        let key = key().map_err(|error| not_made(&error))?;
        for path in &self.bus {
            write(path, &format!("{key}\n"), 0o600)?;
        }
        if with_grafana {
            let password = self::password().map_err(|error| not_made(&error))?;
            write(&self.dashboards, &format!("{password}\n"), 0o600)?;
        }
        if !self.certificates.is_empty() {
            Certificate::of_site(self.dir.clone(), names).make()?;
        }
        Ok(password)
    }

    /// Fails with one line if a file is missing, empty or not readable.
    fn check(&self, with_grafana: bool, screen: &mut Screen) -> Result<(), CommandFailure> {
        for path in self.files(with_grafana) {
            let first = File::open(path).and_then(|mut file| file.read(&mut [0]));
            let fault = match first {
                Ok(0) => "it is empty".to_owned(),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            return Err(CommandFailure::Unwell(format!(
                "the secrets of this site are not there ({}: {fault}); make them once, with the same command \
                 without --check, or in containers with: docker compose run --rm init",
                path.display()
            )));
        }
        screen.note("the secrets of this site are there");
        Ok(())
    }

    fn show(&self, screen: &mut Screen, with_grafana: bool, password: &str) -> Result<(), CommandFailure> {
        let certificates = ["authority, for clients to trust", "key of the authority"].into_iter();
        let certificates = certificates.chain(["certificate of servers", "key of the certificate"]);
        let mut rows = vec![
            ("signs tokens", &self.private),
            ("verifies tokens", &self.public),
            ("password of root", &self.root),
        ];
        rows.extend(self.bus.iter().map(|path| ("signs messages between the planes", path)));
        rows.extend(with_grafana.then_some(("password of Grafana's admin", &self.dashboards)));
        rows.extend(certificates.zip(&self.certificates));
        let rows: Vec<_> =
            rows.into_iter().map(|(name, path)| vec![name.to_owned(), path.display().to_string()]).collect();
        screen.table(&["PURPOSE", "FILE"], &rows)?;
        screen.line(&format!("\nPassword of root, shown only now: {password}\n"))?;
        screen.line(&self.next())
    }

    /// The commands that use the files.
    fn next(&self) -> String {
        let [private, public, root] = [&self.private, &self.public, &self.root].map(|path| path.display());
        match (&self.certificates[..], &self.bus[..]) {
            ([ca, _, server, key], _) => format!(
                "Next:\n  muster standalone --rbac-enable --rbac-private-key {private} \\\n    \
                 --rbac-root-password @{root} \\\n    --tls-certificate {} --tls-key {}\n  \
                 muster login --server https://127.0.0.1:30100 --ca {} --account root --password-file {root}",
                server.display(),
                key.display(),
                ca.display(),
            ),
            (_, [of_planes, of_gateways, ..]) => format!(
                "Each control plane:\n  --rbac-enable --rbac-private-key {private} --rbac-public-key {public} \\\n    \
                 --rbac-root-password @{root} --nats-signing-keys {}\nEach gateway:\n  --rbac-enable \
                 --nats-signing-keys {}\nThen, for all who use the site:\n  muster login --account root",
                of_planes.display(),
                of_gateways.display(),
            ),
            _ => String::new(),
        }
    }
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CommandFailure {
    CommandFailure::Usage(format!("{}: {error}", path.display()))
}

/// A random key of the bus: 256 bits in hexadecimal digits.
fn key() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A random password with letters of both sizes, digits and signs, as the registry demands.
fn password() -> Result<String, getrandom::Error> {
    let kinds = [LETTERS, SMALL_LETTERS, DIGITS, SIGNS];
    loop {
        let mut password = String::new();
        while password.len() < PASSWORD_LENGTH {
            let mut byte = [0];
            getrandom::fill(&mut byte)?;
            let all = kinds.concat();
            // Bytes beyond the last whole round are thrown away, so that every sign is equally likely.
            let [byte] = byte;
            let rounds = 256 / all.len() * all.len();
            if usize::from(byte) < rounds {
                password.push(char::from(all[usize::from(byte) % all.len()]));
            }
        }
        if kinds.iter().all(|kind| password.bytes().any(|byte| kind.contains(&byte))) {
            return Ok(password);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn passwords_have_all_kinds_of_signs_and_differ() {
        let made: std::collections::BTreeSet<String> =
            (0..50).map(|_| password().expect("there is randomness")).collect();
        assert_eq!(made.len(), 50);
        for password in made {
            assert_eq!(password.len(), PASSWORD_LENGTH);
            for kind in [LETTERS, SMALL_LETTERS, DIGITS, SIGNS] {
                assert!(password.bytes().any(|byte| kind.contains(&byte)), "{password}");
            }
        }
    }

    fn init(dir: &Path, check: bool) -> Result<(), CommandFailure> {
        let mut screen = Screen::plain(std::io::sink(), std::io::sink());
        let init = Init {
            dir: dir.to_owned(),
            names: Vec::new(),
            grafana: true,
            fleet: true,
            check,
            output: OutputFormat::Table,
        };
        init.run(&mut screen)
    }

    #[test]
    fn each_process_of_a_fleet_gets_its_own_secrets_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        init(directory.path(), false).expect("are made");
        let names = |process: &str| {
            let entries = std::fs::read_dir(directory.path().join(process)).expect("is a directory");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("is readable"))
                .map(|entry| {
                    let mode = entry.metadata().expect("is there").permissions().mode();
                    let name = entry.file_name().into_string().expect("is text");
                    assert!(mode & 0o077 == 0 || name == "public.key", "{name}: {mode:o}");
                    name
                })
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("control-plane"), ["private.key", "public.key", "root-password", "signing-keys"]);
        assert_eq!(names("edge-gateway"), ["signing-keys"]);
        assert_eq!(names("grafana"), ["grafana-password"]);
        let keys = ["control-plane", "edge-gateway"].map(|process| {
            std::fs::read_to_string(directory.path().join(process).join("signing-keys")).expect("is text")
        });
        assert_eq!(keys[0], keys[1]);
        // One line, of more characters than the bus wants at least.
        assert!(keys[0].lines().count() == 1 && keys[0].trim().len() >= 32);
        let again = init(directory.path(), false).expect_err("nothing is replaced");
        assert!(again.to_string().contains("is there already"), "{again}");
    }

    #[test]
    fn a_check_names_the_way_to_make_what_is_missing() {
        let directory = tempfile::tempdir().expect("a directory");
        let fault = init(directory.path(), true).expect_err("nothing is there").to_string();
        assert!(fault.contains("docker compose run --rm init") && fault.lines().count() == 1, "{fault}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("is a directory").count(), 0);
        init(directory.path(), false).expect("are made");
        init(directory.path(), true).expect("all are there");
        std::fs::write(directory.path().join("edge-gateway/signing-keys"), "").expect("is written");
        let fault = init(directory.path(), true).expect_err("one is empty").to_string();
        assert!(fault.contains("signing-keys: it is empty"), "{fault}");
    }
}
