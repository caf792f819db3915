//! The embedded store on real files: the contract of all stores, restarts and bounds.

use std::fs;
use std::process::{Command, Stdio};

use futures_util::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::store::contract::StoreUnderTest;
use crate::store::{KvEvent, Op, WatchItem};

fn open(directory: &TempDir, config: EmbeddedConfig, tasks: &Tasks) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(directory.path().join("data/muster.redb"), config, tasks).expect("opens")
}

async fn subject() -> StoreUnderTest {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(&directory, EmbeddedConfig::default(), &Tasks::new());
    StoreUnderTest::new(store, directory)
}

crate::store_contract!(subject());

/// Closes a store and waits until its file is closed.
async fn close(store: Arc<EmbeddedStore>, tasks: Tasks) {
    drop(store);
    tasks.drain().cancel();
    assert!(tasks.finish(Duration::from_secs(30)).await, "the writer ends with its last handle");
}

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Revision {
    let then = vec![Op::put(key, value.to_owned())];
    store.txn(Txn { then, ..Txn::default() }).await.expect("txn").revision
}

async fn first_item(store: &EmbeddedStore, from: Revision) -> Result<WatchItem, StoreError> {
    store.watch("/t/", from).await.expect("opens").next().await.expect("an item")
}

#[tokio::test]
async fn after_a_restart_everything_is_as_it_was() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    let old = put(&store, "/t/a", "1").await;
    put(&store, "/t/a", "2").await;
    let lease = store.grant(60).await.expect("grant");
    let on_lease = Op::Put { key: "/t/b".into(), value: "x".into(), lease: Some(lease) };
    let last = store.txn(Txn { then: vec![on_lease], ..Txn::default() }).await.expect("txn").revision;
    let before = store.range(RangeRequest::prefix("/")).await.expect("range").items;
    close(store, tasks).await;

    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    let read = store.range(RangeRequest::prefix("/")).await.expect("range");
    assert_eq!((read.items, read.revision), (before, last));
    let past = RangeRequest { revision: Some(old), ..RangeRequest::key("/t/a") };
    assert_eq!(store.range(past).await.expect("history is kept").items[0].value, "1");
    match first_item(&store, old).await.expect("replays") {
        WatchItem::Events(events) => {
            assert_eq!(events.iter().map(KvEvent::rev).collect::<Vec<_>>(), [old, old.next(), old.plus(2)]);
        }
        other => panic!("{other:?}"),
    }
    store.keep_alive(lease).await.expect("leases survive");
    assert_eq!(put(&store, "/t/a", "3").await, last.next());
    store.revoke(lease).await.expect("revoke");
    assert_eq!(store.range(RangeRequest::prefix("/t/")).await.expect("range").items.len(), 1);
    close(store, tasks).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_each_lease_has_its_full_time_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    let lease = store.grant(10).await.expect("grant");
    tokio::time::sleep(Duration::from_secs(9)).await;
    close(store, tasks).await;

    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    tokio::time::sleep(Duration::from_secs(9)).await;
    store.keep_alive(lease).await.expect("nine of ten seconds have passed");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseNotFound)));
    close(store, tasks).await;
}

async fn assert_ten_revisions_are_kept(store: &EmbeddedStore, last: Revision) {
    let newest_dropped = Revision::new(last.get() - 10);
    let dropped = first_item(store, newest_dropped).await;
    assert!(matches!(dropped, Err(StoreError::Compacted(rev)) if rev == newest_dropped));
    let kept = first_item(store, newest_dropped.next()).await;
    assert!(matches!(kept, Ok(WatchItem::Events(events)) if events.len() == 10));
}

#[tokio::test]
async fn history_is_bounded_also_in_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = EmbeddedConfig { revisions_kept: 10, ..EmbeddedConfig::default() };
    let tasks = Tasks::new();
    let store = open(&directory, config.clone(), &tasks);
    let mut last = Revision::ZERO;
    for n in 0..50 {
        last = put(&store, "/t/a", &n.to_string()).await;
    }
    assert_ten_revisions_are_kept(&store, last).await;
    close(store, tasks).await;

    let tasks = Tasks::new();
    let store = open(&directory, config, &tasks);
    assert_ten_revisions_are_kept(&store, last).await;
    close(store, tasks).await;
}

