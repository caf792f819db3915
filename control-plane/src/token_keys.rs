//! Takes the keys of tokens anew when their files change.
//!
//! ```text
//! files ──▶ KeyReloader ──public keys──▶ view ──policy──▶ gate, gateways
//!                └───────────issuer──▶ accounts
//! ```
//!
//! In: the files. Out: the public keys for the view, and the issuer that signs. Files that cannot be used
//! change nothing; they are logged and counted.

use access::keys::PublicKey;
use access::token::Issuer;
use host::files::FileWatch;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::settings::{KeyFiles, KeysError, TokenKeys};
use crate::view::View;

/// The task that keeps the keys up to date.
pub(crate) struct KeyReloader {
    files: KeyFiles,
    public: watch::Sender<Vec<PublicKey>>,
    issuer: watch::Sender<Issuer>,
    reloads: Counter<u64>,
}

impl KeyReloader {
    pub(crate) fn new(keys: &TokenKeys, meter: &Meter) -> Self {
        let reloads = meter
            .u64_counter("muster_token_key_reloads_total")
            .with_description("Times that changed keys of tokens were read again, by result.")
            .build();
        for result in ["applied", "refused"] {
            reloads.add(0, &[KeyValue::new("result", result)]);
        }
        let TokenKeys { files, issuer, public } = keys.clone();
        Self { files, public: watch::Sender::new(public), issuer: watch::Sender::new(issuer), reloads }
    }

    /// The keys that verify tokens, to be followed.
    pub(crate) fn public(&self) -> watch::Receiver<Vec<PublicKey>> {
        self.public.subscribe()
    }

    /// The issuer that signs tokens, to be followed.
    pub(crate) fn issuer(&self) -> watch::Receiver<Issuer> {
        self.issuer.subscribe()
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, view: View, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.keep_fresh(&view)).await;
    }

    async fn keep_fresh(&self, view: &View) {
        let mut changes = FileWatch::new(vec![self.files.private.clone(), self.files.public.clone()]);
        loop {
            // Also before the first change: the files may have changed since the process read them.
            match self.reload(view).await {
                Ok(false) => {}
                Ok(true) => {
                    let kid = self.public.borrow().first().map(|key| key.kid.clone());
                    let count = self.public.borrow().len();
                    info!(signing = kid, count, "the keys of tokens were read again");
                    self.reloads.add(1, &[KeyValue::new("result", "applied")]);
                }
                Err(reason) => {
                    error!(%reason, "the new keys of tokens cannot be used; the old ones stay in force");
                    self.reloads.add(1, &[KeyValue::new("result", "refused")]);
                }
            }
            changes.changed().await;
        }
    }

    /// Reads the files. True when they hold other keys than those in force.
    async fn reload(&self, view: &View) -> Result<bool, KeysError> {
        let fresh = self.files.read_again(&self.public.borrow())?;
        if fresh.public == *self.public.borrow() {
            return Ok(false);
        }
        self.public.send_replace(fresh.public.clone());
        // First the view: a token of the new key must not be made before this replica verifies it.
        let mut revisions = view.revisions();
        while !view.now().is_ok_and(|snapshot| snapshot.policy.keys == fresh.public) {
            if revisions.changed().await.is_err() {
                break;
            }
        }
        self.issuer.send_replace(fresh.issuer);
        Ok(true)
    }
}
