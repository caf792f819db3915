//! WebSocket frames (RFC 6455), the server's side: building what goes out, reading what comes in.
//!
//! The [`Decoder`] is a pure machine: bytes in, whole control frames out. A watcher has nothing to say in data
//! frames, so their payload is counted, held against UTF-8 and passed over, never kept; what is kept between two
//! reads is an incomplete header or control frame, 139 bytes at most.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::text::Text;

/// Bytes that a client's message may have: nothing a watcher sends has a meaning, but one that says
/// something small is not punished.
const MAX_MESSAGE: u64 = 4096;
/// Payload of a control frame at most.
const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// One unfragmented text frame.
pub(crate) fn text_frame(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 10);
    frame.put_u8(FIN | TEXT);
    match payload.len() {
        short @ ..=125 => frame.put_u8(short as u8),
        middle @ ..=0xffff => {
            frame.put_u8(126);
            frame.put_u16(middle as u16);
        }
        long => {
            frame.put_u8(127);
            frame.put_u64(long as u64);
        }
    }
    frame.put_slice(payload);
    frame.freeze()
}

/// Appends a ping without payload.
pub(crate) fn put_ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&[FIN | PING, 0]);
}

/// Appends a pong that echoes a ping's payload.
pub(crate) fn put_pong(payload: &[u8], out: &mut Vec<u8>) {
    put_control(PONG, payload, out);
}

/// Appends a close frame with a code and a reason, or an empty one.
pub(crate) fn put_close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let Some(code) = code else { return put_control(CLOSE, &[], out) };
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    put_control(CLOSE, &payload, out);
}

fn put_control(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(MAX_CONTROL)];
    out.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// A ping with its payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// The end of a message, or a part of one.
    Data,
    /// A close frame, with its code and reason unless it was empty.
    Close(Option<(u16, &'a str)>),
}

/// Why the connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Against the protocol; the text is the close frame's reason.
    Protocol(&'static str),
    /// A message of more than the bound.
    TooBig,
    /// A text that is not UTF-8.
    NotText,
}

/// Reads the frames of one client. Small and cheap to make: keep it only while a frame is incomplete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoder {
    /// An incomplete header or control frame, masked as it came.
    partial: Vec<u8>,
    /// Bytes of a data frame's payload still to be passed over.
    skip: u64,
    /// What the next four of them are masked with.
    mask: [u8; 4],
    /// Bytes of the message so far, when its last frame has not come.
    message: Option<u64>,
    /// How far a message of text has come.
    text: Option<Text>,
}

struct Header {
    opcode: u8,
    fin: bool,
    size: usize,
    mask: [u8; 4],
    payload: u64,
}

impl Decoder {
    /// True when nothing is incomplete, so that a new decoder would do as well.
    pub(crate) fn is_idle(&self) -> bool {
        *self == Self::default()
    }

