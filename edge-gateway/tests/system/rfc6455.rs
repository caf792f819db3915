//! RFC 6455 as a table, over a real socket: bytes of a client and the gateway's reaction.
//!
//! Each row is sent in every way in which TCP may deliver it. If the connection must go on after a row, a
//! ping of the test and its pong show that it does. The functions name the sections of the standard.

use shared::event::Action::Create;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{PATIENCE, World};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// A mask that clears the FIN bit.
const MORE: u8 = 0x7f;
const LAST: u8 = 0x80;
const NEXT: u8 = 0x00;

/// The gateway's reaction, apart from pings of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing; the connection goes on.
    GoesOn,
    /// A pong with this payload; the connection goes on.
    Pongs(Vec<u8>),
    /// A close frame with this payload, then the end.
    Closes(Vec<u8>),
    /// A close frame with this code, then the end.
    Fails(u16),
}

/// The way in which TCP delivers the bytes.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    Whole,
    /// A byte at a time.
    Bytes,
    /// Together with the request for the upgrade.
    BehindTheRequest,
}

fn frame_with(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [first].into_iter().chain(length.iter().copied()).chain(MASK).chain(masked).collect()
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let masked = 0x80;
    match payload.len() {
        short @ ..=125 => frame_with(first, &[masked | short as u8], payload),
        middle @ ..=0xffff => {
            let [high, low] = (middle as u16).to_be_bytes();
            frame_with(first, &[masked | 126, high, low], payload)
        }
        long => frame_with(first, &announced(long as u64), payload),
    }
}

/// A length in 64 bits, masked.
fn announced(length: u64) -> Vec<u8> {
    [&[0xff][..], &length.to_be_bytes()].concat()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &close_payload(code, reason))
}

fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

