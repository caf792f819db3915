//! System tests.

mod deploy;
mod store_etcd;
