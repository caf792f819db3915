//! The embedded store on a disk that is full.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use control_plane::store::embedded::{EmbeddedConfig, EmbeddedStore};
use control_plane::store::{Op, RangeRequest, Store, StoreError, Txn, TxnReply};
use harness::eventually;
use host::lifecycle::Tasks;

/// A file system of two megabytes. Unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(directory.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a store that is still open must not keep the test from ending.
        _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

async fn put(store: &Arc<EmbeddedStore>, n: usize) -> Result<TxnReply, StoreError> {
    let op = Op::put(format!("/t/{n:06}"), vec![b'x'; 10_000]);
    store.txn(Txn { then: vec![op], ..Txn::default() }).await
}

async fn keys(store: &Arc<EmbeddedStore>) -> usize {
    store.range(RangeRequest::prefix("/t/")).await.expect("reads go on").items.len()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_keeps_reads_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: a small file system can be mounted by root only");
        return;
    };
    let filler = disk.path().join("filler");
    // Half of the disk, so that room can be made later without touching the store's own file.
    std::fs::write(&filler, vec![0; 1024 * 1024]).expect("room for a filler");
    let path = disk.path().join("muster.redb");
    let store = EmbeddedStore::open(&path, EmbeddedConfig::default(), &Tasks::new()).expect("opens");

    let mut written = 0;
    let error = loop {
        match put(&store, written).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk is small");
    };
    assert!(matches!(error, StoreError::Unavailable(_)) && names_the_disk(&error), "{error}");
    assert_eq!(keys(&store).await, written, "what was not answered is not seen");
    assert!(names_the_disk(&put(&store, written).await.expect_err("still full")));
    assert_eq!(keys(&store).await, written);

    std::fs::remove_file(&filler).expect("removable");
    eventually("writes work again", || async { put(&store, written).await.ok() }).await;
    assert_eq!(keys(&store).await, written + 1);
    drop(store);

    let store = eventually("the file is closed by its writer", || async {
        EmbeddedStore::open(&path, EmbeddedConfig::default(), &Tasks::new()).ok()
    })
    .await;
    assert_eq!(keys(&store).await, written + 1, "and all of it is there");
}

fn names_the_disk(error: &StoreError) -> bool {
    error.to_string().contains("No space left on device")
}
