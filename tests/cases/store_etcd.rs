//! The contract of all stores on a real etcd.

use control_plane::store::contract::StoreUnderTest;
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use harness::Etcd;
use host::lifecycle::Tasks;

async fn subject() -> StoreUnderTest {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let store = EtcdStore::connect(config, &Tasks::new());
    StoreUnderTest::new(store, etcd)
}

control_plane::store_contract!(subject());
