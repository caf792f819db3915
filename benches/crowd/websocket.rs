//! A watcher of the crowd on a WebSocket: opens its watch, reads what comes, answers pings.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::{Result, ensure};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::frames;
use super::seen::{Memory, Seen};
use crate::stamp::Stamp;

/// The receive buffer of a watcher that is to block the gateway soon. The kernel doubles the number.
const NARROW: u32 = 8 * 1024;
/// Watchers that share a source address: fewer than it has ports to give.
const EACH_ADDRESS: usize = 20_000;

/// State that the watchers of a crowd share. They run on one thread, so one of them borrows it at a time.
pub(super) struct Shared {
    pub(super) seen: RefCell<Seen>,
    /// The buffer of every read.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Watchers below this number do not read.
    pub(super) stopped: Cell<usize>,
}

/// Opens a watch as clients do, `path` with the query and the value of `Authorization`, if there is one;
/// gives what came behind the head, too.
pub(super) async fn open(
    number: usize,
    to: SocketAddr,
    path: &str,
    token: Option<&str>,
    narrow: bool,
) -> Result<(TcpStream, Vec<u8>)> {
    let socket = TcpSocket::new_v4()?;
    if number >= EACH_ADDRESS {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + (number / EACH_ADDRESS) as u32);
        socket.bind(SocketAddr::from((address, 0)))?;
    }
    if narrow {
        // Set before connecting, because the handshake fixes the scale of the window that TCP offers.
        socket.set_recv_buffer_size(NARROW)?;
    }
    let mut socket = socket.connect(to).await?;
    // The key is the example of RFC 6455. The crowd does not verify the reply to it; the gateway's tests do.
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\n{token}\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut read = Vec::with_capacity(512);
    loop {
        ensure!(socket.read_buf(&mut read).await? > 0, "the server closed the connection");
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]);
        ensure!(head.starts_with("HTTP/1.1 101 "), "refused: {head}");
        return Ok((socket, read.split_off(end + 4)));
    }
}

/// Watches until the server ends it.
pub(super) async fn watch(
    number: usize,
    mut socket: TcpStream,
    mut rest: Vec<u8>,
    memory: &RefCell<Memory>,
    shared: &Shared,
) -> Result<()> {
    let mut pongs = Vec::new();
    let mut over = note(&mut rest, &[], &mut memory.borrow_mut(), shared, &mut pongs);
    while !over {
        // Read and parse in one poll, because all watchers share the buffer. A read that does not fill the
        // buffer has emptied the socket, so a second one would only cost a system call.
        let read = poll_fn(|context| {
            if number < shared.stopped.get() {
                // Nothing wakes this task again. That is the intention: a watcher that has stopped
                // never goes on.
                return Poll::Pending;
            }
            let mut scratch = shared.scratch.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut socket).poll_read(context, &mut read))?;
            let over = note(&mut rest, read.filled(), &mut memory.borrow_mut(), shared, &mut pongs);
            Poll::Ready(io::Result::Ok((read.filled().len(), over)))
        });
        let (count, closed) = read.await?;
        if count == 0 {
            return Ok(());
        }
        over = closed;
        if !pongs.is_empty() {
            socket.write_all(&std::mem::take(&mut pongs)).await?;
        }
    }
    Ok(())
}

/// Records the whole frames in `rest` and `read`, and leaves an incomplete one in `rest`. True at the end of
/// the stream.
fn note(rest: &mut Vec<u8>, read: &[u8], memory: &mut Memory, shared: &Shared, pongs: &mut Vec<u8>) -> bool {
    let mut seen = shared.seen.borrow_mut();
    let joined;
    let mut bytes = if rest.is_empty() {
        read
    } else {
        rest.extend_from_slice(read);
        joined = std::mem::take(rest);
        &joined[..]
    };
    while let Some((opcode, payload, next)) = frames::cut(bytes) {
        match opcode {
            frames::TEXT | frames::CONTINUATION => seen.note(payload, memory),
            frames::PING => pongs.extend(frames::pong(payload)),
            frames::CLOSE => return true,
            _ => {}
        }
        // The first stamped frame is kept for the floor, which must write the same bytes as the gateway.
        if seen.sample.is_empty() && Stamp::find(payload).is_some() {
            seen.sample = bytes[..bytes.len() - next.len()].to_vec();
        }
        bytes = next;
    }
    *rest = bytes.to_vec();
    false
}
