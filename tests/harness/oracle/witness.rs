//! A watcher that remembers everything it is told.
//!
//! When the connection of an old client ends it goes to the next gateway and, once it watches again, pulls
//! the state of its providers, as old clients do. A pull that says "there is nothing" of a provider that is
//! known to have instances is remembered as a lie. A new client resumes from what it is certain to have been
//! told; it also leaves by itself now and then, so that it resumes often.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Ledger, Mark, Pulled, STAMP, Segment};
use crate::{Client, deadline};

mod open_watch;

use open_watch::{OpenWatch, What};

/// Wait before a refused connection is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// The time limit of an upgrade.
const UPGRADE: Duration = Duration::from_secs(5);
/// For how long a new client stays, at least and at most.
// Leaving by itself makes a new client resume also in cases in which no fault breaks its connection.
const STAYS: [Duration; 2] = [Duration::from_millis(1500), Duration::from_secs(5)];

/// The protocol of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The WebSocket of old clients.
    Old,
    /// The WebSocket that is resumed.
    Resumed,
    /// The historical gRPC method.
    OldGrpc,
    /// `muster.watch.v1`.
    Grpc,
    /// Server-sent events, resumed by the id of the last one.
    Events,
}

impl Way {
    /// It goes on where it was.
    pub fn resumes(self) -> bool {
        matches!(self, Self::Resumed | Self::Grpc | Self::Events)
    }
}

/// The watch of a witness.
#[derive(Clone, Debug)]
pub struct WatchPlan {
    /// The consumer's id.
    pub consumer: String,
    /// The protocol.
    pub way: Way,
    /// Ids of the services it is to be told of.
    pub services: Vec<String>,
    /// Their names, in the same order; what an old client pulls after a reconnect.
    pub names: Vec<String>,
    /// Of these, those that are deleted and registered again.
    pub passing: Vec<String>,
    /// Gateways, the first of which it begins with.
    pub gateways: Vec<SocketAddr>,
    /// Its interest does not change: it is to be told everything.
    pub whole: bool,
    /// Bytes that the kernel keeps for it; small for one that is to be slow. `None`: as usual.
    pub receive_buffer: Option<u32>,
}

/// The record of a witness so far.
#[derive(Debug, Default)]
pub struct Record {
    /// Its connections.
    pub segments: Vec<Segment>,
    /// Pulls that claimed that there is nothing.
    pub lies: Vec<String>,
    /// It watches now.
    pub open: bool,
}