#[tokio::test]
async fn a_watch_that_is_too_slow_ends_with_compacted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let config = EmbeddedConfig { revisions_kept: 5, ..EmbeddedConfig::default() };
    let store = open(&directory, config, &tasks);
    let from = put(&store, "/t/a", "0").await;
    let mut watch = store.watch("/t/", from).await.expect("opens");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events(_)))));
    for n in 0..20 {
        put(&store, "/t/a", &n.to_string()).await;
    }
    assert!(matches!(watch.next().await, Some(Err(StoreError::Compacted(_)))));
    assert!(watch.next().await.is_none(), "a watch ends after its first error");
}

#[tokio::test]
async fn a_watch_ends_when_its_store_is_closed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    let mut watch = store.watch("/t/", 1.into()).await.expect("opens");
    assert_eq!(watch.next().await.expect("an item").expect("sound"), WatchItem::Progress(1.into()));
    close(store, tasks).await;
    assert!(matches!(watch.next().await, Some(Err(StoreError::Unavailable(_)))));
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    let path = directory.path().join("data/muster.redb");
    let second = EmbeddedStore::open(&path, EmbeddedConfig::default(), &tasks);
    assert!(matches!(second.err(), Some(OpenError::Locked(_))));
    put(&store, "/t/a", "still works").await;
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig::default(), &tasks);
    put(&store, "/t/a", &"x".repeat(10_000)).await;
    close(store, tasks).await;
    let path = directory.path().join("data/muster.redb");
    let sound = fs::read(&path).expect("readable");

    let mut zeroed = sound.clone();
    // The first page stays, so that the file still looks like a database.
    zeroed[4096..].fill(0);
    for (damage, bytes) in [
        ("text", &b"this is not a database, it is a text file"[..]),
        ("cut short", &sound[..sound.len() / 3]),
        ("zeroed", &zeroed[..]),
    ] {
        fs::write(&path, bytes).expect("writable");
        match EmbeddedStore::open(&path, EmbeddedConfig::default(), &Tasks::new()) {
            Err(OpenError::Corrupt { .. } | OpenError::Io { .. }) => {}
            Err(other) => panic!("{damage}: {other}"),
            Ok(_) => panic!("{damage}: opened"),
        }
    }
    fs::remove_file(&path).expect("removable");
    fs::create_dir(&path).expect("a directory in its place");
    let error = EmbeddedStore::open(&path, EmbeddedConfig::default(), &Tasks::new()).err().expect("refused");
    assert!(matches!(error, OpenError::NotAFile(_)), "{error}");
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_with_both_numbers() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tasks = Tasks::new();
    close(open(&directory, EmbeddedConfig::default(), &tasks), tasks).await;
    let path = directory.path().join("data/muster.redb");
    let database = redb::Database::open(&path).expect("opens");
    let transaction = database.begin_write().expect("begins");
    let table = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(table).expect("a table").insert("format", 7).expect("inserted");
    transaction.commit().expect("committed");
    drop(database);
    let error = EmbeddedStore::open(&path, EmbeddedConfig::default(), &Tasks::new()).err().expect("refused");
    assert!(error.to_string().ends_with("has the format 7; this program reads 1 and 2"), "{error}");
}

#[test]
fn a_removed_or_replaced_file_is_not_reopened() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("muster.redb");
    assert!(matches!(StoreFile::reopen(&path, 1).err(), Some(OpenError::Io { .. })));
    assert!(!path.exists());
    drop(StoreFile::open(&path).unwrap_or_else(|error| panic!("{error}")));
    assert!(StoreFile::reopen(&path, 1).is_ok());
    assert!(matches!(StoreFile::reopen(&path, 7).err(), Some(OpenError::Corrupt { .. })));
}

/// The variable that gives the child process of the test below its file.
const VICTIM: &str = "MUSTER_STORE_VICTIM";