    /// Reads `input` to its end and hands each frame to `on`; stops at a violation or when `on` returns false.
    pub(crate) fn read(
        &mut self,
        mut input: &[u8],
        mut on: impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<(), Violation> {
        loop {
            input = self.pass_over(input)?;
            if input.is_empty() {
                return Ok(());
            }
            let step = if self.partial.is_empty() {
                self.frame(input)?
            } else {
                let missing = self.missing(input.len());
                let (taken, rest) = input.split_at(missing);
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(taken);
                input = rest;
                match self.frame(&whole)? {
                    None => {
                        self.partial = whole;
                        if input.is_empty() {
                            return Ok(());
                        }
                        continue;
                    }
                    Some((header, payload)) => {
                        debug_assert_eq!(
                            header.size + payload.len(),
                            whole.len(),
                            "no more was taken than needed"
                        );
                        if !self.deliver(&header, payload, &mut on)? {
                            return Ok(());
                        }
                        continue;
                    }
                }
            };
            match step {
                None => {
                    self.partial.extend_from_slice(input);
                    return Ok(());
                }
                Some((header, payload)) => {
                    input = &input[header.size + payload.len()..];
                    if !self.deliver(&header, payload, &mut on)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Passes over what is there of a data frame's payload; gives what is behind it.
    fn pass_over<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Violation> {
        let passed = self.skip.min(input.len() as u64);
        let (payload, rest) = input.split_at(passed as usize);
        self.skip -= passed;
        if let Some(text) = &mut self.text {
            let mut clear = payload.iter().zip(self.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            if !clear.all(|byte| text.take(byte)) {
                return Err(Violation::NotText);
            }
        }
        if self.skip > 0 {
            self.mask.rotate_left(payload.len() % 4);
        } else {
            self.mask = [0; 4];
            if self.message.is_none() && self.text.take().is_some_and(|text| !text.is_whole()) {
                return Err(Violation::NotText);
            }
        }
        Ok(rest)
    }

    /// How many bytes of `available` to add to the partial frame before looking again: never past its end.
    fn missing(&self, available: usize) -> usize {
        let have = self.partial.len();
        let wanted = match self.partial.get(1) {
            None => 2,
            Some(length) => {
                let size = header_size(*length);
                let control = self.partial[0] & 0x8 != 0;
                if have < size || !control { size } else { size + usize::from(length & 0x7f) }
            }
        };
        wanted.saturating_sub(have).clamp(1, available)
    }

    /// The frame at the beginning of `bytes`: its header, and its payload if it is a control frame's.
    /// `None` when more is needed.
    fn frame<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Header, &'a [u8])>, Violation> {
        let Some(header) = parse_header(bytes, self.message.is_some())? else { return Ok(None) };
        if header.opcode & 0x8 == 0 {
            let size = header.payload.saturating_add(self.message.unwrap_or(0));
            return if size > MAX_MESSAGE { Err(Violation::TooBig) } else { Ok(Some((header, &[]))) };
        }
        let end = header.size + header.payload as usize;
        Ok(bytes.get(header.size..end).map(|payload| (header, payload)))
    }

    fn deliver(
        &mut self,
        header: &Header,
        payload: &[u8],
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, Violation> {
        if header.opcode & 0x8 == 0 {
            (self.skip, self.mask) = (header.payload, header.mask);
            if header.opcode == TEXT {
                self.text = Some(Text::default());
            }
            self.message = (!header.fin).then(|| self.message.unwrap_or(0).saturating_add(header.payload));
            return Ok(on(Incoming::Data));
        }
        let mut clear = [0; MAX_CONTROL];
        for (index, (to, from)) in clear.iter_mut().zip(payload).enumerate() {
            *to = from ^ header.mask[index % 4];
        }
        let clear = &clear[..payload.len()];
        match header.opcode {
            PING => Ok(on(Incoming::Ping(clear))),
            PONG => Ok(on(Incoming::Pong)),
            _ => Ok(on(Incoming::Close(parse_close(clear)?))),
        }
    }
}

fn header_size(length: u8) -> usize {
    let extended = match length & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + 4
}

fn parse_header(bytes: &[u8], in_message: bool) -> Result<Option<Header>, Violation> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let (opcode, fin) = (first & 0xf, first & FIN != 0);
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
        CLOSE | PING | PONG if usize::from(second & 0x7f) > MAX_CONTROL => {
            return Err(Violation::Protocol("control frame too long"));
        }
        CLOSE | PING | PONG => {}
        _ => return Err(Violation::Protocol("unknown opcode")),
    }
    let size = header_size(second);
    let Some(head) = bytes.get(..size) else { return Ok(None) };
    let payload = head[2..size - 4].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let payload = if size == 6 { u64::from(second & 0x7f) } else { payload };
    if payload >> 63 != 0 {
        return Err(Violation::Protocol("bad length"));
    }
    if matches!((size, payload), (8, ..=125) | (14, ..=0xffff)) {
        return Err(Violation::Protocol("length not in its shortest form"));
    }
    let mask = [head[size - 4], head[size - 3], head[size - 2], head[size - 1]];
    Ok(Some(Header { opcode, fin, size, mask, payload }))
}

fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::Protocol("bad close frame")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("bad close code"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::NotText)?;
    Ok(Some((code, reason)))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
