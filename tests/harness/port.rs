//! Ports for servers that must keep theirs over a restart.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// The ports lie below the range from which the system takes ports for outgoing connections, so that one
/// stays free while its server is down.
const FIRST: u16 = 15_000;
const BLOCKS: u16 = 170;
const BLOCK: u16 = 100;

/// A run of ports that this process owns as long as it lives. It listens on the first of them, so another
/// process that draws the same block finds that port taken.
struct Block {
    _claim: TcpListener,
    first: u16,
    given: u16,
}

impl Block {
    fn claim() -> Self {
        (0..1000)
            .map(|_| FIRST + BLOCK * fastrand::u16(0..BLOCKS))
            .find_map(|first| Some(Self { _claim: listen(first)?, first, given: 0 }))
            .expect("one of the blocks is free")
    }

    fn next(&mut self) -> Option<u16> {
        self.given += 1;
        (self.given < BLOCK).then(|| self.first + self.given)
    }
}

static BLOCKS_OF_THIS_PROCESS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// A port on 127.0.0.1 that nobody listens on, and that is given once: neither another test of this process
/// nor another test process gets it, whether or not its server is up.
///
/// # Panics
/// When all ports are taken.
pub fn free() -> u16 {
    let mut blocks = BLOCKS_OF_THIS_PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match blocks.last_mut().and_then(Block::next) {
            Some(port) if listen(port).is_some() => return port,
            Some(_) => {}
            None => blocks.push(Block::claim()),
        }
    }
}

/// An address of this machine with a port from [`free`].
///
/// # Panics
/// When all ports are taken.
pub fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free()))
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn a_port_is_given_once() {
        let ports: Vec<_> = (0..300).map(|_| super::free()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }
}
