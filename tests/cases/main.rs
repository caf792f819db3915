//! System tests.

mod outage;
mod push;
mod standalone;
mod store_etcd;
