//! Connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use host::lifecycle::Tasks;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Answering, PAUSE};
use crate::board::{Board, Dropped};
use crate::message::{Transport, respond};
use crate::rate::network_of;

/// The time for which a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// The time for the rest of a message, and for an answer to be taken.
const LATEST: Duration = Duration::from_secs(5);
/// The longest question.
const LONGEST: usize = 1500;

/// Answers connections until `stop`: then those that wait for a question end, and the others after their
/// answer.
pub(super) async fn serve(
    listener: TcpListener,
    most: usize,
    answering: Answering,
    stop: CancellationToken,
    tasks: Tasks,
) {
    let places = Places::new(most, answering.board.clone());
    loop {
        let (stream, source) = match stop.run_until_cancelled(listener.accept()).await {
            None => return,
            Some(Ok(accepted)) => accepted,
            Some(Err(_)) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.take(source.ip()) else {
            answering.board.dropped(Dropped::Connections);
            continue;
        };
        let answering = answering.clone();
        let stop = stop.clone();
        let abort = tasks.abort().clone();
        tasks.spawn(async move {
            // The end of a connection, by whatever, concerns its client alone.
            _ = abort.run_until_cancelled(connection(stream, &answering, &stop)).await;
            drop(place);
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    answering: &Answering,
    stop: &CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = Vec::new();
    let mut out = Vec::new();
    let mut framed = Vec::new();
    let mut rng = Rng::new();
    loop {
        let Some(length) = stop.run_until_cancelled(timeout(IDLE, stream.read_u16())).await else {
            return Ok(());
        };
        let length = usize::from(length??);
        if length > LONGEST {
            return Ok(());
        }
        message.resize(length, 0);
        timeout(LATEST, stream.read_exact(&mut message)).await??;
        let code = {
            let state = answering.board.state();
            respond(&answering.origin, &state, &message, Transport::Tcp, &mut out, &mut rng)
        };
        let Some(code) = code else {
            answering.board.dropped(Dropped::NoQuestion);
            return Ok(());
        };
        // In one piece: some clients take the length and the answer only together.
        framed.clear();
        framed.extend_from_slice(&u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes());
        framed.extend_from_slice(&out);
        timeout(LATEST, stream.write_all(&framed)).await??;
        answering.board.answered(Transport::Tcp, code);
    }
}

/// The connections that may be open. Cheap to clone.
#[derive(Clone)]
struct Places(Arc<Shared>);

struct Shared {
    most: usize,
    of_one: usize,
    board: Board,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// At most as many as there are connections.
    by_source: HashMap<[u8; 16], usize>,
}

/// The right to one connection; given back when dropped.
struct Place {
    places: Places,
    source: [u8; 16],
}

impl Places {
    fn new(most: usize, board: Board) -> Self {
        let of_one = most.div_ceil(4);
        Self(Arc::new(Shared { most, of_one, board, taken: Mutex::default() }))
    }

    fn take(&self, source: IpAddr) -> Option<Place> {
        let mut taken = self.0.taken.lock();
        let source = network_of(source);
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= self.0.most || of_source >= self.0.of_one {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, of_source + 1);
        self.0.board.set_connections(taken.all);
        Some(Place { places: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.places.0;
        let mut taken = shared.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Entry::Occupied(mut count) = taken.by_source.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        shared.board.set_connections(taken.all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_all_places() {
        let places = Places::new(8, Board::default());
        let at = |last: u8| IpAddr::from([192, 0, 2, last]);
        let first = places.take(at(1)).expect("a place");
        let second = places.take(at(1)).expect("a place");
        assert!(places.take(at(1)).is_none(), "a quarter of the places");
        let others: Vec<_> = (2..8).filter_map(|last| places.take(at(last))).collect();
        assert_eq!((others.len(), places.take(at(9)).is_none()), (6, true));
        assert_eq!(places.0.board.connections(), 8);
        drop((first, second, others));
        assert_eq!(places.0.board.connections(), 0);
        assert!(places.0.taken.lock().by_source.is_empty());
        assert!(places.take(at(1)).is_some());
    }
}
