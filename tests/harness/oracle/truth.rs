//! The truth, read from etcd by a client of the test's own: every commit of every instance, in order.
//!
//! Goes on after etcd was down, from the revision it had reached. It is connected to etcd directly: links
//! that a test cuts are not its own. It must have seen what a test compacts away; see [`Truth::reaches`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, WatchOptions};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Ledger, STAMP};
use crate::eventually;
use crate::hostile::TENANT;

/// The prefix of all instances in etcd.
pub const INSTANCES: &str = "/cse-sr/inst/files/";

/// A commit of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The revision of it.
    pub rev: u64,
    /// The stamp that was written; `None`: the instance was deleted.
    pub stamp: Option<u64>,
    /// The time at which the truth received it.
    pub at: Instant,
}

/// Every commit, by instance, oldest first.
pub type Commits = HashMap<u32, Vec<Commit>>;

#[derive(Debug, Default)]
struct KnownCommits {
    commits: Commits,
    /// The service of each instance.
    services: HashMap<u32, Arc<str>>,
    reached: u64,
}

/// Follows etcd until dropped.
pub struct Truth {
    endpoint: String,
    ledger: Ledger,
    known: Arc<Mutex<KnownCommits>>,
    following: JoinHandle<()>,
}

impl Truth {
    /// Begins with what is there now.
    ///
    /// # Panics
    /// When etcd cannot be asked.
    pub async fn follow(endpoint: String, ledger: Ledger) -> Self {
        let known = Arc::new(Mutex::new(KnownCommits::default()));
        let mut client = Client::connect([&endpoint], None).await.expect("etcd can be asked");
        let options = GetOptions::new().with_prefix();
        let there = client.get(INSTANCES, Some(options)).await.expect("etcd answers");
        {
            let mut known = known.lock();
            for kv in there.kvs() {
                known.note(&ledger, kv.key(), Some(kv.value()), kv.mod_revision().cast_unsigned());
            }
            // The revision of the listing and not of the newest instance, so that the watch begins right
            // after it.
            known.reached = there.header().map_or(0, |header| header.revision().cast_unsigned());
        }
        let of_task = known.clone();
        let task_ledger = ledger.clone();
        let task_endpoint = endpoint.clone();
        let following = tokio::spawn(async move {
            loop {
                // An error means that etcd is away. The next watch begins after the revision that was
                // reached.
                let _ = watch(&task_endpoint, &task_ledger, &of_task).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { endpoint, ledger, known, following }
    }

    /// etcd's revision now, from etcd itself.
    ///
    /// # Panics
    /// When etcd cannot be asked before the deadline.
    pub async fn revision(&self) -> u64 {
        eventually("etcd tells its revision", || async {
            let mut client = Client::connect([&self.endpoint], None).await.ok()?;
            let answer = client.get("/", None).await.ok()?;
            answer.header().map(|header| header.revision().cast_unsigned())
        })
        .await
    }

    /// Waits until everything up to now is known here, and gives the revision of it. Compares with what etcd
    /// lists, so that the truth itself is checked.
    ///
    /// # Panics
    /// When etcd cannot be asked, or lists something else.
    pub async fn reaches(&self) -> u64 {
        let (listed, rev) = eventually("etcd lists the instances", || async {
            let mut client = Client::connect([&self.endpoint], None).await.ok()?;
            let answer = client.get(INSTANCES, Some(GetOptions::new().with_prefix())).await.ok()?;
            let listed: HashMap<u32, u64> = answer
                .kvs()
                .iter()
                .filter_map(|kv| Some((key_of(&self.ledger, kv.key())?.0, kv.mod_revision().cast_unsigned())))
                .collect();
            Some((listed, answer.header()?.revision().cast_unsigned()))
        })
        .await;
        eventually("the truth has seen what etcd has", || async {
            let known = self.known.lock();
            let last = |key: &u32| {
                let commits = known.commits.get(key)?;
                let upto = commits.partition_point(|commit| commit.rev <= rev);
                commits.get(upto.checked_sub(1)?).filter(|commit| commit.stamp.is_some()).map(|c| c.rev)
            };
            let all = listed.iter().all(|(key, rev)| last(key) == Some(*rev));
            let none_else = known.commits.keys().all(|key| last(key).is_none() || listed.contains_key(key));
            (all && none_else).then_some(())
        })
        .await;
        rev
    }

    /// Every commit so far of instances of these services.
    pub fn commits(&self, services: &[String]) -> Commits {
        let known = self.known.lock();
        let wanted =
            |key: &u32| known.services.get(key).is_some_and(|s| services.iter().any(|name| **name == **s));
        known.commits.iter().filter(|(key, _)| wanted(key)).map(|(key, c)| (*key, c.clone())).collect()
    }

    /// Commits after a revision, of all services.
    pub fn count_after(&self, rev: u64) -> usize {
        let known = self.known.lock();
        known.commits.values().map(|commits| commits.iter().filter(|commit| commit.rev > rev).count()).sum()
    }
}

impl Drop for Truth {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl KnownCommits {
    fn note(&mut self, ledger: &Ledger, key: &[u8], value: Option<&[u8]>, rev: u64) {
        let Some((key, service)) = key_of(ledger, key) else { return };
        let stamp = value.map(stamp_of);
        self.services.entry(key).or_insert(service);
        self.commits.entry(key).or_default().push(Commit { rev, stamp, at: Instant::now() });
    }
}

async fn watch(
    endpoint: &str,
    ledger: &Ledger,
    known: &Mutex<KnownCommits>,
) -> Result<(), etcd_client::Error> {
    let from = known.lock().reached + 1;
    let mut client = Client::connect([endpoint], None).await?;
    let options = WatchOptions::new().with_prefix().with_start_revision(from.cast_signed());
    let mut stream = client.watch(INSTANCES, Some(options)).await?;
    while let Some(response) = stream.message().await? {
        let mut known = known.lock();
        // A response has whole revisions: fragments were not asked for.
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let value = (event.event_type() == EventType::Put).then(|| kv.value());
            let rev = kv.mod_revision().cast_unsigned();
            known.note(ledger, kv.key(), value, rev);
            known.reached = known.reached.max(rev);
        }
    }
    Ok(())
}

/// `/cse-sr/inst/files/{domain}/{project}/{service}/{instance}`. What hostile clients write is none of the witnesses'.
fn key_of(ledger: &Ledger, key: &[u8]) -> Option<(u32, Arc<str>)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(INSTANCES)?;
    let mut parts = rest.splitn(4, '/');
    if parts.next()?.starts_with(TENANT) {
        return None;
    }
    let mut parts = parts.skip(1);
    let service = parts.next()?;
    let instance = parts.next()?;
    Some((ledger.key(service, instance), service.into()))
}

fn stamp_of(value: &[u8]) -> u64 {
    let value: Value = serde_json::from_slice(value).unwrap_or_default();
    value["properties"][STAMP].as_str().and_then(|stamp| stamp.parse().ok()).unwrap_or(0)
}