/// The process that the next test kills. Run as a test of its own, without the variable, it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn victim_of_kill_9() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let store = EmbeddedStore::open(path, EmbeddedConfig::default(), &Tasks::new()).expect("opens");
    let store = &store;
    let writers = (0..8).map(|writer| async move {
        for n in 0_u64.. {
            let pair = ["left", "right"].map(|side| Op::put(format!("/t/{writer}/{side}"), n.to_string()));
            let reply = store.txn(Txn { then: pair.to_vec(), ..Txn::default() }).await.expect("txn");
            println!("answered {writer} {n} {}", reply.revision);
        }
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test]
async fn an_acknowledged_write_survives_kill_9_at_any_moment() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("muster.redb");
    let mut floor = Revision::new(1);
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "--nocapture", "store::embedded::tests::victim_of_kill_9"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program starts again");
        let output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut answered = [None; 8];
        let mut last = Revision::ZERO;
        // Killed after a different number of writes in each round, so at different moments of a batch.
        let enough = 50 + 37 * round;
        let lines = std::io::BufRead::lines(output).map_while(Result::ok);
        for (count, line) in lines.filter(|line| line.starts_with("answered")).enumerate() {
            let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
            // The last line may be cut short by the kill.
            let [writer, n, rev] = fields[..] else { continue };
            answered[writer as usize] = Some(n);
            last = last.max(Revision::new(rev));
            if count == enough {
                child.kill().expect("SIGKILL");
            }
        }
        child.wait().expect("reaped");
        assert!(last > floor, "the victim has written");

        let file = StoreFile::open(&path).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let (state, _) = file.load().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(state.rev >= last, "revision {last} was acknowledged, but the file has {}", state.rev);
        for (writer, answered) in answered.iter().enumerate() {
            let [left, right] = ["left", "right"].map(|side| {
                let kv = state.keys.get(format!("/t/{writer}/{side}").as_str());
                kv.map(|kv| String::from_utf8_lossy(&kv.value).parse::<u64>().expect("a number"))
            });
            assert_eq!(left, right, "a transaction is in the file as a whole or not at all");
            assert!(left >= *answered, "writer {writer}: {answered:?} was acknowledged");
        }
        floor = state.rev;
    }
}

#[tokio::test]
async fn a_write_beyond_the_quota_is_refused_and_a_delete_makes_room() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = EmbeddedConfig { quota: 1000, ..EmbeddedConfig::default() };
    let tasks = Tasks::new();
    let store = open(&directory, config.clone(), &tasks);
    let text = |length: usize| "x".repeat(length);
    let try_put = async |store: &EmbeddedStore, key: &str, length: usize| {
        store.txn(Txn { then: vec![Op::put(key, text(length))], ..Txn::default() }).await
    };
    let used = async |store: &EmbeddedStore| store.space().await.expect("is told").expect("has a quota").used;
    let old = put(&store, "/t/a", &text(496)).await;
    put(&store, "/t/b", &text(396)).await;
    assert_eq!(used(&store).await, 900);
    let refused = try_put(&store, "/t/c", 97).await;
    assert!(
        matches!(&refused, Err(StoreError::Full(reason)) if reason == "900 of 1000 bytes are used"),
        "{refused:?}"
    );
    let keys = store.range(RangeRequest::prefix("/t/")).await.expect("range");
    assert_eq!((keys.items.len(), keys.revision), (2, old.next()), "a refused write leaves nothing behind");
    try_put(&store, "/t/c", 96).await.expect("there is room for that");
    assert!(store.space().await.expect("is told").expect("has a quota").full);
    assert!(try_put(&store, "/t/c", 97).await.is_err());
    try_put(&store, "/t/a", 396).await.expect("a smaller value makes room");
    assert_eq!(used(&store).await, 900);
    // Reading the past does not count.
    let past = RangeRequest { revision: Some(old), ..RangeRequest::key("/t/a") };
    assert_eq!(store.range(past).await.expect("history is kept").items[0].value.len(), 496);
    close(store, tasks).await;

    // With a smaller quota the store opens, and only what makes it smaller passes.
    let tasks = Tasks::new();
    let store = open(&directory, EmbeddedConfig { quota: 500, ..config }, &tasks);
    assert_eq!(used(&store).await, 900);
    assert!(try_put(&store, "/t/d", 1).await.is_err());
    try_put(&store, "/t/b", 10).await.expect("is smaller");
    store.txn(Txn { then: vec![Op::Delete("/t/a".into())], ..Txn::default() }).await.expect("makes room");
    try_put(&store, "/t/d", 1).await.expect("there is room");
    close(store, tasks).await;
}
