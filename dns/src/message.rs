//! Messages of DNS: bytes come in, bytes go out.
//!
//! In: one message of a client. Out: the answer's bytes, or nothing when the message deserves none: it is
//! shorter than a header, or an answer itself, so that two servers never answer each other for ever. An
//! answer is never longer than the client can take; the bit TC says that it was cut.

use fastrand::Rng;
use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};

use crate::answer::{Answer, Records, SHORTEST_RECORD, State, Why, answer};
use crate::origin::Origin;
use crate::wire;

/// The bytes of a message that every client takes over UDP.
const PLAIN_UDP: u16 = 512;
/// The most bytes that are sent over UDP: they pass every usual network in one packet.
pub(crate) const MOST_UDP: u16 = 1232;
/// The bytes of a message's header (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// The most bytes of a label; greater numbers stand for references and reserved forms (RFC 1035, 4.1.4).
const LONGEST_LABEL: u8 = 63;
/// The most bytes of a record with options.
const OPTIONS: u16 = 11;
/// The code of an explanation in EDNS.
const EXPLANATION: u16 = 15;

/// The transport of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One packet each.
    Udp,
    /// A connection.
    Tcp,
}

/// The kind of an answer, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// With records, or without as proven.
    Ok,
    /// There is no such name.
    NoName,
    /// The zone is not known, or the name is ambiguous.
    Failed,
    /// Another zone, a transfer, or access control.
    Refused,
    /// A message that cannot be read, or asks for something else than records.
    BadMessage,
    /// Too many questions of one source: the client is asked to come over TCP.
    Slowed,
}

impl Code {
    fn of(code: ResponseCode) -> Self {
        match code {
            ResponseCode::NoError => Self::Ok,
            ResponseCode::NXDomain => Self::NoName,
            ResponseCode::ServFail => Self::Failed,
            ResponseCode::Refused => Self::Refused,
            _ => Self::BadMessage,
        }
    }
}

/// A message that was read.
enum Request {
    Question { metadata: Metadata, query: Query, edns: Option<Edns> },
    Bad { metadata: Metadata, query: Option<Query>, code: ResponseCode, has_edns: bool },
}

/// Answers one message: writes the bytes of the answer into `out`, which is emptied first. `None` when there
/// is nothing to send.
pub fn respond(
    origin: &Origin,
    state: &State,
    message: &[u8],
    transport: Transport,
    out: &mut Vec<u8>,
    rng: &mut Rng,
) -> Option<Code> {
    out.clear();
    match read(message)? {
        Request::Bad { metadata, query, code, has_edns } => {
            let edns = has_edns.then(reply_edns);
            let answer = Answer { code, why: None, ..Answer::failure(code, Why::NotSupported) };
            write(&metadata, query.as_ref(), &answer, edns, PLAIN_UDP, out)?;
            Some(Code::of(code))
        }
        Request::Question { metadata, query, edns } => {
            let most = match transport {
                Transport::Tcp => u16::MAX,
                Transport::Udp => {
                    edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload).clamp(PLAIN_UDP, MOST_UDP)
                }
            };
            let records = usize::from(most) / SHORTEST_RECORD;
            let answer = answer(origin, state, &query, records, rng);
            let edns = edns.map(|_| reply_edns());
            write(&metadata, Some(&query), &answer, edns, most, out)?;
            Some(Code::of(answer.code))
        }
    }
}

/// Answers one message of a source that asks too much: without records, and with the word to come over TCP.
pub fn slow_down(message: &[u8], out: &mut Vec<u8>) -> Option<Code> {
    out.clear();
    let Request::Question { metadata, query, edns } = read(message)? else { return None };
    let empty = Answer {
        is_cut: true,
        code: ResponseCode::NoError,
        ..Answer::failure(ResponseCode::NoError, Why::NotSupported)
    };
    let answer = Answer { why: None, ..empty };
    write(&metadata, Some(&query), &answer, edns.map(|_| reply_edns()), PLAIN_UDP, out)?;
    Some(Code::Slowed)
}

/// Reads a message. `None` when it deserves no answer.
fn read(message: &[u8]) -> Option<Request> {
    let Header { metadata, counts } = Header::read(&mut BinDecoder::new(message)).ok()?;
    if metadata.message_type != MessageType::Query {
        return None;
    }
    let bad = |code| Some(Request::Bad { metadata, query: None, code, has_edns: false });
    if metadata.op_code != OpCode::Query {
        return bad(ResponseCode::NotImp);
    }
    // Checked before the rest is read, because the reader makes room for as many as the header says. The last
    // section may have options and a signature.
    let HeaderCounts { queries, answers, authorities, additionals } = counts;
    let is_sensible = queries == 1 && answers == 0 && authorities == 0 && additionals <= 2;
    if !is_sensible || !has_whole_name(message) {
        return bad(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(message) else { return bad(ResponseCode::FormErr) };
    let query = message.queries.pop()?;
    match message.edns {
        Some(edns) if edns.version() > 0 => {
            Some(Request::Bad { metadata, query: Some(query), code: ResponseCode::BADVERS, has_edns: true })
        }
        edns => Some(Request::Question { metadata, query, edns }),
    }
}

/// True if the name of the first question is written in full, without a reference to an earlier name. Nothing but
/// the header stands before it, so no client sends one, and the answer, which has the name in full, would be longer than
/// the question: a source that asks too much would be sent more than it sends.
fn has_whole_name(message: &[u8]) -> bool {
    let mut rest = message.get(HEADER..).unwrap_or_default();
    loop {
        match rest {
            [0, ..] => return true,
            [length @ 1..=LONGEST_LABEL, label @ ..] if label.len() >= usize::from(*length) => {
                rest = &label[usize::from(*length)..];
            }
            _ => return false,
        }
    }
}

fn reply_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MOST_UDP);
    edns
}

