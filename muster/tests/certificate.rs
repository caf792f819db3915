//! `muster certificate`, and certificates that were made in another way: the words for what is wrong with
//! them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn muster(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments);
    // The settings of the developer's shell must not change the result.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn make(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let directory = directory.to_str().expect("is text");
    muster(&[&["certificate", "--dir", directory, "--output", "json"], arguments].concat())
}

/// The report of the doctor on a standalone registry with this certificate.
fn diagnosis(directory: &Path, certificate: &Path, key: &Path) -> String {
    let config = directory.join("muster.toml");
    let text = format!(
        "listen = '127.0.0.1:0'\n[tls]\ncertificate = '{}'\nkey = '{}'\n",
        certificate.display(),
        key.display()
    );
    std::fs::write(&config, text).expect("is written");
    muster(&["doctor", "--program", "standalone", "--config", config.to_str().expect("is text")]).1
}

#[test]
fn an_authority_is_made_once_and_signs_what_follows() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("is there");
    let (status, text) = make(directory.path(), &[]);
    assert_eq!(status, Some(0), "{text}");
    let made: Value = serde_json::from_str(&text).expect("is JSON");
    assert_eq!(made["names"], serde_json::json!(["localhost", "127.0.0.1", "::1"]));
    for key in ["ca-key.pem", "server-key.pem"] {
        let mode = path(key).metadata().expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let report = diagnosis(directory.path(), &path("server.pem"), &path("server-key.pem"));
    assert!(report.contains("valid until") && !report.contains("subjectAltName"), "{report}");

    let authority = read("ca.pem");
    let first = read("server.pem");
    let (status, text) = make(directory.path(), &["registry.example"]);
    assert!(status == Some(64) && text.contains("is there already"), "{text}");
    assert_eq!(make(directory.path(), &["--file", "client", "me.example"]).0, Some(0));
    assert_eq!(make(directory.path(), &["--replace", "registry.example"]).0, Some(0));
    assert!(read("ca.pem") == authority && read("server.pem") != first);
    // A new authority would end the trust in all that was signed, so half of one is not completed.
    std::fs::remove_file(path("ca-key.pem")).expect("is removed");
    let (status, text) = make(directory.path(), &["--file", "third"]);
    assert!(status == Some(64) && text.contains("ca-key.pem is missing"), "{text}");
}

#[test]
fn names_and_files_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for arguments in [&["--file", "../up"][..], &["--file", "ca"], &["--days", "0"], &["h\u{e4}ger.example"]]
    {
        let (status, text) = make(directory.path(), arguments);
        assert_eq!(status, Some(64), "{arguments:?}: {text}");
    }
}

#[test]
fn the_doctor_names_the_fault_of_a_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(make(directory.path(), &[]).0, Some(0));
    // An authority's own certificate, as a plain `openssl req -x509` makes one.
    let certificate = directory.path().join("ca.pem");
    let report = diagnosis(directory.path(), &certificate, &directory.path().join("ca-key.pem"));
    for words in ["certificate  warning", "CA:TRUE", "muster certificate", "subjectAltName"] {
        assert!(report.contains(words), "{words}: {report}");
    }
}
