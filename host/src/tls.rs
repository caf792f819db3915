//! TLS for listeners and clients.
//!
//! In: PEM files. Out: configurations of rustls, for TLS 1.2 and 1.3 with the library's default
//! cipher suites.
//!
//! Faults of certificates are told in words, with the next step ([`with_advice`]), because the words of the
//! library are those of its source.
//!
//! A listener's certificate is read again when its files change. A certificate that cannot be used is logged
//! and counted, and the old one stays in force. Open connections are not affected.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info, warn};

use crate::files::FileWatch;
use crate::lifecycle::Tasks;
use settings::Settings;
use shared::clock::Clock;

mod faults;
#[cfg(test)]
mod tests;
mod words;

pub use words::with_advice;

/// The reasons for which TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM block of the expected kind.
    #[error("{path}: {problem}")]
    File {
        /// The path of the file.
        path: String,
        /// The problem, for people.
        problem: String,
    },
    /// The contents of the files do not fit together, for the reason given.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// The PEM files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities that must have signed a client's certificate; `None` when clients need none.
    pub client_ca: Option<PathBuf>,
}

/// The TLS of a listener. Cheap to clone; all clones share the certificate in force.
#[derive(Clone)]
pub struct ServerTls {
    files: TlsFiles,
    current: Arc<ArcSwap<ServerConfig>>,
    /// The certificate in force.
    certificate: Arc<ArcSwap<CertificateDer<'static>>>,
    /// The end of its validity, in seconds since 1970.
    expires: Arc<AtomicI64>,
}

/// The configuration of a listener, with what is reported about its certificate.
struct LoadedServer {
    config: ServerConfig,
    certificate: CertificateDer<'static>,
    expires: i64,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration holds the private key.
        self.files.fmt(f)
    }
}

impl ServerTls {
    /// Declares the settings `tls.*` of a listener and takes their values. `None` when no certificate is set.
    pub fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let certificate: Option<PathBuf> = settings.optional(
            "tls.certificate",
            "PEM file with the listener's certificate; with it clients speak TLS.",
        );
        let key: Option<PathBuf> =
            settings.optional("tls.key", "PEM file with the key of the listener's certificate.");
        let client_ca = settings.optional(
            "tls.client-ca",
            "PEM file with the authorities whose certificate a client must show; without it none is needed.",
        );
        match (certificate, key) {
            (Some(certificate), Some(key)) => match Self::load(TlsFiles { certificate, key, client_ca }) {
                Ok(tls) => Some(tls),
                Err(e) => {
                    settings.mistake("tls.certificate", e.to_string());
                    None
                }
            },
            (None, None) if client_ca.is_none() => None,
            _ => {
                settings.mistake("tls.certificate", "a certificate and its key go together");
                None
            }
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be read, or they do not fit together. An expired certificate is accepted: it
    /// can be replaced while the process runs, and clients report it.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let LoadedServer { config, certificate, expires } = server(&files)?;
        let current = Arc::new(ArcSwap::from_pointee(config));
        let certificate = Arc::new(ArcSwap::from_pointee(certificate));
        Ok(Self { files, current, certificate, expires: Arc::new(AtomicI64::new(expires)) })
    }

    /// The reasons, in words, for which clients refuse the certificate in force. None keeps the listener from
    /// serving: some clients accept what others refuse.
    pub fn faults(&self) -> Vec<String> {
        faults::of_server(&self.certificate.load(), Clock::system().now())
    }

    /// True when clients must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    fn report_faults(&self) {
        for fault in self.faults() {
            let certificate = self.files.certificate.display();
            warn!(%certificate, fault, "clients may refuse the listener's certificate");
        }
    }

    /// The end of the validity of the certificate in force.
    pub fn expires(&self) -> SystemTime {
        let seconds = u64::try_from(self.expires.load(Ordering::Relaxed)).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Performs the handshake with a client. It has no deadline of its own; the caller must set one.
    ///
    /// # Errors
    /// When the client does not speak TLS, or has no certificate of the required authorities.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current.load_full()).accept(stream).await
    }

    /// Reads the files again whenever they change, until the drain, and makes the metrics of the certificate.
    pub fn keep_fresh(&self, meter: &Meter, tasks: &Tasks) {
        let reloads = meter
            .u64_counter("muster_tls_reloads_total")
            .with_description("Times that the certificate was read again, by result.")
            .build();
        for result in ["applied", "refused"] {
            reloads.add(0, &[KeyValue::new("result", result)]);
        }
        let expires = self.expires.clone();
        // The meter keeps the callback, so the instrument itself is not needed.
        let _ = meter
            .i64_observable_gauge("muster_tls_certificate_expiry_timestamp_seconds")
            .with_description("When the listener's certificate ends, in seconds since 1970.")
            .with_callback(move |gauge| gauge.observe(expires.load(Ordering::Relaxed), &[]))
            .build();
        self.report_faults();
        let this = self.clone();
        let drain = tasks.drain().clone();
        tasks.spawn_named("tls", async move {
            let mut files = FileWatch::new(this.paths());
            // A bad certificate is reported once and not at every look, also when a file is missing.
            while drain.run_until_cancelled(files.changed()).await.is_some() {
                let result = match this.reload() {
                    Ok(()) => {
                        info!(certificate = %this.files.certificate.display(), "the certificate was read again");
                        this.report_faults();
                        "applied"
                    }
                    Err(e) => {
                        error!(reason = %e, "the new certificate cannot be used; the old one stays in force");
                        "refused"
                    }
                };
                reloads.add(1, &[KeyValue::new("result", result)]);
            }
        });
    }

    fn reload(&self) -> Result<(), TlsError> {
        let LoadedServer { config, certificate, expires } = server(&self.files)?;
        self.current.store(Arc::new(config));
        self.certificate.store(Arc::new(certificate));
        self.expires.store(expires, Ordering::Relaxed);
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        let TlsFiles { certificate, key, client_ca } = &self.files;
        [Some(certificate), Some(key), client_ca.as_ref()].into_iter().flatten().cloned().collect()
    }
}