type Row = (&'static str, Vec<u8>, Then);

/// 5.2: the frame itself.
fn framing() -> Vec<Row> {
    use Then::{Fails, GoesOn};
    let mut rows: Vec<Row> = vec![
        ("an empty text", frame(TEXT, b""), GoesOn),
        ("an empty binary message", frame(BINARY, b""), GoesOn),
        ("a length of 125", frame(BINARY, &[1; 125]), GoesOn),
        ("a length of 126", frame(BINARY, &[1; 126]), GoesOn),
        ("a length of 127", frame(BINARY, &[1; 127]), GoesOn),
        ("the longest message", frame(BINARY, &[1; 4096]), GoesOn),
        ("one byte more", frame(BINARY, &[1; 4097]), Fails(1009)),
        ("65 535 bytes", frame(BINARY, &[1; 65_535]), Fails(1009)),
        ("65 536 bytes", frame(BINARY, &[1; 65_536]), Fails(1009)),
        ("as long as can be, announced", frame_with(BINARY, &announced(i64::MAX as u64), b""), Fails(1009)),
        ("a length whose highest bit is set", frame_with(BINARY, &announced(1 << 63), b""), Fails(1002)),
        ("all bits of the length set", frame_with(BINARY, &announced(u64::MAX), b""), Fails(1002)),
        ("a length of 125 in 16 bits", frame_with(BINARY, &[0xfe, 0, 125], &[1; 125]), Fails(1002)),
        ("a length of 0 in 16 bits", frame_with(TEXT, &[0xfe, 0, 0], b""), Fails(1002)),
        ("a length of 126 in 64 bits", frame_with(BINARY, &announced(126), &[1; 126]), Fails(1002)),
        ("a text that is not masked", b"\x81\x02hi".to_vec(), Fails(1002)),
        ("a ping that is not masked", b"\x89\x00".to_vec(), Fails(1002)),
        ("a close that is not masked", b"\x88\x02\x03\xe8".to_vec(), Fails(1002)),
    ];
    for bit in [0x40, 0x20, 0x10, 0x70] {
        rows.push(("a reserved bit on a text", frame(TEXT | bit, b"x"), Fails(1002)));
        rows.push(("a reserved bit on a ping", frame(PING | bit, b""), Fails(1002)));
        rows.push(("a reserved bit on a close", frame(CLOSE | bit, b""), Fails(1002)));
    }
    for opcode in (3..8).chain(11..16) {
        rows.push(("an opcode that has no meaning", frame(0x80 | opcode, b""), Fails(1002)));
        rows.push(("the same with a payload", frame(0x80 | opcode, b"abc"), Fails(1002)));
    }
    rows
}

/// 5.4: fragments, and the frames that may stand between them.
fn fragments() -> Vec<Row> {
    use Then::{Fails, GoesOn, Pongs};
    let row = |name, frames: &[Vec<u8>], then| (name, frames.concat(), then);
    vec![
        row("a text in two", &[frame(TEXT & MORE, b"a"), frame(LAST, b"b")], GoesOn),
        row(
            "three, all of them empty",
            &[frame(TEXT & MORE, b""), frame(NEXT, b""), frame(LAST, b"")],
            GoesOn,
        ),
        row(
            "a ping within",
            &[frame(BINARY & MORE, b"a"), frame(PING, b"in"), frame(LAST, b"b")],
            Pongs(b"in".to_vec()),
        ),
        row("a pong within", &[frame(TEXT & MORE, b"a"), frame(PONG, b"x"), frame(LAST, b"b")], GoesOn),
        row(
            "a close within",
            &[frame(TEXT & MORE, b"a"), close(1001, b"")],
            Then::Closes(close_payload(1001, b"")),
        ),
        row("two messages", &[frame(TEXT & MORE, b"a"), frame(LAST, b""), frame(TEXT, b"b")], GoesOn),
        row("4096 bytes together", &[frame(BINARY & MORE, &[1; 2048]), frame(LAST, &[1; 2048])], GoesOn),
        row("4097 bytes together", &[frame(BINARY & MORE, &[1; 4096]), frame(LAST, &[1; 1])], Fails(1009)),
        row("an end without a beginning", &[frame(LAST, b"a")], Fails(1002)),
        row("a middle without a beginning", &[frame(NEXT, b"a")], Fails(1002)),
        row(
            "an end after the end",
            &[frame(TEXT & MORE, b"a"), frame(LAST, b"b"), frame(LAST, b"c")],
            Fails(1002),
        ),
        row("a text within a text", &[frame(TEXT & MORE, b"a"), frame(TEXT, b"b")], Fails(1002)),
        row(
            "a binary message within a text",
            &[frame(TEXT & MORE, b"a"), frame(BINARY & MORE, b"b")],
            Fails(1002),
        ),
        row("a ping in two", &[frame(PING & MORE, b"a"), frame(LAST, b"b")], Fails(1002)),
        row("a pong in two", &[frame(PONG & MORE, b"a"), frame(LAST, b"b")], Fails(1002)),
        row("a close in two", &[frame(CLOSE & MORE, b""), frame(LAST, b"")], Fails(1002)),
    ]
}

/// 5.5.2 and 5.5.3: pings and pongs.
fn pings() -> Vec<Row> {
    use Then::{Fails, GoesOn, Pongs};
    vec![
        ("a ping without payload", frame(PING, b""), Pongs(Vec::new())),
        ("a ping with payload", frame(PING, b"payload"), Pongs(b"payload".to_vec())),
        ("a ping of bytes that are no text", frame(PING, &[0, 0xff, 0xfe]), Pongs(vec![0, 0xff, 0xfe])),
        ("a ping of 125 bytes", frame(PING, &[9; 125]), Pongs(vec![9; 125])),
        ("a ping of 126 bytes", frame(PING, &[9; 126]), Fails(1002)),
        ("a ping whose short length is in 16 bits", frame_with(PING, &[0xfe, 0, 4], b"ping"), Fails(1002)),
        ("a pong nobody asked for", frame(PONG, b""), GoesOn),
        ("a pong with payload nobody asked for", frame(PONG, &[9; 125]), GoesOn),
        ("a pong of 126 bytes", frame(PONG, &[9; 126]), Fails(1002)),
    ]
}

/// 5.5.1 and 7.4: closes, their codes and reasons.
fn closes() -> Vec<Row> {
    use Then::{Closes, Fails};
    let mut rows: Vec<Row> = vec![
        ("a close without payload", frame(CLOSE, b""), Closes(Vec::new())),
        ("a close of one byte", frame(CLOSE, b"\x03"), Fails(1002)),
        ("a reason", close(1000, b"done"), Closes(close_payload(1000, b"done"))),
        ("the longest reason", close(1000, &[b'r'; 123]), Closes(close_payload(1000, &[b'r'; 123]))),
        ("a reason that is too long", close(1000, &[b'r'; 124]), Fails(1002)),
        ("a reason that is no text", close(1000, b"\xce\xba\xe1\xff"), Fails(1007)),
        ("a reason that ends within a character", close(1000, b"caf\xc3"), Fails(1007)),
        (
            "nothing counts after a close",
            [close(1000, b""), frame(PING, b"x")].concat(),
            Closes(close_payload(1000, b"")),
        ),
        (
            "not even what is wrong",
            [close(1000, b""), frame(0x83, b"x")].concat(),
            Closes(close_payload(1000, b"")),
        ),
        ("two closes", [close(1000, b""), close(1001, b"")].concat(), Closes(close_payload(1000, b""))),
    ];
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        rows.push(("a code that may be sent", close(code, b""), Closes(close_payload(code, b""))));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        rows.push(("a code that may not", close(code, b""), Fails(1002)));
    }
    rows
}

