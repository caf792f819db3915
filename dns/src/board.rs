//! The state of the zone, handed from the task that follows the registry to the tasks that answer, and what
//! was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use crate::answer::State;
use crate::message::{Code, Transport};

/// The reason for which a packet or a connection was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// No message, or an answer.
    NoQuestion,
    /// Its source asks too much.
    Rate,
    /// The network takes no more packets.
    NotSent,
    /// Too many connections, in all or of one source.
    Connections,
}

impl Dropped {
    pub(crate) const ALL: [Self; 4] = [Self::NoQuestion, Self::Rate, Self::NotSent, Self::Connections];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoQuestion => "no-question",
            Self::Rate => "rate",
            Self::NotSent => "not-sent",
            Self::Connections => "connections",
        }
    }
}

impl Code {
    pub(crate) const ALL: [Self; 6] =
        [Self::Ok, Self::NoName, Self::Failed, Self::Refused, Self::BadMessage, Self::Slowed];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoName => "no-name",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::BadMessage => "bad-message",
            Self::Slowed => "slowed",
        }
    }
}

impl Transport {
    pub(crate) const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// The state of the zone and the counts. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Board(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: ArcSwap<State>,
    /// Milliseconds since the state was known to be complete.
    age: AtomicU64,
    answers: [[AtomicU64; Code::ALL.len()]; Transport::ALL.len()],
    dropped: [AtomicU64; Dropped::ALL.len()],
    connections: AtomicU64,
}

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(Shared {
            state: ArcSwap::from_pointee(State::Unknown),
            age: AtomicU64::default(),
            answers: Default::default(),
            dropped: Default::default(),
            connections: AtomicU64::default(),
        }))
    }
}

impl Board {
    /// Shows another state.
    pub fn show(&self, state: State) {
        self.0.state.store(Arc::new(state));
    }

    /// The state that is shown.
    pub fn state(&self) -> Guard<Arc<State>> {
        self.0.state.load()
    }

    /// Tells how long ago the state was known to be complete.
    pub fn set_age(&self, age: Duration) {
        self.0.age.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(self.0.age.load(Ordering::Relaxed))
    }

    pub(crate) fn answered(&self, transport: Transport, code: Code) {
        self.0.answers[transport as usize][code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self, why: Dropped) {
        self.0.dropped[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answers(&self, transport: Transport, code: Code) -> u64 {
        self.0.answers[transport as usize][code as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn drops(&self, why: Dropped) -> u64 {
        self.0.dropped[why as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn set_connections(&self, connections: usize) {
        self.0.connections.store(connections as u64, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }
}
