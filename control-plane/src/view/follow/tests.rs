//! A store that is restored from a backup, or forgets its history, while replicas follow it.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use async_trait::async_trait;
use host::lifecycle::Tasks;
use parking_lot::Mutex;
use shared::clock::Clock;
use shared::model::{ServiceRef, Tenant};
use tokio::sync::Notify;

use super::*;
use crate::keys;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::{RangeReply, TxnReply, WatchStream};
use crate::view::{self, History, Protection, View};

mod listing;

/// A store whose content can be replaced by that of a backup. A restore ends every watch.
struct Restorable {
    present: Mutex<Arc<EmbeddedStore>>,
    restored: Mutex<CancellationToken>,
    /// Writes are refused, as by a store without room.
    full: bool,
    /// The reads so far.
    reads: Mutex<Vec<RangeRequest>>,
    /// Happens before the read with this number, from 1.
    midway: Mutex<Option<(usize, Midway)>>,
}

/// A thing that happens between two reads.
enum Midway {
    /// The store changes, and forgets its history before the change.
    Compaction,
    /// The store is restored from this backup.
    Restore(Arc<EmbeddedStore>),
    /// The store does not answer any more.
    Silence(Arc<Notify>),
}

impl Restorable {
    fn of(present: Arc<EmbeddedStore>) -> Self {
        let (restored, reads, midway) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { present: Mutex::new(present), restored, full: false, reads, midway }
    }

    async fn happen(&self, midway: Midway) {
        match midway {
            Midway::Compaction => {
                let rev = write(&*self.present(), "midway").await;
                self.present().compact(rev).await.expect("compacted");
            }
            Midway::Restore(backup) => self.restore(backup),
            Midway::Silence(begun) => {
                begun.notify_one();
                std::future::pending().await
            }
        }
    }

    fn present(&self) -> Arc<EmbeddedStore> {
        self.present.lock().clone()
    }

    fn restore(&self, backup: Arc<EmbeddedStore>) {
        *self.present.lock() = backup;
        std::mem::take(&mut *self.restored.lock()).cancel();
    }
}

#[async_trait]
impl Store for Restorable {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        let number = {
            let mut reads = self.reads.lock();
            reads.push(request.clone());
            reads.len()
        };
        let due = self.midway.lock().take_if(|(due, _)| *due == number);
        if let Some((_, midway)) = due {
            self.happen(midway).await;
        }
        self.present().range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        if self.full {
            return Err(StoreError::Full("no room".into()));
        }
        self.present().txn(txn).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.present().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.present().keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.present().revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        let ends = self.restored.lock().clone();
        let items = self.present().watch(prefix, from).await?;
        Ok(WatchStream::new(items.take_until(ends.cancelled_owned())))
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.present().barrier(prefix).await
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.present().compact(rev).await
    }

    fn endpoints(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A directory, with stores in it.
struct Stores {
    directory: tempfile::TempDir,
    tasks: Tasks,
}

impl Stores {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), tasks: Tasks::new() }
    }

    /// A store that holds these projects, each written by a revision of its own.
    async fn with(&self, name: &str, projects: &[&str]) -> Arc<EmbeddedStore> {
        let path = self.directory.path().join(name);
        let store = EmbeddedStore::open(path, EmbeddedConfig::default(), &self.tasks).expect("a store opens");
        for project in projects {
            write(&*store, project).await;
        }
        store
    }
}

async fn write(store: &dyn Store, project: &str) -> Revision {
    let then = vec![Op::put(format!("/cse-sr/projects/default/{project}"), "")];
    store.txn(Txn { then, ..Txn::default() }).await.expect("written").revision
}

fn follow_in_background(store: &Arc<Restorable>, stop: &CancellationToken) -> View {
    let (writer, view) = view::empty(History::new(100), Protection::default(), Clock::manual(1));
    tokio::spawn(follow(store.clone(), writer, stop.clone()));
    view
}

