//! System tests.

mod store_etcd;
