//! The state that requests answer from: the upstream replaces it, and requests read it without waiting.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use follow::read::ReadView;
use rpds::HashTrieMapSync;
use shared::model::{ServiceRef, Tenant};
use tokio::sync::watch;

use super::{Lease, TenantLease};

/// The state of the upstream as requests see it.
#[derive(Clone, Debug)]
pub(crate) struct EdgeView {
    pub(crate) read: ReadView,
    /// The leases of the consumers in `read`.
    pub(crate) leases: HashTrieMapSync<ServiceRef, Arc<Lease>>,
    /// The leases of the tenants in `read`.
    pub(crate) tenants: HashTrieMapSync<Tenant, Arc<TenantLease>>,
    /// The last bookmark arrived then.
    pub(crate) heard: Option<Instant>,
    /// The incarnation of the store, as far as it is known.
    pub(crate) incarnation: Option<u64>,
}

/// The view of now. The upstream writes it, requests read it.
#[derive(Debug)]
pub(crate) struct SharedView {
    now: ArcSwap<EdgeView>,
    /// The states of the last process, until this one knows better.
    remembered: ArcSwapOption<EdgeView>,
    /// Tells readers that wait that there is another one.
    replaced: watch::Sender<()>,
}

/// An empty view.
pub(crate) fn shared_view() -> Arc<SharedView> {
    let view = EdgeView {
        read: ReadView::default(),
        leases: HashTrieMapSync::new_sync(),
        tenants: HashTrieMapSync::new_sync(),
        heard: None,
        incarnation: None,
    };
    let now = ArcSwap::from_pointee(view);
    Arc::new(SharedView { now, remembered: ArcSwapOption::empty(), replaced: watch::Sender::new(()) })
}

impl SharedView {
    /// The view of now.
    pub(crate) fn load(&self) -> Arc<EdgeView> {
        self.now.load_full()
    }

    /// Replaces the view.
    pub(crate) fn store(&self, view: EdgeView) {
        self.now.store(Arc::new(view));
        self.replaced.send_replace(());
    }

    /// A way to wait until the view is replaced.
    pub(super) fn replacements(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// Has the state of the last process answer where nothing else can, until this one knows better.
    pub(super) fn remember(&self, view: EdgeView) {
        self.remembered.store(Some(Arc::new(view)));
    }

    /// The state of the last process, until this one knows better.
    pub(super) fn remembered(&self) -> Option<Arc<EdgeView>> {
        self.remembered.load_full()
    }

    /// Forgets what the last process knew.
    pub(crate) fn forget_remembered(&self) {
        if self.remembered.load().is_some() {
            self.remembered.store(None);
        }
    }

    /// Forgets what the last process knew, if that was of another incarnation of the store, or of another
    /// registry that has one. True if so.
    pub(crate) fn forget_other_incarnation(&self, incarnation: Option<u64>) -> bool {
        let remembered = self.remembered.load();
        let theirs = remembered.as_ref().and_then(|view| view.incarnation);
        let is_other = incarnation.is_some() && theirs.is_some() && incarnation != theirs;
        if is_other {
            self.remembered.store(None);
        }
        is_other
    }
}
