//! System tests.

mod concurrent;
mod deploy;
mod faults;
mod outage;
mod push;
mod requests;
mod standalone;
mod store_cluster;
mod store_disk;
mod store_etcd;
mod store_faults;
mod store_security;
