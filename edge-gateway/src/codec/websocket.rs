//! WebSocket frames (RFC 6455), the server's side: writes frames, reads those of clients.
//!
//! The [`Decoder`] is a pure machine: bytes in, whole control frames out. The data frames of most watchers
//! have no meaning here, so their payload is counted, checked for UTF-8 and passed over, never kept. Between
//! two reads the decoder then keeps an incomplete header or control frame, 139 bytes at most. Only the texts
//! of watchers that may send a new token are kept, each until it has ended: see [`Decoder::keeping`].
//!
//! Headers are written with tungstenite and read by hand. tungstenite's `FrameHeader` accepts lengths that
//! are not in their shortest form, which the standard forbids, and judges a header only when all of it is
//! there; its `CloseCode` does not allow 1014, which is registered. Its own reader keeps payloads, and a
//! buffer for each connection.

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::utf8::Utf8;

/// Bytes that a client's message may have. No message of a watcher has a meaning, but a small one is not
/// punished.
const MAX_MESSAGE: u64 = 4096;
/// Bytes that a client's message may have that may bring a token.
const MAX_KEPT: u64 = 64 + access::token::LONGEST_TOKEN as u64;
/// Bytes that the payload of a control frame may have.
const MAX_CONTROL: usize = 125;
/// Bytes of the longest header of a server, which does not mask.
const UNMASKED_HEADER: usize = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The bit in an opcode that tells control frames from data frames.
const CONTROL: u8 = 0x8;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// The place of a piece within its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
}

impl Fragment {
    /// A message in one piece.
    const WHOLE: Self = Self { is_first: true, is_last: true };
}

/// One unfragmented text frame.
pub(crate) fn text_frame(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(UNMASKED_HEADER + payload.len()).writer();
    put_header(OpCode::Data(Data::Text), Fragment::WHOLE, payload.len(), &mut frame);
    let mut frame = frame.into_inner();
    frame.put_slice(payload);
    frame.freeze()
}

