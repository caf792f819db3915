//! TLS for listeners and for those who connect: PEM files in, configurations of rustls out.
//!
//! A listener's certificate is read again when its files change; one that cannot be used changes nothing, and is logged
//! and counted. Connections that are open keep what they have. TLS 1.2 and 1.3, with the library's own suites.

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
use tracing::{error, info};

use crate::lifecycle::Tasks;
use settings::Settings;

/// Between two looks at the files.
const PACE: Duration = Duration::from_secs(2);

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds no PEM of the kind.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the files hold does not fit together.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// A listener's PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates that clients must show; without it they need none.
    pub client_ca: Option<PathBuf>,
}

/// A listener's TLS. Cheap to clone; all clones share the certificate in force.
#[derive(Clone)]
pub struct ServerTls {
    files: TlsFiles,
    current: Arc<ArcSwap<ServerConfig>>,
    /// Seconds since 1970 at which the certificate in force ends.
    expires: Arc<AtomicI64>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl ServerTls {
    /// Declares the settings `tls.*` of a listener and takes their values; `None` when there is no certificate.
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
    /// When one cannot be read, or they do not fit together. An expired certificate is no error: replacing it is.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let (config, expires) = server(&files)?;
        let current = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self { files, current, expires: Arc::new(AtomicI64::new(expires)) })
    }

    /// When the certificate in force ends.
    pub fn expires(&self) -> SystemTime {
        let seconds = u64::try_from(self.expires.load(Ordering::Relaxed)).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Shakes hands with a client. The caller bounds the time.
    ///
    /// # Errors
    /// When the client speaks no TLS, or shows no certificate although it must.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current.load_full()).accept(stream).await
    }

    /// Reads the files again whenever they change, until the drain, and tells when the certificate ends.
    pub fn keep_fresh(&self, meter: &Meter, tasks: &Tasks) {
        let reloads = meter
            .u64_counter("muster_tls_reloads_total")
            .with_description("Certificates that were read again, by what came of them.")
            .build();
        for result in ["applied", "refused"] {
            reloads.add(0, &[KeyValue::new("result", result)]);
        }
        let expires = self.expires.clone();
        // Lives as long as the meter, which is as long as the process.
        let _ = meter
            .i64_observable_gauge("muster_tls_certificate_expiry_timestamp_seconds")
            .with_description("When the listener's certificate ends, in seconds since 1970.")
            .with_callback(move |gauge| gauge.observe(expires.load(Ordering::Relaxed), &[]))
            .build();
        let (this, drain) = (self.clone(), tasks.drain().clone());
        tasks.spawn(async move {
            let mut seen = this.stamps();
            let mut pace = tokio::time::interval(PACE);
            while drain.run_until_cancelled(pace.tick()).await.is_some() {
                let now = this.stamps();
                if now == seen {
                    continue;
                }
                seen = now;
                let result = match this.reload() {
                    Ok(()) => {
                        info!(certificate = %this.files.certificate.display(), "the certificate was read again");
                        "applied"
                    }
                    Err(e) => {
                        error!(reason = %e, "the new certificate cannot be used; the old one stays");
                        "refused"
                    }
                };
                reloads.add(1, &[KeyValue::new("result", result)]);
            }
        });
    }

    fn reload(&self) -> Result<(), TlsError> {
        let (config, expires) = server(&self.files)?;
        self.current.store(Arc::new(config));
        self.expires.store(expires, Ordering::Relaxed);
        Ok(())
    }

    /// When each file changed last.
    fn stamps(&self) -> Vec<Option<SystemTime>> {
        let files = [Some(&self.files.certificate), Some(&self.files.key), self.files.client_ca.as_ref()];
        let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|it| it.modified()).ok();
        files.into_iter().flatten().map(changed).collect()
    }
}

/// What one who connects trusts, and who it says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities to trust; without it the system's.
    pub ca: Option<PathBuf>,
    /// A certificate and its key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The configuration of one who connects.
///
/// # Errors
/// When a file cannot be read or used.
pub fn client(files: &ClientFiles) -> Result<ClientConfig, TlsError> {
    let roots = match &files.ca {
        Some(ca) => authorities(ca)?,
        None => {
            let mut roots = RootCertStore::empty();
            // One that cannot be read is missed where it is needed, and named there.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Unusable(e.to_string()))?
        .with_root_certificates(roots);
    match &files.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => builder
            .with_client_auth_cert(chain(certificate)?, private_key(key)?)
            .map_err(|e| TlsError::Unusable(e.to_string())),
    }
}

/// The configuration of one who connects to none that speaks TLS: trusts nobody, reads no file.
///
/// # Errors
/// Never in practice: when the library has no versions of the protocol.
pub fn unused_client() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| TlsError::Unusable(e.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn server(files: &TlsFiles) -> Result<(ServerConfig, i64), TlsError> {
    let unusable = |e: &dyn fmt::Display| TlsError::Unusable(e.to_string());
    let chain = chain(&files.certificate)?;
    let expires = expiry(&chain, &files.certificate)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(authorities(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| unusable(&e))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private_key(&files.key)?).map_err(|e| unusable(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, expires))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn wrong(path: &Path, problem: impl fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), problem: problem.to_string() }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| wrong(path, e))?.collect();
    let found = found.map_err(|e| wrong(path, e))?;
    if found.is_empty() { Err(wrong(path, "there is no certificate in it")) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| wrong(path, e))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|e| wrong(path, e))?;
    }
    Ok(roots)
}

/// When the chain's own certificate ends, in seconds since 1970.
fn expiry(chain: &[CertificateDer<'_>], path: &Path) -> Result<i64, TlsError> {
    let own = chain.first().ok_or_else(|| wrong(path, "there is no certificate in it"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(own).map_err(|e| wrong(path, e))?;
    Ok(parsed.validity().not_after.timestamp())
}
