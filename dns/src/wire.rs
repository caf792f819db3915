//! The records that answers consist of most often, as bytes.
//!
//! In: addresses and endpoints. Out: their records in a message, as far as there is room. The owner of each is
//! the name that the message asks for, so that its record needs no name of its own. An endpoint's record is
//! made once and then only copied: its target is most of an answer, and is the same in each.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncoder};

/// Where the name that a message asks for stands: after the header.
const ASKED: u16 = 12;
/// The last place at which an earlier name can stand.
const REACHABLE: u16 = 0x3FFF;
/// The place of an endpoint's data in its record, after owner, type, class, time and length.
const DATA: usize = 12;
/// The place of its target, after three numbers.
const TARGET: usize = DATA + 6;
/// The octets of most answers, for which a block has room at once.
const USUAL: usize = 1232;

/// The record of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndpointRecord {
    /// The whole record, whose owner is the name that is asked for.
    bytes: Box<[u8]>,
    /// The address of the target. `None` when another server answers for its name.
    address: Option<IpAddr>,
    /// Another endpoint may have the same target.
    is_repeated: bool,
}

/// The parts of an endpoint's record.
pub(crate) struct Parts<'a> {
    pub(crate) ttl: u32,
    pub(crate) weight: u16,
    pub(crate) port: u16,
    pub(crate) target: &'a Name,
    /// The address of the target. `None` when another server answers for its name.
    pub(crate) address: Option<IpAddr>,
    /// Another endpoint may have the same target.
    pub(crate) is_repeated: bool,
}

impl EndpointRecord {
    /// A record of these parts.
    pub(crate) fn new(parts: &Parts<'_>) -> Self {
        let Parts { ttl, weight, port, target, address, is_repeated } = *parts;
        let mut bytes = Vec::with_capacity(TARGET + target.len() + 1);
        bytes.extend_from_slice(&earlier(ASKED));
        bytes.extend_from_slice(&head(RecordType::SRV, ttl));
        // The length stands before what it counts.
        bytes.extend_from_slice(&[0, 0]);
        for number in [0, weight, port] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        // Without references to other names, as RFC 2782 says. A label has 63 octets at most, and a name 255.
        for label in target {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
        let length = (bytes.len() - DATA) as u16;
        bytes[DATA - 2..DATA].copy_from_slice(&length.to_be_bytes());
        Self { bytes: bytes.into(), address, is_repeated }
    }

    /// Its octets in a message.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn target(&self) -> &[u8] {
        &self.bytes[TARGET..]
    }

    /// The same as a record of this owner, and the record of its target's address.
    pub(crate) fn records(&self, owner: &Name, ttl: u32) -> Option<(Record, Option<Record>)> {
        let srv = SRV::read(&mut BinDecoder::new(&self.bytes[DATA..])).ok()?;
        let of_target = |address: IpAddr| Record::from_rdata(srv.target.clone(), ttl, address.into());
        let address = self.address.map(of_target);
        Some((Record::from_rdata(owner.clone(), ttl, RData::SRV(srv)), address))
    }
}

/// Writes addresses as the answers of a message, as far as there is room. Returns their number; `None` when the
/// message cannot be written.
pub(crate) fn addresses(
    encoder: &mut BinEncoder<'_>,
    addresses: &[IpAddr],
    ttl: u32,
    room: usize,
) -> Option<usize> {
    let mut block = Block::new(room);
    let written =
        addresses.iter().take_while(|address| block.address(&earlier(ASKED), **address, ttl)).count();
    block.write(encoder)?;
    Some(written)
}

/// Writes endpoints as the answers of a message, and the addresses of their targets in addition, as far as there
/// is room. Returns the numbers of both; `None` when the message cannot be written.
pub(crate) fn endpoints(
    encoder: &mut BinEncoder<'_>,
    endpoints: &[&EndpointRecord],
    ttl: u32,
    room: usize,
) -> Option<(usize, usize)> {
    let mut block = Block::new(room);
    let answers = endpoints.iter().take_while(|endpoint| block.add(&[&endpoint.bytes])).count();
    let mut told = HashSet::new();
    let mut place = encoder.len();
    let mut additionals = 0;
    for endpoint in &endpoints[..answers] {
        let target = place + TARGET;
        place += endpoint.len();
        let Some(address) = endpoint.address else { continue };
        if endpoint.is_repeated && !told.insert(endpoint.target()) {
            continue;
        }
        let reference = u16::try_from(target).ok().filter(|target| *target <= REACHABLE).map(earlier);
        let owner = reference.as_ref().map_or(endpoint.target(), |reference| reference);
        if !block.address(owner, address, ttl) {
            break;
        }
        additionals += 1;
    }
    block.write(encoder)?;
    Some((answers, additionals))
}

/// Records that are written together: an answer has some seventy, and each on its own would cost more to hand over
/// than to make.
struct Block {
    bytes: Vec<u8>,
    room: usize,
}

impl Block {
    /// A block of at most so many octets.
    fn new(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room.min(USUAL)), room }
    }

    /// Adds a record, given in parts, whole or not at all. False when it has no room.
    fn add(&mut self, parts: &[&[u8]]) -> bool {
        let has_room = parts.iter().map(|part| part.len()).sum::<usize>() <= self.room - self.bytes.len();
        if has_room {
            parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        }
        has_room
    }

    /// Adds the record of an address. False when it has no room.
    fn address(&mut self, owner: &[u8], address: IpAddr, ttl: u32) -> bool {
        let mut add = |kind, octets: &[u8]| {
            let length = (octets.len() as u16).to_be_bytes();
            self.add(&[owner, &head(kind, ttl), &length, octets])
        };
        match address {
            IpAddr::V4(address) => add(RecordType::A, &address.octets()),
            IpAddr::V6(address) => add(RecordType::AAAA, &address.octets()),
        }
    }

    fn write(self, encoder: &mut BinEncoder<'_>) -> Option<()> {
        encoder.emit_vec(&self.bytes).ok()
    }
}

/// A name that stands earlier in the message, at this place.
fn earlier(place: u16) -> [u8; 2] {
    (0xC000 | place).to_be_bytes()
}

/// Type, class and time.
fn head(kind: RecordType, ttl: u32) -> [u8; 8] {
    let mut head = [0; 8];
    head[..2].copy_from_slice(&u16::from(kind).to_be_bytes());
    head[2..4].copy_from_slice(&u16::from(DNSClass::IN).to_be_bytes());
    head[4..].copy_from_slice(&ttl.to_be_bytes());
    head
}
