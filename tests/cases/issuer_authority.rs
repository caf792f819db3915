//! The file with the authorities of an external issuer is replaced while control planes run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Authority, World, eventually};
use host::tls::{ServerTls, TlsFiles};
use tokio::net::TcpListener;

use crate::key_files::KeyFiles;

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_authority_of_the_issuer_counts_at_the_next_fetch() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = |name: &str| folder.path().join(name);
    let issuers = Authority::new();
    let identity = issuers.issue(&["localhost"]);
    std::fs::write(file("certificate.pem"), &identity.certificate_pem).expect("written");
    std::fs::write(file("key.pem"), &identity.key_pem).expect("written");
    std::fs::write(file("authority.pem"), Authority::new().certificate_pem()).expect("written");

    // An issuer that counts the clients that trust it, and those that do not.
    let files = TlsFiles { certificate: file("certificate.pem"), key: file("key.pem"), client_ca: None };
    let tls = ServerTls::load(files).expect("its certificate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://localhost:{}", listener.local_addr().expect("its address").port());
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let server = tokio::spawn({
        let counts = counts.clone();
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let is_trusted = tls.accept(stream).await.is_ok();
                counts[usize::from(is_trusted)].fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let seen = async |at: usize| (counts[at].load(Ordering::SeqCst) > 0).then_some(());

    let keys = KeyFiles::new();
    let _world = keys
        .guard(World::with())
        .plane_flag("--rbac-oidc-issuer", &address)
        .plane_flag("--rbac-oidc-audience", "muster")
        .plane_flag("--rbac-oidc-ca", &file("authority.pem").display().to_string())
        .plane_flag("--rbac-oidc-refresh", "1s")
        .start()
        .await;
    eventually("a control plane distrusts the issuer", || seen(0)).await;
    assert_eq!(counts[1].load(Ordering::SeqCst), 0, "the authority of another is not the issuer's");

    std::fs::write(file("next.pem"), issuers.certificate_pem()).expect("written");
    std::fs::rename(file("next.pem"), file("authority.pem")).expect("renamed");
    eventually("a control plane trusts the issuer", || seen(1)).await;
    server.abort();
}