fn write(
    request: &Metadata,
    query: Option<&Query>,
    answer: &Answer<'_>,
    edns: Option<Edns>,
    most: u16,
    out: &mut Vec<u8>,
) -> Option<()> {
    let edns = edns.map(|mut edns| {
        if let Some(why) = answer.why {
            edns.options_mut().insert(explanation(why));
        }
        edns.set_rcode_high(answer.code.high());
        edns
    });
    let mut encoder = BinEncoder::new(out);
    let room = match &edns {
        // Options always stand in the answer to a question with options.
        Some(edns) => most - OPTIONS - options_length(edns),
        None => most,
    };
    encoder.set_max_size(room);
    let place = encoder.place::<Header>().ok()?;
    if let Some(query) = query {
        query.emit(&mut encoder).ok()?;
    }
    let Sections { is_cut, answers, authorities, mut additionals } =
        sections(&mut encoder, &answer.records, room)?;
    encoder.set_max_size(most);
    if let Some(edns) = &edns {
        edns.emit(&mut encoder).ok()?;
        additionals += 1;
    }
    let mut metadata = Metadata::response_from_request(request);
    metadata.authoritative = answer.is_authoritative() && query.is_some();
    metadata.truncation = is_cut || answer.is_cut;
    metadata.checking_disabled = false;
    metadata.response_code = answer.code;
    let counts = HeaderCounts { queries: query.is_some().into(), answers, authorities, additionals };
    place.replace(&mut encoder, Header { metadata, counts }).ok()
}

/// What was written of an answer: how many records of each section, and whether some of the answers were left out.
struct Sections {
    answers: u16,
    authorities: u16,
    additionals: u16,
    is_cut: bool,
}

fn sections(encoder: &mut BinEncoder<'_>, records: &Records<'_>, most: u16) -> Option<Sections> {
    let room = usize::from(most).saturating_sub(encoder.len());
    // What comes in addition only saves a question, so a cut there is none that a client must know.
    Some(match records {
        Records::Any { answers, authorities, additionals } => {
            let (answers, is_cut) = emit(encoder, answers)?;
            let (authorities, _) = emit(encoder, authorities)?;
            let (additionals, _) = emit(encoder, additionals)?;
            Sections { answers, authorities, additionals, is_cut }
        }
        Records::Addresses(addresses, ttl) => {
            let written = wire::addresses(encoder, addresses, *ttl, room)?;
            let is_cut = written < addresses.len();
            Sections { answers: written as u16, authorities: 0, additionals: 0, is_cut }
        }
        Records::Endpoints(endpoints, ttl) => {
            let (written, additionals) = wire::endpoints(encoder, endpoints, *ttl, room)?;
            let is_cut = written < endpoints.len();
            Sections { answers: written as u16, authorities: 0, additionals: additionals as u16, is_cut }
        }
    })
}

/// Writes records as far as there is room: their number, and whether some were left out.
fn emit(encoder: &mut BinEncoder<'_>, records: &[Record]) -> Option<(u16, bool)> {
    match encoder.emit_all(records.iter()) {
        Ok(count) => Some((count as u16, false)),
        Err(ProtoError::NotAllRecordsWritten { count, .. }) => Some((count as u16, true)),
        Err(_) => None,
    }
}

fn options_length(edns: &Edns) -> u16 {
    // Each option has a head of four octets.
    edns.options().as_ref().iter().map(|(_, option)| option.len() + 4).sum()
}

/// The explanation of an answer, as clients such as `dig` show it.
fn explanation(why: Why) -> EdnsOption {
    let (code, text): (u16, &str) = match why {
        Why::NotReady => (14, "the registry is not known yet"),
        Why::Prohibited => (18, "access control: see dns.account"),
        Why::NotAuthoritative => (20, ""),
        Why::Ambiguous => (0, "several services have this name"),
        Why::TooLong => (0, "a name is too long for DNS"),
        Why::NotSupported => (21, ""),
    };
    EdnsOption::Unknown(EXPLANATION, [&code.to_be_bytes()[..], text.as_bytes()].concat())
}