/// A running witness. Ends when dropped.
pub struct Witness {
    /// Its watch.
    pub plan: WatchPlan,
    record: Arc<Mutex<Record>>,
    reading: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Witness {
    /// Opens the watch and begins to remember.
    ///
    /// # Panics
    /// When the watch is not granted before the deadline.
    pub async fn begin(plan: WatchPlan, ledger: Ledger) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let (reading, reads) = watch::channel(true);
        let of_task = record.clone();
        let task_plan = plan.clone();
        let task = tokio::spawn(async move { live(&task_plan, &ledger, &of_task, reads).await });
        let witness = Self { plan, record, reading, task };
        tokio::time::timeout(deadline(), async {
            while !witness.record.lock().open {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("a watch is granted");
        witness
    }

    /// Stops or goes on reading from its connection.
    pub fn read(&self, on: bool) {
        self.reading.send_replace(on);
    }

    /// A copy of everything received so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.record.lock().segments.clone()
    }

    /// Looks at what it remembers.
    pub fn look<T>(&self, at: impl FnOnce(&Record) -> T) -> T {
        at(&self.record.lock())
    }

    /// Connections that it has had.
    pub fn connections(&self) -> usize {
        self.record.lock().segments.len()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(plan: &WatchPlan, ledger: &Ledger, record: &Mutex<Record>, mut reads: watch::Receiver<bool>) {
    let mut certain = 0;
    for attempt in 0.. {
        // In turn, so that a witness meets every gateway; a client behind a load balancer may come back to
        // any of them.
        let gateway = plan.gateways[attempt % plan.gateways.len()];
        let opening = OpenWatch::open(plan, gateway, certain);
        // The kernel of a stopped gateway still accepts connections, and nothing ever answers the upgrade.
        let Ok(Some(open_watch)) = tokio::time::timeout(UPGRADE, opening).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let number = {
            let mut record = record.lock();
            let resumed = plan.way.resumes().then_some(certain);
            record.segments.push(Segment { resumed, ..Segment::default() });
            record.open = true;
            record.segments.len() - 1
        };
        let receives = receive(open_watch, plan, ledger, record, number, &mut reads, &mut certain);
        if plan.way.resumes() {
            let stays = STAYS[0] + (STAYS[1] - STAYS[0]).mul_f64(fastrand::f64());
            // Passed: it leaves without a word.
            _ = tokio::time::timeout(stays, receives).await;
        } else if number == 0 {
            receives.await;
        } else {
            // Both at once: events of the new connection come while the state is pulled.
            let pulls = async {
                let pulled = pull(plan, ledger, gateway, record).await;
                record.lock().segments[number].pulled = Some(pulled);
                std::future::pending::<()>().await;
            };
            tokio::select! { () = receives => {}, () = pulls => {} }
        }
        record.lock().open = false;
    }
}

async fn receive(
    mut open_watch: OpenWatch,
    plan: &WatchPlan,
    ledger: &Ledger,
    record: &Mutex<Record>,
    number: usize,
    reads: &mut watch::Receiver<bool>,
    certain: &mut u64,
) {
    loop {
        // A witness that stalls must not poll its socket at all: each read would make room for the gateway.
        if reads.wait_for(|on| *on).await.is_err() {
            return;
        }
        let received = tokio::select! {
            received = open_watch.next(plan, ledger) => received,
            _ = reads.changed() => continue,
        };
        let Some(received) = received else { return };
        let mut record = record.lock();
        let segment = &mut record.segments[number];
        match received.what {
            What::Nothing => {}
            What::Sight(sight) => segment.sights.push(sight),
            What::State(state) => segment.marks.push((segment.sights.len(), Mark::State(state))),
            What::Bookmark => segment.marks.push((segment.sights.len(), Mark::Bookmark(received.certain))),
        }
        *certain = (*certain).max(received.certain);
    }
}

/// Pulls every provider until each has answered. Asks the gateway it watches on, as old clients do.
async fn pull(plan: &WatchPlan, ledger: &Ledger, gateway: SocketAddr, record: &Mutex<Record>) -> Pulled {
    let client = Client::new(gateway);
    let mut instances = HashMap::new();
    let mut at = None;
    for (service, provider) in plan.services.iter().zip(&plan.names) {
        let passes = plan.passing.contains(service);
        loop {
            match client.try_find(&plan.consumer, provider).await {
                Some(answer) if answer.status == 200 => {
                    at.get_or_insert_with(Instant::now);
                    let found = answer.ok();
                    let found = found["instances"].as_array().map_or(&[][..], Vec::as_slice);
                    // A provider that is deleted and registered again may truly have no instance for a
                    // moment.
                    if found.is_empty() && !passes {
                        record.lock().lies.push(format!("{provider} was said to have no instance"));
                    }
                    for instance in found {
                        let stamp = instance["properties"][STAMP].as_str().and_then(|text| text.parse().ok());
                        let service = instance["serviceId"].as_str().unwrap_or_default();
                        let id = instance["instanceId"].as_str().unwrap_or_default();
                        let key = ledger.key(service, id);
                        instances.insert(key, stamp.unwrap_or(0));
                    }
                    break;
                }
                // The service does not exist (now).
                Some(answer) if answer.status == 400 => {
                    at.get_or_insert_with(Instant::now);
                    break;
                }
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }
    Pulled { instances, at: at.unwrap_or_else(Instant::now) }
}
