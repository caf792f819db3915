//! Faulty certificates between a listener and a client of ours: both say in words what is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;

/// A directory with an authority, a certificate and its key.
struct Site {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("is written");
        Self { directory, issuer: Issuer::new(parameters, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a certificate for `names`, changed by `change`, signed by the authority or by its own key.
    fn issue(&self, names: &[&str], is_signed: bool, change: impl FnOnce(&mut CertificateParams)) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        change(&mut parameters);
        let key = KeyPair::generate().expect("a key");
        let signed =
            if is_signed { parameters.signed_by(&key, &self.issuer) } else { parameters.self_signed(&key) };
        self.write("server.pem", &signed.expect("a certificate").pem());
        self.write("key.pem", &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("is written");
    }

    fn load(&self) -> Result<ServerTls, TlsError> {
        let (certificate, key) = (self.path("server.pem"), self.path("key.pem"));
        ServerTls::load(TlsFiles { certificate, key, client_ca: None })
    }

    /// The words of a client that trusts `ca` and connects by `name`.
    async fn refusal(&self, ca: &Path, name: &'static str, server: ServerTls) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("is bound");
        let serving = async {
            let (stream, _) = listener.accept().await.expect("accepts");
            // The client ends most handshakes; what it shows is checked below.
            if let Ok(mut stream) = server.accept(stream).await {
                _ = stream.write_all(b"hello").await;
            }
        };
        let files = ClientFiles { ca: Some(ca.to_owned()), identity: None };
        let connector = TlsConnector::from(Arc::new(client(&files).expect("can be read")));
        let connecting = async {
            let stream = TcpStream::connect(address).await.expect("connects");
            let name = ServerName::try_from(name).expect("a name");
            match connector.connect(name, stream).await {
                Ok(mut stream) => stream.read_u8().await.expect_err("is refused").to_string(),
                Err(e) => e.to_string(),
            }
        };
        with_advice(tokio::join!(serving, connecting).1)
    }
}

/// A fault: the names in the certificate, its signer, a change of it, and the words for it.
type Fault = (&'static [&'static str], bool, fn(&mut CertificateParams), &'static str);

#[tokio::test]
async fn client_and_listener_say_what_is_wrong_with_it() {
    let faults: [Fault; 6] = [
        // As `openssl req -x509` makes it: signed by itself, and an authority.
        (
            &["localhost"],
            false,
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "muster certificate",
        ),
        (&[], true, |_| (), "subjectAltName"),
        (&["localhost"], true, |p| p.not_after = date_time_ymd(2002, 1, 1), "expired"),
        (&["localhost"], true, |p| p.not_before = date_time_ymd(3000, 1, 1), "check the clock"),
        (
            &["localhost"],
            true,
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "serverAuth",
        ),
        (&["localhost"], true, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "CA:FALSE"),
    ];
    for (names, is_signed, change, words) in faults {
        let site = Site::new();
        site.issue(names, is_signed, change);
        let tls = site.load().expect("a listener may use it");
        assert!(tls.faults().iter().any(|fault| fault.contains(words)), "{words}: {:?}", tls.faults());
        let ca = site.path(if is_signed { "ca.pem" } else { "server.pem" });
        let refusal = site.refusal(&ca, "localhost", tls).await;
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
}

#[tokio::test]
async fn clients_say_whom_they_do_not_trust_or_expect() {
    let site = Site::new();
    site.issue(&["localhost"], true, |_| ());
    let tls = site.load().expect("is right");
    assert_eq!(tls.faults(), Vec::<String>::new());
    let stranger = Site::new();
    let refusal = site.refusal(&stranger.path("ca.pem"), "localhost", tls.clone()).await;
    // Both authorities have the same name, so only the signature tells them apart.
    assert!(refusal.contains("the file of the authority that did"), "{refusal}");
    let refusal = site.refusal(&site.path("ca.pem"), "registry.example", tls.clone()).await;
    assert!(refusal.contains("connect by one of the names"), "{refusal}");

    let files = TlsFiles { client_ca: Some(site.path("ca.pem")), ..tls.files.clone() };
    let strict = ServerTls::load(files).expect("is right");
    let refusal = site.refusal(&site.path("ca.pem"), "localhost", strict).await;
    assert!(refusal.contains("asks for a client's certificate"), "{refusal}");

    stranger.issue(&["localhost"], false, |p| {
        p.distinguished_name.push(rcgen::DnType::CommonName, "another");
    });
    let refusal = site.refusal(&site.path("ca.pem"), "localhost", stranger.load().expect("is right")).await;
    assert!(refusal.contains("name the file of its authority"), "{refusal}");
}

#[test]
fn files_that_hold_something_else_are_told_by_their_content() {
    let site = Site::new();
    site.issue(&["localhost"], true, |_| ());
    let certificate = std::fs::read_to_string(site.path("server.pem")).expect("is there");
    let key = std::fs::read_to_string(site.path("key.pem")).expect("is there");
    let other = KeyPair::generate().expect("a key").serialize_pem();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    for (certificate, key, words) in [
        (key.as_str(), certificate.as_str(), "swapped"),
        (certificate.as_str(), certificate.as_str(), "swapped"),
        (certificate.as_str(), encrypted.as_str(), "openssl pkey"),
        ("\u{30}\u{82}junk", key.as_str(), "PEM"),
        (certificate.as_str(), other.as_str(), "is not that of the first certificate"),
    ] {
        site.write("server.pem", certificate);
        site.write("key.pem", key);
        let problem = site.load().map(drop).expect_err(words).to_string();
        assert!(problem.contains(words), "{words}: {problem}");
    }
}

#[tokio::test]
async fn a_port_without_tls_is_told_as_such() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    let serving = async {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("writes");
    };
    let files = ClientFiles { ca: Some(site.path("ca.pem")), identity: None };
    let connector = TlsConnector::from(Arc::new(client(&files).expect("can be read")));
    let connecting = async {
        let stream = TcpStream::connect(address).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        connector.connect(name, stream).await.map(drop).expect_err("no TLS").to_string()
    };
    let refusal = with_advice(tokio::join!(serving, connecting).1);
    assert!(refusal.contains("does not speak TLS"), "{refusal}");
}
