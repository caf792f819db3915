//! System tests.

mod deploy;
mod push;
mod store_etcd;
