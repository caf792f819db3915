//! System tests.

mod deploy;
mod faults;
mod outage;
mod push;
mod restore;
mod selectors;
mod standalone;
mod store_cluster;
mod store_disk;
mod store_etcd;
mod store_faults;
mod store_security;
