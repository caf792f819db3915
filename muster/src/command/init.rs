//! `muster init`: the keys, passwords and certificates with which a site with access control begins.
//!
//! In: a directory. Out: files that only their owner can read. Nothing that is there is ever replaced.

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
    #[arg(long = "name", value_name = "NAME", default_values_t = ["localhost", "127.0.0.1", "::1"].map(String::from))]
    names: Vec<String>,
    /// Make a password for Grafana as well, in the file `grafana-password`.
    #[arg(long)]
    grafana: bool,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Init {
    pub(crate) fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let Self { dir, names, grafana, output } = self;
        let file = |name: &str| dir.join(name);
        let files = ["private.key", "public.key", "root-password", "grafana-password"].map(file);
        let certificates = ["ca.pem", "ca-key.pem", "server.pem", "server-key.pem"].map(file);
        // All of them first: half a site, of new keys and an old password, would fit nothing.
        if let Some(there) = files.iter().chain(&certificates).find(|path| path.exists()) {
            return Err(CommandFailure::Usage(format!(
                "{} is there already, and nothing is ever replaced: choose another --dir, or remove what is not needed",
                there.display()
            )));
        }
        let [private, public, root, dashboards] = &files;
        let unusable =
            |error: &dyn std::fmt::Display| CommandFailure::Usage(format!("{}: {error}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(|error| unusable(&error))?;
        let pair = KeyPairText::generate().map_err(|error| unusable(&error))?;
        write(private, &pair.private, 0o600)?;
        write(public, &pair.public, 0o644)?;
        let password = password().map_err(|error| unusable(&error))?;
        write(root, &format!("{password}\n"), 0o600)?;
        if grafana {
            let password = self::password().map_err(|error| unusable(&error))?;
            write(dashboards, &format!("{password}\n"), 0o600)?;
        }
        Certificate::of_site(dir.clone(), names).make()?;
        match output {
            OutputFormat::Json => screen.json(&json!({
                "dir": dir, "privateKey": private, "publicKey": public, "rootPasswordFile": root,
                "rootPassword": password,
            })),
            OutputFormat::Table => show(screen, &dir, &password),
        }
    }
}

fn show(screen: &mut Screen, dir: &Path, password: &str) -> Result<(), CommandFailure> {
    let at = |name: &str| dir.join(name).display().to_string();
    let rows = [
        ("signs tokens", at("private.key")),
        ("verifies tokens", at("public.key")),
        ("password of root", at("root-password")),
        ("authority, for clients to trust", at("ca.pem")),
        ("certificate of servers", at("server.pem")),
        ("key of the certificate", at("server-key.pem")),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    screen.table(&["PURPOSE", "FILE"], &rows)?;
    screen.line(&format!("\nPassword of root, shown only now: {password}\n"))?;
    screen.line(&format!(
        "Next:\n  muster standalone --rbac-enable --rbac-private-key {} \\\n    --rbac-root-password @{} \\\n    \
         --tls-certificate {} --tls-key {}\n  \
         muster login --server https://127.0.0.1:30100 --ca {} --account root --password-file {}",
        at("private.key"),
        at("root-password"),
        at("server.pem"),
        at("server-key.pem"),
        at("ca.pem"),
        at("root-password"),
    ))
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
}
