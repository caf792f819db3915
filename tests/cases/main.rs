//! System tests.

mod push;
mod store_etcd;
