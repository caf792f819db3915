//! Files that are not what was written: each is refused, or served as it was.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::head::Head;
use super::state::StoreState;
use super::*;
use crate::store::{KeyValue, Op};

/// The keys and the leases of a store, in order.
type Held = (Vec<KeyValue>, Vec<(LeaseId, i64)>);

/// A store on a file, with everything that it holds.
struct Written {
    directory: TempDir,
    path: PathBuf,
    keys: Vec<KeyValue>,
    leases: Vec<(LeaseId, i64)>,
}

fn contents(state: &StoreState) -> Held {
    let keys = state.keys.iter().map(|(_, kv)| KeyValue::clone(kv)).collect();
    let mut leases: Vec<_> = state.leases.iter().map(|(lease, entry)| (*lease, entry.ttl)).collect();
    leases.sort();
    (keys, leases)
}

/// Writes a store of some pages, and returns it closed or, as after a crash, not closed.
async fn written(is_closed: bool) -> Written {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let live = directory.path().join("live/muster.redb");
    let path = directory.path().join("muster.redb");
    let tasks = Tasks::new();
    let store = EmbeddedStore::open(&live, EmbeddedConfig::default(), &tasks).expect("opens");
    for n in 0..40 {
        let lease = if n % 4 == 0 { Some(store.grant(30 + n).await.expect("granted")) } else { None };
        let put = Op::Put { key: format!("/t/{n:03}"), value: vec![b'v'; 300].into(), lease };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.expect("txn");
    }
    let then = vec![Op::Delete("/t/001".into()), Op::put("/t/last", "the last write")];
    store.txn(Txn { then, ..Txn::default() }).await.expect("txn");
    let (keys, leases) = contents(&store.shared.state());
    if !is_closed {
        copy(&live, &path);
    }
    drop(store);
    tasks.drain().cancel();
    assert!(tasks.finish(Duration::from_secs(30)).await, "the writer ends with its last handle");
    if is_closed {
        copy(&live, &path);
    }
    Written { directory, path, keys, leases }
}

/// Copies a store with its head.
fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("copied");
    fs::copy(Head::path(from), Head::path(to)).expect("copied");
}

fn open(path: &Path) -> Result<Held, OpenError> {
    let file = StoreFile::open(path)?;
    file.load().map(|(state, _)| contents(&state))
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).expect("writable");
}

impl Written {
    /// Opens a copy of the store with one bit flipped, which must give all of it or an error.
    fn assert_same_or_refused(&self, bit: usize) {
        let path = self.directory.path().join("damaged.redb");
        copy(&self.path, &path);
        flip(&path, bit);
        match open(&path) {
            Ok((keys, leases)) => {
                assert!(keys == self.keys, "bit {bit}: served {} of {} keys", keys.len(), self.keys.len());
                assert_eq!(leases, self.leases, "bit {bit}");
            }
            Err(OpenError::Corrupt { .. } | OpenError::Behind { .. } | OpenError::UnknownFormat { .. }) => {}
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }

    /// The bits of the file that are set or lie beside set ones; the rest of the file was never used.
    fn used_bits(&self) -> Vec<usize> {
        let bytes = fs::read(&self.path).expect("readable");
        let pages = bytes.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        pages.flat_map(|(page, bytes)| (0..bytes.len() * 8).map(move |bit| page * 4096 * 8 + bit)).collect()
    }
}

fn assert_any_flip_is_seen(is_closed: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let written = runtime.block_on(written(is_closed));
    assert_eq!(open(&written.path).expect("sound").0, written.keys);
    // The flags and the numbers of the header decide most, so each kind of byte there is tried.
    let header = (0..320 * 8).step_by(11).chain(9 * 8..10 * 8);
    header.for_each(|bit| written.assert_same_or_refused(bit));
    let used = written.used_bits();
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(index in 0..used.len())| written.assert_same_or_refused(used[index]));
}

#[test]
fn a_closed_file_with_any_flipped_bit_is_the_same_or_refused() {
    assert_any_flip_is_seen(true);
}

#[test]
fn a_crashed_file_with_any_flipped_bit_is_the_same_or_refused() {
    assert_any_flip_is_seen(false);
}