/// 8.1: text is UTF-8, also across fragments.
fn texts() -> Vec<Row> {
    use Then::{Fails, GoesOn};
    let good = "Οὐχὶ ταὐτὰ παρίσταταί μοι γιγνώσκειν — \u{10ffff}";
    let mut rows: Vec<Row> = vec![
        ("a text of many alphabets", frame(TEXT, good.as_bytes()), GoesOn),
        ("bytes that need not be text", frame(BINARY, b"\xff\xfe\xc0\xaf"), GoesOn),
        ("an overlong slash", frame(TEXT, b"\xc0\xaf"), Fails(1007)),
        ("an overlong zero in three bytes", frame(TEXT, b"\xe0\x80\x80"), Fails(1007)),
        ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), Fails(1007)),
        ("beyond the last character", frame(TEXT, b"\xf4\x90\x80\x80"), Fails(1007)),
        ("a byte that never is", frame(TEXT, b"abc\xfe"), Fails(1007)),
        ("a continuation of nothing", frame(TEXT, b"\x80"), Fails(1007)),
        ("an end within a character", frame(TEXT, b"\xce\xba\xe1\xbd"), Fails(1007)),
        (
            "an end within a character, said later",
            [frame(TEXT & MORE, b"\xe1\xbd"), frame(LAST, b"")].concat(),
            Fails(1007),
        ),
        ("noticed before the message ends", frame(TEXT & MORE, b"\xce\xba\xff"), Fails(1007)),
        (
            "noticed before the frame ends",
            frame(TEXT, &[b"\xf4\x90".as_slice(), &[b'x'; 4000]].concat())[..10].to_vec(),
            Fails(1007),
        ),
        (
            "noticed in the second frame, a ping between",
            [frame(TEXT & MORE, b"caf\xc3"), frame(PING, b""), frame(LAST, b"\x28")].concat(),
            Fails(1007),
        ),
    ];
    for cut in 1..good.len() {
        let (head, tail) = good.as_bytes().split_at(cut);
        rows.push(("a text cut anywhere", [frame(TEXT & MORE, head), frame(LAST, tail)].concat(), GoesOn));
    }
    let single: Vec<Vec<u8>> = good.bytes().map(|byte| frame(NEXT, &[byte])).collect();
    let whole = [frame(TEXT & MORE, b""), single.concat(), frame(LAST, b"")].concat();
    rows.push(("a text of one byte a frame", whole, GoesOn));
    rows
}

/// The client's side of a connection, byte for byte.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    /// Opens a watch; `behind` is sent in one piece with the request.
    async fn open(world: &World, behind: &[u8]) -> Self {
        let mut stream = TcpStream::connect(world.api).await.expect("connects");
        stream.set_nodelay(true).expect("sends at once");
        let head = "GET /v4/default/registry/microservices/c/watcher HTTP/1.1\r\nHost: test\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(&[head.as_bytes(), behind].concat()).await.expect("is sent");
        let mut client = Self { stream, read: Vec::new() };
        loop {
            if let Some(end) = client.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = client.read.split_off(end + 4);
                assert!(client.read.starts_with(b"HTTP/1.1 101 "), "upgrades");
                client.read = rest;
                return client;
            }
            assert!(client.more().await, "the answer is whole");
        }
    }

    /// False at the end.
    async fn more(&mut self) -> bool {
        let reading = self.stream.read_buf(&mut self.read);
        let read = tokio::time::timeout(PATIENCE, reading).await.expect("in time");
        read.expect("the gateway ends its side in order") > 0
    }

    /// The next frame, held against what a server may send; `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.cut() {
                return Some(frame);
            }
            if !self.more().await {
                assert!(self.read.is_empty(), "the end comes between frames");
                return None;
            }
        }
    }

    fn cut(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second, ..] = self.read[..] else { return None };
        assert_eq!(first & 0xf0, 0x80, "one fragment, no reserved bits");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (head, length) = match second {
            126 => (4, u64::from(u16::from_be_bytes(self.read.get(2..4)?.try_into().expect("two")))),
            127 => (10, u64::from_be_bytes(self.read.get(2..10)?.try_into().expect("eight"))),
            short => (2, u64::from(short)),
        };
        let shortest = match head {
            2 => true,
            4 => length > 125,
            _ => length > 0xffff,
        };
        assert!(shortest, "the shortest form of {length}");
        assert!(first & 8 == 0 || (head == 2 && length <= 125), "a control frame is short");
        let end = head + usize::try_from(length).expect("fits");
        let payload = self.read.get(head..end)?.to_vec();
        self.read.drain(..end);
        Some((first & 0xf, payload))
    }

    /// Sends the bytes, even if the gateway has stopped reading.
    async fn send(&mut self, bytes: &[u8], delivery: Delivery) {
        match delivery {
            Delivery::Whole => _ = self.stream.write_all(bytes).await,
            Delivery::Bytes => {
                for byte in bytes {
                    if self.stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            }
            Delivery::BehindTheRequest => {}
        }
    }
}