/// The PEM files of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities to trust; `None` stands for the system's.
    pub ca: Option<PathBuf>,
    /// A certificate and its key, for servers that require one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The configuration of a client.
///
/// # Errors
/// When a file cannot be read or used.
pub fn client(files: &ClientFiles) -> Result<ClientConfig, TlsError> {
    let roots = match &files.ca {
        Some(ca) => authorities(ca)?,
        None => {
            let mut roots = RootCertStore::empty();
            // Authorities that cannot be read are skipped. A connection that needs one of them fails
            // and names it.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    match &files.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let own = (chain(certificate)?, private_key(key)?);
            builder.with_client_auth_cert(own.0, own.1).map_err(|e| mismatch(e, certificate, key))
        }
    }
}

/// The configuration of a client that has no servers with TLS. It trusts no authority and reads no file.
///
/// # Errors
/// When the library supports no version of TLS, which does not happen.
pub fn unused_client() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(unusable)?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn server(files: &TlsFiles) -> Result<LoadedServer, TlsError> {
    let chain = chain(&files.certificate)?;
    let expires = expiry(&chain, &files.certificate)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(authorities(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(unusable)?)
        }
    };
    let certificate = chain.first().cloned().ok_or_else(|| bad_file(&files.certificate, EMPTY))?;
    let config = builder.with_single_cert(chain, private_key(&files.key)?);
    let mut config = config.map_err(|e| mismatch(e, &files.certificate, &files.key))?;
    // Clients that negotiate get HTTP/2; those that do not, such as WebSocket clients, get HTTP/1.1.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(LoadedServer { config, certificate, expires })
}

/// The problem of a chain without a certificate, which [`chain`] never returns.
const EMPTY: &str = "there is no certificate in it";

fn unusable(e: impl fmt::Display) -> TlsError {
    TlsError::Unusable(e.to_string())
}

/// The error of a certificate and a key that do not go together, or of either of them.
fn mismatch(e: rustls::Error, certificate: &Path, key: &Path) -> TlsError {
    match e {
        rustls::Error::InconsistentKeys(_) => TlsError::Unusable(format!(
            "the key in {} is not that of the first certificate in {}, which must be the listener's or client's own",
            key.display(),
            certificate.display()
        )),
        e => unusable(e),
    }
}

fn provider() -> Arc<CryptoProvider> {
    // Named at each use. A default for the process would be global state that a library can set first.
    Arc::new(ring::default_provider())
}

fn bad_file(path: &Path, problem: impl fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), problem: problem.to_string() }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = std::fs::read(path).map_err(|e| bad_file(path, e))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|e| bad_file(path, e))?;
    if found.is_empty() {
        return Err(bad_file(path, faults::of_file(&String::from_utf8_lossy(&text), faults::CERTIFICATE)));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = std::fs::read(path).map_err(|e| bad_file(path, e))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        rustls::pki_types::pem::Error::NoItemsFound => {
            bad_file(path, faults::of_file(&String::from_utf8_lossy(&text), faults::KEY))
        }
        e => bad_file(path, e),
    })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|e| bad_file(path, e))?;
    }
    Ok(roots)
}

/// The end of the validity of the first certificate, in seconds since 1970.
fn expiry(chain: &[CertificateDer<'_>], path: &Path) -> Result<i64, TlsError> {
    let own = chain.first().ok_or_else(|| bad_file(path, EMPTY))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(own).map_err(|e| bad_file(path, e))?;
    Ok(parsed.validity().not_after.timestamp())
}
