//! Faults of a listener's certificate, in words, before a client meets them.
//!
//! None of them keeps a listener from starting: some clients accept what others refuse, and the files can be
//! replaced while the process runs.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::time::ASN1Time;

use super::words::{AUTHORITY, NAMELESS};

/// The faults for which clients refuse a listener with this certificate.
pub(super) fn of_server(certificate: &CertificateDer<'_>, now: SystemTime) -> Vec<String> {
    // One that cannot be parsed has been refused before.
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    let mut faults = Vec::new();
    if parsed.is_ca() {
        faults.push(AUTHORITY.to_owned());
    }
    if !has_names(&parsed) {
        faults.push(NAMELESS.to_owned());
    }
    if let Ok(Some(purposes)) = parsed.extended_key_usage()
        && !purposes.value.server_auth
        && !purposes.value.any
    {
        faults.push("it is not for servers: extendedKeyUsage has no serverAuth".to_owned());
    }
    let validity = parsed.validity();
    if now.is_some_and(|now| now > validity.not_after) {
        faults.push(format!("it has expired ({}): put a new one in its place", validity.not_after));
    }
    if now.is_some_and(|now| now < validity.not_before) {
        faults
            .push(format!("it is not valid before {}: check the clock of this machine", validity.not_before));
    }
    faults
}

fn has_names(certificate: &X509Certificate<'_>) -> bool {
    let names = certificate.subject_alternative_name();
    names.is_ok_and(|names| names.is_some_and(|names| !names.value.general_names.is_empty()))
}

/// The reason for which a PEM file has no usable item, seen from its text.
pub(super) fn of_file(text: &str, wanted: &str) -> String {
    let has = |kind: &str| text.lines().any(|line| line.starts_with("-----BEGIN") && line.contains(kind));
    let is_key = wanted == KEY;
    if is_key && (has("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")) {
        "the key is encrypted: `openssl pkey -in OLD -out NEW` makes one without a passphrase".to_owned()
    } else if is_key && has("CERTIFICATE") && !has("PRIVATE KEY") {
        "there is a certificate and no key in it: are the two files swapped?".to_owned()
    } else if !is_key && has("PRIVATE KEY") && !has("CERTIFICATE") {
        "there is a key and no certificate in it: are the two files swapped?".to_owned()
    } else if !text.contains("-----BEGIN") {
        format!("there is no {wanted} in PEM in it: `openssl x509` and `openssl pkey` convert other forms")
    } else {
        format!("there is no {wanted} in it")
    }
}

/// The name of a private key in [`of_file`].
pub(super) const KEY: &str = "private key";
/// The name of a certificate in [`of_file`].
pub(super) const CERTIFICATE: &str = "certificate";