async fn hold(world: &World, (name, bytes, then): &Row, delivery: Delivery) {
    let behind = if let Delivery::BehindTheRequest = delivery { &bytes[..] } else { &[] };
    let mut client = Client::open(world, behind).await;
    client.send(bytes, delivery).await;
    let what = format!("{name}, {delivery:?}: {:02x?}", &bytes[..bytes.len().min(16)]);
    match then {
        Then::GoesOn => {}
        Then::Pongs(payload) => assert_eq!(client.frame().await, Some((0xa, payload.clone())), "{what}"),
        Then::Closes(payload) => assert_eq!(client.frame().await, Some((0x8, payload.clone())), "{what}"),
        Then::Fails(code) => {
            let frame = loop {
                match client.frame().await {
                    // A pong for a ping before the violation.
                    Some((0xa, _)) => {}
                    other => break other,
                }
            };
            let Some((0x8, payload)) = frame else { panic!("{what}: {frame:?}") };
            assert_eq!(payload[..2], code.to_be_bytes(), "{what}");
            assert!(std::str::from_utf8(&payload[2..]).is_ok_and(|reason| !reason.is_empty()), "{what}");
        }
    }
    if let Then::GoesOn | Then::Pongs(_) = then {
        client.send(&frame(PING, b"still open?"), Delivery::Whole).await;
        assert_eq!(client.frame().await, Some((0xa, b"still open?".to_vec())), "{what}");
        client.send(&frame(CLOSE, b""), Delivery::Whole).await;
        assert_eq!(client.frame().await, Some((0x8, Vec::new())), "{what}");
    }
    assert_eq!(client.frame().await, None, "{what}");
}

async fn hold_all(rows: Vec<Row>) {
    let world = World::with_consumer("c", &["p"]).await;
    // Long rows are sent in one piece only: byte by byte they would show nothing more.
    for delivery in [Delivery::Whole, Delivery::Bytes, Delivery::BehindTheRequest] {
        for row in rows.iter().filter(|row| row.1.len() < 5000 || matches!(delivery, Delivery::Whole)) {
            hold(&world, row, delivery).await;
        }
    }
    // Every session has ended.
    world.until("muster_edge_sessions", |count| count == 0.0).await;
}

#[tokio::test]
async fn frames_are_read_as_the_standard_says() {
    hold_all(framing()).await;
}

#[tokio::test]
async fn fragments_are_put_together_as_the_standard_says() {
    hold_all(fragments()).await;
}

#[tokio::test]
async fn pings_are_answered_as_the_standard_says() {
    hold_all(pings()).await;
}

#[tokio::test]
async fn closes_are_answered_as_the_standard_says() {
    hold_all(closes()).await;
}

#[tokio::test]
async fn texts_are_checked_for_utf8_as_the_standard_says() {
    hold_all(texts()).await;
}

#[tokio::test]
async fn the_last_of_ten_pings_in_a_row_is_answered() {
    let world = World::with_consumer("c", &["p"]).await;
    let mut client = Client::open(&world, b"").await;
    let pings: Vec<u8> = (0..10).flat_map(|n| frame(PING, &[n])).collect();
    client.send(&pings, Delivery::Whole).await;
    // One pong for all pings, or more when they arrive apart, but never one that is older than the one
    // before.
    let mut last = None;
    while last != Some(9) {
        let Some((0xa, payload)) = client.frame().await else { panic!("a pong was expected") };
        assert!(last < Some(payload[0]), "{last:?} before {payload:?}");
        last = Some(payload[0]);
    }
}

#[tokio::test]
async fn a_client_that_just_ends_its_side_is_closed_silently() {
    let world = World::with_consumer("c", &["p"]).await;
    for half in [&[][..], &frame(TEXT & MORE, b"unfinished"), &frame(PING, b"cut off")[..4]] {
        let mut client = Client::open(&world, b"").await;
        let event = world.control_plane.change("p", Create, "1").await;
        let Some((0x1, told)) = client.frame().await else { panic!("an event was expected") };
        assert!(std::str::from_utf8(&told).is_ok_and(|text| text.contains(&format!("rev-{}", event.at.rev))));
        client.send(half, Delivery::Whole).await;
        client.stream.shutdown().await.expect("ends its side");
        assert_eq!(client.frame().await, None, "the end without a close frame");
    }
    world.until(r#"muster_edge_sessions_closed_total{reason="client_gone"}"#, |count| count == 3.0).await;
}
