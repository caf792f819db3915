//! `muster certificate`: an authority for a test site, and certificates that it signs.
//!
//! In: names. Out: PEM files. The authority is made once and used again, so a client that trusts it trusts
//! every certificate made beside it. Production sites have an authority of their own.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::Serialize;
use shared::clock::Clock;

use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};

/// The validity of an authority.
const AUTHORITY_DAYS: u64 = 3650;
/// Certificates are valid from a day ago on: clocks differ.
const BACKDATED: Duration = DAY;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Arguments of `muster certificate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Certificate {
    /// Host names and addresses under which the server is reached.
    #[arg(value_name = "NAME", default_values_t = ["localhost", "127.0.0.1", "::1"].map(String::from))]
    names: Vec<String>,
    /// Directory of the files. The authority in it, `ca.pem` and `ca-key.pem`, is used again.
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    dir: PathBuf,
    /// Name of the files: NAME.pem and NAME-key.pem.
    #[arg(long, value_name = "NAME", default_value = "server", value_parser = file_name)]
    file: String,
    /// Days for which the certificate is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Replace a certificate of this name.
    #[arg(long)]
    replace: bool,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

fn file_name(text: &str) -> Result<String, String> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_plain && !text.is_empty() && !text.starts_with('.') && text != "ca" {
        Ok(text.to_owned())
    } else {
        Err("expected a file name of letters, digits, `-`, `_` and `.`, other than `ca`".to_owned())
    }
}

/// The files of the result.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    names: Vec<String>,
    expires: String,
}

impl Certificate {
    /// The certificate of a site's servers, for `muster init`.
    pub(super) fn of_site(dir: PathBuf, names: Vec<String>) -> Self {
        let output = OutputFormat::default();
        Self { names, dir, file: "server".to_owned(), days: 365, replace: false, output }
    }

    pub(crate) fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let output = self.output;
        let made = self.make()?;
        match output {
            OutputFormat::Json => screen.json(&made),
            OutputFormat::Table => made.show(screen),
        }
    }

    /// Writes the files.
    pub(super) fn make(self) -> Result<Made, CommandFailure> {
        let now = Clock::system().now();
        let certificate = self.dir.join(format!("{}.pem", self.file));
        let key = self.dir.join(format!("{}-key.pem", self.file));
        if !self.replace
            && let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists())
        {
            return Err(CommandFailure::Usage(format!(
                "{} is there already: choose another --file, or --replace it",
                there.display()
            )));
        }
        std::fs::create_dir_all(&self.dir).map_err(|e| unusable(&self.dir, &e))?;
        let ca = self.dir.join("ca.pem");
        let issuer = authority(&ca, &self.dir.join("ca-key.pem"), now)?;

        let pair = KeyPair::generate().map_err(|e| not_made(&e))?;
        let expires = now + DAY * u32::from(self.days);
        let mut parameters = parameters(&self.names, &self.names[0], now, expires)?;
        // A gateway shows the same certificate to its control planes that it shows to clients.
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        let signed = parameters.signed_by(&pair, &issuer).map_err(|e| not_made(&e))?;
        // The key first: a process that reads both again when one changes must not find the old key.
        write(&key, &pair.serialize_pem(), 0o600)?;
        write(&certificate, &signed.pem(), 0o644)?;

        let expires = humantime::format_rfc3339_seconds(expires).to_string();
        Ok(Made { ca, certificate, key, names: self.names, expires })
    }
}

impl Made {
    fn show(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let Self { ca, certificate, key, names, expires } = self;
        let rows = [
            ("authority, for clients to trust", ca.display().to_string()),
            ("certificate", certificate.display().to_string()),
            ("key", key.display().to_string()),
            ("names", names.join(", ")),
            ("valid until", expires.clone()),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        screen.table(&["FILE", "VALUE"], &rows)?;
        let (certificate, key, ca) = (certificate.display(), key.display(), ca.display());
        screen.note(&format!("a server: --tls-certificate {certificate} --tls-key {key}"));
        screen.note(&format!("a client: --ca {ca}, and the address of the server with https://"));
        Ok(())
    }
}

/// The authority in these files, made if neither is there.
fn authority(ca: &Path, key: &Path, now: SystemTime) -> Result<Issuer<'static, KeyPair>, CommandFailure> {
    match (ca.exists(), key.exists()) {
        (true, true) => {
            let pair = std::fs::read_to_string(key).map_err(|e| unusable(key, &e))?;
            let pair = KeyPair::from_pem(&pair).map_err(|e| unusable(key, &e))?;
            let text = std::fs::read_to_string(ca).map_err(|e| unusable(ca, &e))?;
            Issuer::from_ca_cert_pem(&text, pair).map_err(|e| unusable(ca, &e))
        }
        (false, false) => {
            let pair = KeyPair::generate().map_err(|e| not_made(&e))?;
            let expires = now + DAY * u32::try_from(AUTHORITY_DAYS).unwrap_or(u32::MAX);
            let mut parameters = parameters(&[], "Muster test authority", now, expires)?;
            parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let signed = parameters.self_signed(&pair).map_err(|e| not_made(&e))?;
            write(key, &pair.serialize_pem(), 0o600)?;
            write(ca, &signed.pem(), 0o644)?;
            Ok(Issuer::new(parameters, pair))
        }
        // Making the other one anew would end the trust in everything that this authority has signed.
        (has_ca, _) => {
            let missing = if has_ca { key } else { ca };
            Err(CommandFailure::Usage(format!(
                "{} is missing, and the other file of the authority is there: put it back, or use another --dir",
                missing.display()
            )))
        }
    }
}

fn parameters(
    names: &[String],
    common_name: &str,
    now: SystemTime,
    expires: SystemTime,
) -> Result<CertificateParams, CommandFailure> {
    let mut parameters = CertificateParams::new(names).map_err(|e| {
        CommandFailure::Usage(format!("the names cannot stand in a certificate: {e}: {}", names.join(", ")))
    })?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.not_before = (now - BACKDATED).into();
    parameters.not_after = expires.into();
    Ok(parameters)
}

/// Writes a file in one step, so that nobody reads half of one, with the mode from its first byte on.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), CommandFailure> {
    let new = path.with_extension("pem.new");
    // A file that an interrupted run has left behind could have another mode.
    let _ = std::fs::remove_file(&new);
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    written
        .and_then(|mut file: File| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, e: &dyn std::fmt::Display) -> CommandFailure {
    CommandFailure::Usage(format!("{}: {e}", path.display()))
}

fn not_made(e: &rcgen::Error) -> CommandFailure {
    CommandFailure::Usage(format!("no certificate can be made: {e}"))
}
