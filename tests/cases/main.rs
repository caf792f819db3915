//! System tests.

mod deploy;
mod doctor;
mod faults;
mod helm;
mod operate;
mod outage;
mod push;
mod standalone;
mod store_cluster;
mod store_disk;
mod store_etcd;
mod store_faults;
mod store_security;
