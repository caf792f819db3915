//! System tests.

<<<<<<< HEAD
mod outage;
mod push;
mod standalone;
=======
mod store_cluster;
mod store_disk;
>>>>>>> store
mod store_etcd;
mod store_faults;
mod store_security;
