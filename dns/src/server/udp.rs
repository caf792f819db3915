//! Packets.

use std::io;

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{Answering, PAUSE};
use crate::board::Dropped;
use crate::message::{MOST_UDP, Transport, respond, slow_down};
use crate::rate::Verdict;

/// Packets that are answered before others have their turn on this thread.
const BATCH: usize = 64;
/// The longest question that is read. A longer one is cut, and then refused as malformed.
const LONGEST: usize = 1500;

/// Answers packets until `stop`.
pub(super) async fn serve(socket: UdpSocket, answering: Answering, stop: CancellationToken) {
    let mut answerer = Answerer {
        answering,
        packet: vec![0; LONGEST],
        out: Vec::with_capacity(usize::from(MOST_UDP)),
        rng: Rng::new(),
    };
    loop {
        match stop.run_until_cancelled(socket.readable()).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(_)) => tokio::time::sleep(PAUSE).await,
        }
        match answerer.batch(&socket) {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It concerns one packet, or all of them for some time.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

struct Answerer {
    answering: Answering,
    packet: Vec<u8>,
    out: Vec<u8>,
    rng: Rng,
}

impl Answerer {
    fn batch(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let Self { answering, packet, out, rng } = self;
        let board = &answering.board;
        for _ in 0..BATCH {
            let (length, source) = socket.try_recv_from(packet)?;
            let message = &packet[..length];
            let code = match answering.rate.take(source.ip()) {
                Verdict::Answer => {
                    let state = board.state();
                    respond(&answering.origin, &state, message, Transport::Udp, out, rng)
                }
                Verdict::AnswerShort => slow_down(message, out),
                Verdict::Drop => {
                    board.dropped(Dropped::Rate);
                    continue;
                }
            };
            match code {
                None => board.dropped(Dropped::NoQuestion),
                Some(code) => match socket.try_send_to(out, source) {
                    Ok(_) => board.answered(Transport::Udp, code),
                    // Waiting would hold up everybody for one; the client asks again.
                    Err(_) => board.dropped(Dropped::NotSent),
                },
            }
        }
        Ok(())
    }
}
