//! The gateway as a whole: real sockets and clients, a bus in the process, a scripted control plane behind
//! it.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

mod access;
mod call;
mod control_plane;
mod dns;
mod drain;
mod drain_readers;
mod eureka;
mod events;
mod fairness;
mod farewell;
mod flood;
mod forwarding;
mod grpc;
mod heartbeat;
mod hostile;
mod http_sd;
mod identity;
mod lists;
mod over_nats;
mod rates;
mod reads;
mod replicas;
mod resume;
mod resync;
mod rfc6455;
mod rights;
mod slow;
mod tokens;
mod uploads;
mod watch;
mod wire;
mod world;
mod xds;