/// Appends a frame with a part of a text.
pub(crate) fn put_text(payload: &[u8], fragment: Fragment, out: &mut Vec<u8>) {
    let data = if fragment.is_first { Data::Text } else { Data::Continue };
    put_header(OpCode::Data(data), fragment, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a ping without payload.
pub(crate) fn put_ping(out: &mut Vec<u8>) {
    put_control(Control::Ping, &[], out);
}

/// Appends a ping that only one pong answers: the client echoes the number.
pub(crate) fn put_numbered_ping(number: u64, out: &mut Vec<u8>) {
    put_control(Control::Ping, &number.to_be_bytes(), out);
}

/// Appends a pong that echoes a ping's payload.
pub(crate) fn put_pong(payload: &[u8], out: &mut Vec<u8>) {
    put_control(Control::Pong, payload, out);
}

/// Appends a close frame with a code and a reason, or an empty one.
pub(crate) fn put_close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let Some(code) = code else { return put_control(Control::Close, &[], out) };
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    put_control(Control::Close, &payload, out);
}

fn put_control(opcode: Control, payload: &[u8], out: &mut Vec<u8>) {
    // Only a reason of our own could be too long; it is ASCII, so the cut never splits a character.
    let payload = &payload[..payload.len().min(MAX_CONTROL)];
    put_header(OpCode::Control(opcode), Fragment::WHOLE, payload.len(), out);
    out.extend_from_slice(payload);
}

fn put_header(opcode: OpCode, fragment: Fragment, payload: usize, out: &mut impl std::io::Write) {
    let header = FrameHeader { opcode, is_final: fragment.is_last, ..FrameHeader::default() };
    header.format(payload as u64, out).expect("memory takes every byte");
}

/// A frame of a client, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// A ping with its payload.
    Ping(&'a [u8]),
    /// A pong, with the number of the ping that it answers, if that had one.
    Pong(Option<u64>),
    /// The header of a data frame; its payload is passed over.
    Data,
    /// A whole text message, after its last frame. Only a decoder that keeps texts delivers them.
    Text(&'a [u8]),
    /// A close frame, with its code and reason unless it was empty.
    Close(Option<(u16, &'a str)>),
}

/// The reason for which a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A frame against the protocol; the text is the close frame's reason.
    Protocol(&'static str),
    /// A message that is too big.
    TooBig,
    /// A text that is not UTF-8.
    NotText,
}

/// Reads the frames of one client. Cheap to make, so that an idle connection needs none: see
/// [`Decoder::is_idle`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoder {
    /// An incomplete header or control frame, masked as it came.
    partial: Vec<u8>,
    /// Bytes of a data frame's payload that are still to be passed over.
    skip: u64,
    /// The mask of the next four of them.
    mask: [u8; 4],
    /// Bytes of an unfinished message so far; `None` between messages.
    message: Option<u64>,
    /// The check of a text message; `None` for binary messages and between messages.
    text: Option<Utf8>,
    /// Texts are delivered, and so kept until they are whole.
    keeps: bool,
    /// The text so far.
    kept: Vec<u8>,
    /// A text that has ended and is to be delivered.
    whole: Option<Vec<u8>>,
}

struct Header {
    opcode: u8,
    fin: bool,
    /// Bytes of the header itself.
    size: usize,
    mask: [u8; 4],
    /// Bytes of the payload.
    payload: u64,
}

impl Header {
    fn is_control(&self) -> bool {
        self.opcode & CONTROL != 0
    }
}

impl Decoder {
    /// True when nothing is incomplete, so that a new decoder would do as well.
    pub(crate) fn is_idle(&self) -> bool {
        *self == Self { keeps: self.keeps, ..Self::default() }
    }

    /// A decoder that delivers texts.
    pub(crate) fn keeping() -> Self {
        Self { keeps: true, ..Self::default() }
    }

    /// Reads `input` to its end and hands each frame to `on`. Stops when `on` returns false.
    ///
    /// # Errors
    /// At the first violation; the connection must then end, because the rest of the input cannot be read.
    pub(crate) fn read(
        &mut self,
        mut input: &[u8],
        mut on: impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<(), Violation> {
        loop {
            input = self.pass_over(input)?;
            if let Some(text) = self.whole.take()
                && !on(Incoming::Text(&text))
            {
                return Ok(());
            }
            if input.is_empty() {
                return Ok(());
            }
            let goes_on = if self.partial.is_empty() {
                self.read_frame(&mut input, &mut on)?
            } else {
                self.complete_frame(&mut input, &mut on)?
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Reads the frame at the beginning of `input`, or keeps all of it when the frame is incomplete.
    fn read_frame(
        &mut self,
        input: &mut &[u8],
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, Violation> {
        let Some((header, payload)) = self.frame(input)? else {
            // At most a header and 125 bytes: a data frame is judged by its header, so its payload is never
            // kept.
            self.partial.extend_from_slice(input);
            return Ok(false);
        };
        *input = &input[header.size + payload.len()..];
        self.deliver(&header, payload, on)
    }

    /// Adds to the partial frame as many bytes as it surely needs, and reads it if that completes it.
    fn complete_frame(
        &mut self,
        input: &mut &[u8],
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, Violation> {
        // Never more than the frame needs: `partial` would otherwise grow with everything that follows the
        // frame.
        let (taken, rest) = input.split_at(self.missing(input.len()));
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(taken);
        *input = rest;
        let Some((header, payload)) = self.frame(&whole)? else {
            self.partial = whole;
            return Ok(true);
        };
        debug_assert_eq!(header.size + payload.len(), whole.len(), "no more was taken than needed");
        self.deliver(&header, payload, on)
    }

    /// Passes over the part of a data frame's payload that `input` begins with; returns the rest.
    fn pass_over<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Violation> {
        let passed = self.skip.min(input.len() as u64);
        let (payload, rest) = input.split_at(passed as usize);
        self.skip -= passed;
        if let Some(text) = &mut self.text {
            let clear = payload.iter().zip(self.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            for byte in clear {
                if !text.take(byte) {
                    return Err(Violation::NotText);
                }
                if self.keeps {
                    self.kept.push(byte);
                }
            }
        }
        if self.skip > 0 {
            // The payload goes on in the next input, where the mask must go on too.
            self.mask.rotate_left(payload.len() % 4);
            return Ok(rest);
        }
        // A decoder at rest must equal a new one, so that the connection can drop it.
        self.mask = [0; 4];
        let ended_text = if self.message.is_none() { self.text.take() } else { None };
        if let Some(text) = ended_text {
            if !text.is_complete() {
                return Err(Violation::NotText);
            }
            self.whole = self.keeps.then(|| std::mem::take(&mut self.kept));
        }
        Ok(rest)
    }

    /// The number of bytes, of `available`, to add to the partial frame before judging it again: never past
    /// its end.
    fn missing(&self, available: usize) -> usize {
        let have = self.partial.len();
        let wanted = match self.partial[..] {
            [first, length, ..] => {
                let header = header_size(length);
                let is_whole_header = have >= header && first & CONTROL != 0;
                if is_whole_header { header + usize::from(length & 0x7f) } else { header }
            }
            _ => 2,
        };
        wanted.saturating_sub(have).clamp(1, available)
    }

    /// The frame at the beginning of `bytes`: its header, and its payload if it is a control frame's.
    /// `None` when more bytes are needed.
    fn frame<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Header, &'a [u8])>, Violation> {
        let Some(header) = parse_header(bytes, self.message.is_some())? else { return Ok(None) };
        if header.is_control() {
            let end = header.size + header.payload as usize;
            return Ok(bytes.get(header.size..end).map(|payload| (header, payload)));
        }
        // Judged by the header alone: a client that announces too much is not listened to until it has sent
        // it.
        let size = header.payload.saturating_add(self.message.unwrap_or(0));
        let most = if self.keeps { MAX_KEPT } else { MAX_MESSAGE };
        if size > most { Err(Violation::TooBig) } else { Ok(Some((header, &[]))) }
    }

    fn deliver(
        &mut self,
        header: &Header,
        payload: &[u8],
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, Violation> {
        if !header.is_control() {
            self.skip = header.payload;
            self.mask = header.mask;
            // A continuation goes on with the check that the message's first frame began.
            if header.opcode == TEXT {
                self.text = Some(Utf8::default());
            }
            let size = self.message.unwrap_or(0).saturating_add(header.payload);
            self.message = if header.fin { None } else { Some(size) };
            return Ok(on(Incoming::Data));
        }
        // Control frames may stand between the fragments of a message, so they leave its state alone. The
        // payload is unmasked on the stack: a ping per session and interval must not allocate.
        let mut clear = [0; MAX_CONTROL];
        for (index, (to, from)) in clear.iter_mut().zip(payload).enumerate() {
            *to = from ^ header.mask[index % 4];
        }
        let clear = &clear[..payload.len()];
        match header.opcode {
            PING => Ok(on(Incoming::Ping(clear))),
            PONG => Ok(on(Incoming::Pong(clear.try_into().ok().map(u64::from_be_bytes)))),
            _ => Ok(on(Incoming::Close(parse_close(clear)?))),
        }
    }
}

/// Bytes of a header whose second byte is `length`.
fn header_size(length: u8) -> usize {
    let extended = match length & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + 4
}

/// Reads a header; `None` when more bytes are needed. Everything that the first two bytes show to be wrong is
/// refused as soon as they are there.
fn parse_header(bytes: &[u8], in_message: bool) -> Result<Option<Header>, Violation> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let opcode = first & 0xf;
    let fin = first & FIN != 0;
    if first & RESERVED != 0 {
        return Err(Violation::Protocol("reserved bits set"));
    }
    if second & MASKED == 0 {
        return Err(Violation::Protocol("frame not masked"));
    }
    match opcode {
        CONTINUATION if !in_message => return Err(Violation::Protocol("nothing to continue")),
        TEXT | BINARY if in_message => return Err(Violation::Protocol("message not finished")),
        CONTINUATION | TEXT | BINARY => {}
        CLOSE | PING | PONG if !fin => return Err(Violation::Protocol("fragmented control frame")),
        // The two values above 125 announce an extended length, which control frames cannot have.
        CLOSE | PING | PONG if usize::from(second & 0x7f) > MAX_CONTROL => {
            return Err(Violation::Protocol("control frame too long"));
        }
        CLOSE | PING | PONG => {}
        _ => return Err(Violation::Protocol("unknown opcode")),
    }
    let size = header_size(second);
    let Some(head) = bytes.get(..size) else { return Ok(None) };
    let (length, mask) = head[2..].split_at(size - 2 - 4);
    let payload = match length {
        [] => u64::from(second & 0x7f),
        _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    // RFC 6455 §5.2 reserves the highest bit of a length.
    if payload >> 63 != 0 {
        return Err(Violation::Protocol("bad length"));
    }
    if matches!((length.len(), payload), (2, ..=125) | (8, ..=0xffff)) {
        return Err(Violation::Protocol("length not in its shortest form"));
    }
    let mask = mask.try_into().expect("a header ends with four bytes of mask");
    Ok(Some(Header { opcode, fin, size, mask, payload }))
}

fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::Protocol("bad close frame")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // The codes that the standard or IANA's registry lets an endpoint send, and those of applications.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("bad close code"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::NotText)?;
    Ok(Some((code, reason)))
}

#[cfg(test)]
mod tests;
