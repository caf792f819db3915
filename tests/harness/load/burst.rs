//! Many changes at once: written to etcd by transactions, as another registry on the same cluster would.
//!
//! A transaction changes many instances at one revision, so ten thousand changes take a second, not minutes.

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use serde_json::Value;

use crate::oracle::truth::INSTANCES;
use crate::oracle::{Ledger, STAMP};

/// Operations that etcd takes in one transaction unless it is told otherwise.
const AT_ONCE: usize = 120;

/// A writer of bursts over fixed instances, which nobody else writes.
pub struct Burst {
    endpoint: String,
    ledger: Ledger,
    instances: Vec<(String, Value)>,
}

impl Burst {
    /// Over the instances of these services whose id starts with `prefix`, in the default project.
    ///
    /// # Panics
    /// When etcd cannot be asked.
    pub async fn over(endpoint: String, ledger: Ledger, services: &[String], prefix: &str) -> Self {
        let mut client = Client::connect([&endpoint], None).await.expect("etcd can be asked");
        let mut instances = Vec::new();
        for service in services {
            let key = format!("{INSTANCES}default/default/{service}/{prefix}");
            let found = client.get(key, Some(GetOptions::new().with_prefix())).await.expect("etcd answers");
            for kv in found.kvs() {
                let key = kv.key_str().expect("our keys are text").to_owned();
                instances.push((key, serde_json::from_slice(kv.value()).expect("our values are JSON")));
            }
        }
        Self { endpoint, ledger, instances }
    }

    /// Makes every value larger by about so many bytes.
    pub fn pad(&mut self, bytes: usize) {
        for (_, value) in &mut self.instances {
            value["properties"]["padding"] = "x".repeat(bytes).into();
        }
    }

    /// Instances that are written.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// There is nothing to write to.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// Changes every instance once, in as few transactions as etcd takes.
    ///
    /// # Errors
    /// When etcd does not answer; what was written is not known then.
    pub async fn round(&mut self) -> Result<(), etcd_client::Error> {
        let mut client = Client::connect([&self.endpoint], None).await?;
        self.round_by(&mut client).await
    }

    /// Changes every instance `rounds` times.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn rounds(&mut self, rounds: usize) -> Result<(), etcd_client::Error> {
        let mut client = Client::connect([&self.endpoint], None).await?;
        for _ in 0..rounds {
            self.round_by(&mut client).await?;
        }
        Ok(())
    }

    async fn round_by(&mut self, client: &mut Client) -> Result<(), etcd_client::Error> {
        for some in self.instances.chunks_mut(AT_ONCE) {
            let ledger = &self.ledger;
            let puts: Vec<TxnOp> = some
                .iter_mut()
                .map(|(key, value)| {
                    value["properties"][STAMP] = ledger.stamp().to_string().into();
                    // A plain put would take the instance off its lease, and it would never expire.
                    TxnOp::put(key.as_str(), value.to_string(), Some(PutOptions::new().with_ignore_lease()))
                })
                .collect();
            client.txn(Txn::new().and_then(puts)).await?;
        }
        Ok(())
    }
}