#[tokio::test]
async fn a_refused_file_is_left_as_it_was() {
    let written = written(false).await;
    let last = fs::read(&written.path).expect("readable");
    let at = last.windows(14).rposition(|bytes| bytes == b"the last write").expect("is there");
    flip(&written.path, at * 8);
    let damaged = fs::read(&written.path).expect("readable");
    for _ in 0..2 {
        let error = open(&written.path).expect_err("damaged");
        let advice = error.to_string();
        assert!(advice.contains("salvage") || advice.contains("were acknowledged"), "{advice}");
        assert!(fs::read(&written.path).expect("readable") == damaged, "the damage must stay visible");
    }
}

#[tokio::test]
async fn an_empty_file_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("muster.redb");
    fs::write(&path, b"").expect("written");
    let error = EmbeddedStore::open(&path, EmbeddedConfig::default(), &Tasks::new()).err().expect("refused");
    assert!(error.to_string().contains("is empty: its contents were lost"), "{error}");
    assert_eq!(fs::metadata(&path).expect("is there").len(), 0);
    assert!(matches!(check(&path), Err(OpenError::Empty(_))));
}

#[tokio::test]
async fn a_file_that_is_gone_is_not_begun_anew() {
    let written = written(true).await;
    fs::remove_file(&written.path).expect("removed");
    assert!(matches!(open(&written.path), Err(OpenError::Missing { .. })));
    fs::remove_file(Head::path(&written.path)).expect("removed");
    assert_eq!(open(&written.path).expect("an empty registry, as asked for").0, []);
}

#[tokio::test]
async fn an_older_copy_is_served_only_when_asked_for() {
    let written = written(true).await;
    let old = written.directory.path().join("old.redb");
    fs::copy(&written.path, &old).expect("copied");
    let tasks = Tasks::new();
    let store = EmbeddedStore::open(&written.path, EmbeddedConfig::default(), &tasks).expect("opens");
    store.txn(Txn { then: vec![Op::put("/t/new", "x")], ..Txn::default() }).await.expect("txn");
    drop(store);
    tasks.drain().cancel();
    assert!(tasks.finish(Duration::from_secs(30)).await, "the writer ends with its last handle");
    fs::copy(&old, &written.path).expect("copied");
    let error = open(&written.path).expect_err("older than acknowledged");
    assert!(error.to_string().contains("ends at revision 42, but writes up to revision 43"), "{error}");
    fs::remove_file(Head::path(&written.path)).expect("removed");
    assert_eq!(open(&written.path).expect("on purpose").0, written.keys);
}

#[tokio::test]
async fn a_file_of_the_first_format_is_rewritten_with_checksums() {
    let written = written(true).await;
    let old = written.directory.path().join("old.redb");
    {
        let (state, log) = StoreFile::open(&written.path).and_then(|file| file.load()).expect("sound");
        let database = redb::Database::create(&old).expect("created");
        let transaction = database.begin_write().expect("begins");
        {
            let mut meta = transaction.open_table(file::META).expect("opens");
            for (name, value) in [("format", 1), ("revision", state.rev.get()), ("batch", 9)] {
                meta.insert(name, value).expect("inserted");
            }
            let mut keys = transaction.open_table(file::KEYS).expect("opens");
            for (key, kv) in &state.keys {
                keys.insert(&**key, record::encode_bare_value(kv).as_slice()).expect("inserted");
            }
            let mut commits = transaction.open_table(file::LOG).expect("opens");
            for commit in log.since(1.into(), usize::MAX).expect("all") {
                let bytes = record::encode_bare_commit(&commit);
                commits.insert(commit.rev.get(), bytes.as_slice()).expect("inserted");
            }
            let mut leases = transaction.open_table(file::BARE_LEASES).expect("opens");
            for (lease, entry) in state.leases.iter() {
                leases.insert(lease.get(), entry.ttl).expect("inserted");
            }
        }
        transaction.commit().expect("committed");
    }
    for round in 0..2 {
        let file = StoreFile::open(&old).unwrap_or_else(|error| panic!("{round}: {error}"));
        let (state, log) = file.load().expect("sound");
        assert_eq!(contents(&state), (written.keys.clone(), written.leases.clone()), "{round}");
        assert_eq!((log.last(), file.batch), (state.rev, 9), "{round}");
    }
    let whole = record::scan(&fs::read(&old).expect("readable")).count();
    assert!(whole >= written.keys.len() + written.leases.len(), "{whole} records have checksums");
}

