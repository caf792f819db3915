//! Ports for servers that must keep theirs over a restart.

use std::net::{Ipv4Addr, TcpListener};

/// A port on 127.0.0.1 that nobody listens on. It lies below the range from which the system takes ports for
/// outgoing connections, so that it stays free while its server is down.
///
/// # Panics
/// When no free port was found in many tries.
pub fn free() -> u16 {
    (0..1000)
        .map(|_| fastrand::u16(15_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of a thousand ports is free")
}