/// Waits until the view shows exactly these projects, and returns its incarnation.
async fn shows(view: &View, projects: &[&str]) -> Incarnation {
    let mut revisions = view.revisions();
    loop {
        if let Ok(now) = view.now()
            && now.projects.size() == projects.len()
            && projects
                .iter()
                .all(|project| now.projects.contains_key(&shared::model::Tenant::new("default", *project)))
        {
            return now.incarnation;
        }
        revisions.changed().await.expect("the view goes on");
    }
}

#[tokio::test]
async fn all_replicas_learn_one_new_incarnation_of_a_restore() {
    let stores = Stores::new();
    let present = stores.with("present", &["kept", "undone"]).await;
    let store = Arc::new(Restorable::of(present));
    let stop = CancellationToken::new();
    let views = [(); 3].map(|()| follow_in_background(&store, &stop));
    for view in &views {
        assert_eq!(shows(view, &["kept", "undone"]).await, Incarnation::FIRST);
    }
    let mut known = Incarnation::FIRST;
    // The second backup is as old as the first: under it the store had no incarnation yet. Both stores have
    // passed the revision that the views know.
    for name in ["first", "second"] {
        let backup = stores.with(name, &["kept", "new", "newer", "newest"]).await;
        store.restore(backup);
        let mut incarnations = Vec::new();
        for view in &views {
            incarnations.push(shows(view, &["kept", "new", "newer", "newest"]).await);
        }
        assert!(incarnations[0] > known, "{incarnations:?} after {known}");
        assert_eq!(incarnations, [incarnations[0]; 3]);
        let stored = store.range(RangeRequest::key(INCARNATION)).await.expect("read").items;
        assert_eq!(stored[0].version, 1, "one replica wrote");
        known = incarnations[0];
        let undone = write(&*store, "undone").await;
        for view in &views {
            view.at(undone, LONGEST_WAIT).await.expect("the view follows");
        }
    }
    stop.cancel();
}

/// A registration: an instance on a lease, and the size of its service, which is the same in each history.
async fn register(store: &dyn Store, instance: &str) -> Revision {
    let service = ServiceRef::new(Tenant::default(), "s");
    let lease = store.grant(60).await.expect("granted");
    let record = Op::Put { key: keys::instance(&service, instance), value: "{}".into(), lease: Some(lease) };
    let size = Op::put(keys::size(&service), "{}");
    store.txn(Txn { then: vec![record, size], ..Txn::default() }).await.expect("written").revision
}

#[tokio::test]
async fn as_many_registrations_after_a_restore_are_another_history() {
    for is_listed in [false, true] {
        let stores = Stores::new();
        let present = stores.with("present", &["kept"]).await;
        let backup = stores.with("backup", &["kept"]).await;
        let store = Arc::new(Restorable::of(present.clone()));
        if is_listed {
            register(&*present, "undone").await;
        }
        let stop = CancellationToken::new();
        let view = follow_in_background(&store, &stop);
        shows(&view, &["kept"]).await;
        if !is_listed {
            let undone = register(&*present, "undone").await;
            view.at(undone, LONGEST_WAIT).await.expect("the view follows");
        }
        register(&*backup, "other").await;
        write(&*backup, "new").await;
        store.restore(backup);
        let incarnation = shows(&view, &["kept", "new"]).await;
        assert!(incarnation > Incarnation::FIRST, "listed: {is_listed}");
        stop.cancel();
    }
}

#[tokio::test]
async fn a_store_that_takes_no_incarnation_is_followed_as_well() {
    let stores = Stores::new();
    let present = stores.with("present", &["kept", "undone"]).await;
    let store = Arc::new(Restorable { full: true, ..Restorable::of(present) });
    let stop = CancellationToken::new();
    let view = follow_in_background(&store, &stop);
    shows(&view, &["kept", "undone"]).await;
    store.restore(stores.with("backup", &["kept"]).await);
    assert_eq!(shows(&view, &["kept"]).await, Incarnation::FIRST);
    stop.cancel();
}
