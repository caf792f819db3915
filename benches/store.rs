//! The rates of the stores: transactions by number of writers, and renewals of leases.
//!
//! The floor of a transaction is one durable write; what many writers gain is how well writes are bundled.
//! The floor of a renewal is one round trip; what pipelining gains is how many are under way at once.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::Latencies;
use control_plane::store::embedded::{EmbeddedConfig, EmbeddedStore};
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{LeaseId, Op, Store, Txn};
use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::Etcd;
use host::lifecycle::Tasks;

const LONG: Duration = Duration::from_secs(2);
const LEASES: usize = 10_000;
/// As large as the JSON of an instance usually is.
const VALUE: [u8; 600] = [b'x'; 600];

#[tokio::main]
async fn main() -> Result<()> {
    eprintln!(
        "{:<10} {:<34} {:>10} {:>9} {:>9} {:>9}",
        "store", "what", "per s", "p50 ms", "p99 ms", "worst ms"
    );
    let directory = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let file = directory.path().join("muster.redb");
    let embedded = EmbeddedStore::open(file, EmbeddedConfig::default(), &tasks)?;
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let remote = EtcdStore::connect(config, &tasks);

    for writers in [1, 10, 100, 1000] {
        transactions("embedded", embedded.clone(), writers).await?;
        transactions("etcd", remote.clone(), writers).await?;
    }
    let leases = grant(&*remote).await?;
    renewals("renewals, all at once", LEASES, || burst(&*remote, &leases)).await?;
    // Renewed a moment ago is answered without etcd; that is not what is measured next.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Fewer leases than in the burst, because each of them now pays a whole round trip.
    renewals("renewals, one by one", 1000, || one_by_one(&*remote, &leases[..1000])).await?;
    let client = etcd_client::Client::connect([etcd.endpoint()], None).await?;
    Box::pin(renewals("renewals, a stream for each", 1000, || streams(client, &leases[..1000]))).await
}

fn report(store: &str, what: &str, latencies: &Latencies) {
    let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| latencies.quantile_ms(share));
    let per_second = latencies.per_second();
    eprintln!("{store:<10} {what:<34} {per_second:>10.0} {p50:>9.2} {p99:>9.2} {worst:>9.2}");
    let figure = serde_json::json!({
        "bench": "store", "store": store, "what": what, "count": latencies.count(), "per_second": per_second,
        "p50_ms": p50, "p99_ms": p99, "worst_ms": worst, "optimised": !cfg!(debug_assertions),
    });
    println!("{figure}");
}

async fn transactions(name: &str, store: Arc<dyn Store>, writers: usize) -> Result<()> {
    let start = Instant::now();
    let writer = |writer: usize| {
        let store = store.clone();
        async move {
            let mut calls = Vec::new();
            for n in 0_usize.. {
                let began = Instant::now();
                if began - start > LONG {
                    break;
                }
                let op = Op::put(format!("/bench/{writer}/{}", n % 100), VALUE.to_vec());
                store.txn(Txn { then: vec![op], ..Txn::default() }).await?;
                calls.push(began.elapsed());
            }
            Result::<_>::Ok(calls)
        }
    };
    let calls = try_join_all((0..writers).map(writer)).await?.concat();
    report(name, &format!("transactions, {writers} writers"), &Latencies::new(calls, start.elapsed()));
    Ok(())
}

async fn grant(store: &dyn Store) -> Result<Vec<LeaseId>> {
    let granted = stream::iter(0..LEASES).map(|_| store.grant(600)).buffer_unordered(500);
    Ok(granted.try_collect().await?)
}

async fn renewals<F>(what: &str, leases: usize, renew: impl FnOnce() -> F) -> Result<()>
where
    F: Future<Output = Result<Vec<Duration>>>,
{
    let start = Instant::now();
    let calls = renew().await?;
    report("etcd", &format!("{what}, {leases} leases"), &Latencies::new(calls, start.elapsed()));
    Ok(())
}

async fn timed(store: &dyn Store, lease: LeaseId) -> Result<Duration> {
    let start = Instant::now();
    store.keep_alive(lease).await?;
    Ok(start.elapsed())
}

async fn burst(store: &dyn Store, leases: &[LeaseId]) -> Result<Vec<Duration>> {
    join_all(leases.iter().map(|lease| timed(store, *lease))).await.into_iter().collect()
}

async fn one_by_one(store: &dyn Store, leases: &[LeaseId]) -> Result<Vec<Duration>> {
    let mut calls = Vec::new();
    for lease in leases {
        calls.push(timed(store, *lease).await?);
    }
    Ok(calls)
}

/// The way of a client without a shared stream.
async fn streams(client: etcd_client::Client, leases: &[LeaseId]) -> Result<Vec<Duration>> {
    let mut calls = Vec::new();
    for lease in leases {
        let start = Instant::now();
        // Opening the stream sends the renewal and awaits its answer.
        client.lease_client().keep_alive(lease.get()).await?;
        calls.push(start.elapsed());
    }
    Ok(calls)
}
