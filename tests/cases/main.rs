//! System tests.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

mod admin_access;
mod attacks;
mod audit;
mod backup;
mod bus_access;
mod certificates;
mod concurrent;
mod dashboards;
mod deploy;
mod descriptors;
mod diff;
mod doctor;
mod documents;
mod edge_access;
mod event_stream;
mod examples;
mod faults;
mod helm;
mod history;
mod key_files;
mod key_rotation;
mod memory;
mod oidc;
mod operate;
mod outage;
mod push;
mod requests;
mod restore;
mod sdks;
mod selectors;
mod standalone;
mod store_cluster;
mod store_disk;
mod store_etcd;
mod store_faults;
mod store_full;
mod store_security;
mod switch_on;
mod tag_watch;
mod traces;