#[tokio::test]
async fn a_check_tells_a_sound_file_from_a_damaged_one() {
    let written = written(true).await;
    let summary = check(&written.path).expect("sound");
    assert_eq!((summary.keys, summary.leases), (written.keys.len(), written.leases.len()));
    assert!(summary.witnessed);
    let head = Head::path(&written.path);
    let witness = fs::read(&head).expect("a head");
    fs::write(&head, "not a head").expect("writable");
    assert!(!check(&written.path).expect("sound").witnessed, "a damaged head shows nothing");
    fs::remove_file(&head).expect("removable");
    assert!(!check(&written.path).expect("a copy is sound").witnessed);
    fs::write(&head, witness).expect("writable");
    let in_use = StoreFile::open(&written.path).unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(check(&written.path), Err(OpenError::Locked(_))));
    drop(in_use);
    flip(&written.path, 3);
    assert!(matches!(check(&written.path), Err(OpenError::Corrupt { .. })));
    assert!(matches!(check(Path::new("/no/such/file")), Err(OpenError::Io { .. })));
}

#[tokio::test]
async fn what_is_no_file_is_refused_by_its_own_name() {
    let Written { directory, path, .. } = written(true).await;
    let tasks = Tasks::new();
    let open = |path: &Path| EmbeddedStore::open(path, EmbeddedConfig::default(), &tasks).err();
    let to = directory.path().join("saved/muster.redb");
    // A socket, which cannot be opened. To open a pipe would be to wait for somebody who writes.
    let socket = directory.path().join("socket.redb");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let head = Head::path(&path);
    fs::remove_file(&head).expect("removed");
    fs::create_dir(&head).expect("a directory");
    for (path, named) in [(&socket, &socket), (&path, &head)] {
        let refusals = [check(path).err(), salvage(path, &to).err(), open(path)];
        for refusal in refusals {
            let refusal = refusal.expect("refused");
            assert!(matches!(&refusal, OpenError::NotAFile(path) if path == named), "{refusal:?}");
        }
    }
    assert!(!to.exists());
}

#[tokio::test]
async fn salvage_does_not_write_through_a_link() {
    let Written { directory, path, .. } = written(true).await;
    let (link, elsewhere) = (directory.path().join("link.redb"), directory.path().join("elsewhere.redb"));
    std::os::unix::fs::symlink(&elsewhere, &link).expect("linked");
    let refusal = salvage(&path, &link).expect_err("something has this name");
    assert!(matches!(refusal, OpenError::Exists(_)), "{refusal}");
    assert!(!elsewhere.exists());
}

#[tokio::test]
async fn salvage_saves_all_behind_a_damaged_header() {
    let written = written(false).await;
    let saved = written.directory.path().join("saved/muster.redb");
    flip(&written.path, 3);
    let salvage = salvage(&written.path, &saved).expect("saved");
    assert_eq!(salvage.way, SalvageWay::Whole);
    assert_eq!(open(&saved).expect("sound"), (written.keys.clone(), written.leases.clone()));
    for to in [&saved, &written.path] {
        let again = super::salvage(&written.path, to).expect_err("nothing is overwritten");
        assert!(matches!(again, OpenError::Exists(_)), "{again}");
    }
}

#[tokio::test]
async fn salvage_saves_every_whole_record_of_a_damaged_file() {
    let written = written(false).await;
    // Each record of one key, wherever it lies, and the pages of the database that lead to the others.
    let mut bytes = fs::read(&written.path).expect("readable");
    let places: Vec<_> =
        bytes.windows(6).enumerate().filter(|(_, at)| *at == b"/t/017").map(|(at, _)| at).collect();
    places.into_iter().for_each(|at| bytes[at] ^= 1);
    fs::write(&written.path, bytes).expect("writable");
    let saved = written.directory.path().join("saved.redb");
    let salvage = salvage(&written.path, &saved).expect("saved");
    assert_eq!(salvage.way, SalvageWay::Records);
    let (keys, leases) = open(&saved).expect("sound");
    let expected: Vec<_> = written.keys.iter().filter(|kv| kv.key != "/t/017").cloned().collect();
    assert!(keys == expected, "{} of {} keys", keys.len(), expected.len());
    assert_eq!(leases, written.leases);
    assert!(salvage.summary.revision > 42, "no revision that a client has seen begins again");
}
