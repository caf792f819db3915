//! The answer to a question, from the zone alone.
//!
//! In: a question, and the state of the zone. Out: records. Nothing is claimed without proof: while the state
//! is not known, or a name is that of several services, the answer is a failure and never "no such name".
//!
//! | question | answer |
//! | --- | --- |
//! | `A`, `AAAA` | the addresses of the instances, each once; `CNAME` when all have names of machines only |
//! | `SRV` | the endpoints, with weights; the addresses of their instances in addition |
//! | `TXT` of a service | its versions and the number of their instances |
//! | `TXT` of an instance | version, endpoints and properties |
//! | `PTR` of an address | the instances on it |
//! | `ANY` | one short record ([RFC 8482](https://www.rfc-editor.org/rfc/rfc8482)) |

use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, HINFO, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::endpoint::{Endpoint, Host};
use crate::group::{Addresses, Group, Member};
use crate::names::Asked;
use crate::order::Weighted;
use crate::origin::{NAME_SERVER, Origin};
use crate::select::{Found, Selection, find};
use crate::text;
use crate::wire::{EndpointRecord, Parts};
use crate::zone::Zone;

/// The shortest record that an answer has: two octets of a name, ten of its head, four of an address.
pub(crate) const SHORTEST_RECORD: usize = 16;

/// The state of the zone.
#[derive(Clone, Debug)]
pub enum State {
    /// Nothing is known yet, or not enough.
    Unknown,
    /// The policy of access control lets nobody read.
    Closed,
    /// The zone at the last known moment.
    Known(Arc<Zone>),
}

/// The reason of an answer, for people to read ([RFC 8914](https://www.rfc-editor.org/rfc/rfc8914)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    NotReady,
    Prohibited,
    NotAuthoritative,
    Ambiguous,
    TooLong,
    NotSupported,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer<'z> {
    pub(crate) code: ResponseCode,
    pub(crate) why: Option<Why>,
    pub(crate) records: Records<'z>,
    /// There are more answers than were asked for.
    pub(crate) is_cut: bool,
}

/// The records of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Records<'z> {
    /// Of any names and kinds.
    Any { answers: Vec<Record>, authorities: Vec<Record>, additionals: Vec<Record> },
    /// Addresses of the name that is asked for, and the seconds for which they may be kept.
    Addresses(Vec<IpAddr>, u32),
    /// Endpoints of that name, and in addition the addresses of their targets.
    Endpoints(Vec<&'z EndpointRecord>, u32),
}

impl<'z> Answer<'z> {
    fn of(answers: Vec<Record>) -> Self {
        let (authorities, additionals) = <(Vec<_>, Vec<_>)>::default();
        Self::with(Records::Any { answers, authorities, additionals })
    }

    fn with(records: Records<'z>) -> Self {
        Self { code: ResponseCode::NoError, why: None, records, is_cut: false }
    }

    pub(crate) fn failure(code: ResponseCode, why: Why) -> Self {
        Self { code, why: Some(why), ..Self::of(Vec::new()) }
    }

    /// The server answers for the name itself, and not with a failure.
    pub(crate) fn is_authoritative(&self) -> bool {
        matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// The answers and what comes in addition, as records of the name that was asked for.
    pub(crate) fn into_records(self, name: &Name) -> Vec<Record> {
        match self.records {
            Records::Any { mut answers, additionals, .. } => {
                answers.extend(additionals);
                answers
            }
            Records::Addresses(addresses, ttl) => {
                let of = |address: IpAddr| Record::from_rdata(name.clone(), ttl, address.into());
                addresses.into_iter().map(of).collect()
            }
            Records::Endpoints(endpoints, ttl) => {
                let records = endpoints.into_iter().filter_map(|endpoint| endpoint.records(name, ttl));
                records.flat_map(|(endpoint, address)| [Some(endpoint), address]).flatten().collect()
            }
        }
    }
}

/// Answers a question with at most `most` records.
pub(crate) fn answer<'z>(
    origin: &Origin,
    state: &'z State,
    query: &Query,
    most: usize,
    rng: &mut Rng,
) -> Answer<'z> {
    let refused = |why| Answer::failure(ResponseCode::Refused, why);
    let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || is_transfer {
        return refused(Why::NotSupported);
    }
    let below = origin.below(query.name());
    let address = if below.is_none() { address_of(query.name()) } else { None };
    if below.is_none() && address.is_none() {
        return refused(Why::NotAuthoritative);
    }
    let zone = match state {
        State::Unknown => return Answer::failure(ResponseCode::ServFail, Why::NotReady),
        State::Closed => return refused(Why::Prohibited),
        State::Known(zone) => zone,
    };
    let asking = Asking { zone, name: query.name(), kind: query.query_type(), most };
    match (below, address) {
        (Some(below), _) => asking.below(&below, rng),
        (None, Some(address)) => asking.reverse(address),
        (None, None) => refused(Why::NotAuthoritative),
    }
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is about.
fn address_of(name: &Name) -> Option<std::net::IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

/// A question about a known zone.
struct Asking<'z, 'a> {
    zone: &'z Zone,
    name: &'a Name,
    kind: RecordType,
    most: usize,
}

impl<'z> Asking<'z, '_> {
    fn below(&self, below: &str, rng: &mut Rng) -> Answer<'z> {
        if below.is_empty() {
            return self.of_zone();
        }
        if below == NAME_SERVER {
            return self.of_name_server();
        }
        match find(self.zone, &Asked::read(below)) {
            Found::Nothing => self.missing(ResponseCode::NXDomain),
            Found::Above => self.nothing_here(),
            Found::Ambiguous => Answer::failure(ResponseCode::ServFail, Why::Ambiguous),
            Found::Service(selection) => self.of_service(&selection, rng),
        }
    }

    fn of_service(&self, selection: &Selection<'z>, rng: &mut Rng) -> Answer<'z> {
        match self.kind {
            // Names with a protocol are those of endpoints, and no machine has such a name.
            RecordType::A | RecordType::AAAA if selection.protocol.is_none() => {
                self.addresses(&selection.addresses(), rng)
            }
            RecordType::SRV => self.endpoints(selection, rng),
            RecordType::TXT if selection.protocol.is_none() => {
                Answer::of(text::of(selection).into_iter().map(|txt| self.record(RData::TXT(txt))).collect())
                    .or(|| self.nothing_here())
            }
            RecordType::ANY => self.minimal(),
            _ => self.never_here(),
        }
    }

    fn addresses(&self, addresses: &Addresses, rng: &mut Rng) -> Answer<'z> {
        let Addresses { v4, v6, names } = addresses;
        // With an address of the other kind there is an instance. Resolvers ask for both kinds, and some take
        // a failure of one for a failure of both.
        let is_other = !(v4.items().is_empty() && v6.items().is_empty());
        if !is_other && !names.items().is_empty() {
            // A name has one alias at most, so each answer draws another one.
            let drawn = names.draw(1, rng).into_iter().map(|name| RData::CNAME(CNAME(name.clone())));
            return Answer::of(drawn.map(|data| self.record(data)).collect());
        }
        let (drawn, is_cut) = match self.kind {
            RecordType::A => self.drawn(v4, rng),
            _ => self.drawn(v6, rng),
        };
        let empty = || if is_other { self.never_here() } else { self.nothing_here() };
        Answer { is_cut, ..Answer::with(Records::Addresses(drawn, self.ttl())) }.or(empty)
    }

    /// Addresses for an answer, and whether some are left out.
    fn drawn<T: Copy + Into<IpAddr>>(&self, all: &Weighted<T>, rng: &mut Rng) -> (Vec<IpAddr>, bool) {
        let drawn: Vec<IpAddr> =
            all.draw(self.most, rng).into_iter().map(|address| (*address).into()).collect();
        let is_cut = drawn.len() < all.items().len();
        (drawn, is_cut)
    }

    fn endpoints(&self, selection: &Selection<'z>, rng: &mut Rng) -> Answer<'z> {
        let endpoints = selection.endpoints();
        let drawn = endpoints.draw(self.most, rng);
        let mut is_cut = drawn.len() < endpoints.items().len();
        // Records that do not fit are not made: a service may have thousands of instances. Saturating,
        // because the list for people on the command line has no bound.
        let mut room = self.most.saturating_mul(SHORTEST_RECORD);
        let mut told = Vec::with_capacity(drawn.len());
        for spot in drawn {
            let make =
                |member: &Member, endpoint: &Endpoint| self.record_of(selection.group, member, endpoint);
            let Some(record) = selection.group.record(*spot, make) else {
                return Answer::failure(ResponseCode::ServFail, Why::TooLong);
            };
            let Some(left) = room.checked_sub(record.len()) else {
                is_cut = true;
                break;
            };
            room = left;
            told.push(record);
        }
        Answer { is_cut, ..Answer::with(Records::Endpoints(told, self.ttl())) }.or(|| self.nothing_here())
    }

    /// The record of an endpoint. `None` when the name of its target is too long for DNS.
    fn record_of(&self, group: &Group, member: &Member, endpoint: &Endpoint) -> Option<EndpointRecord> {
        let (target, address) = match &endpoint.host {
            Host::Name(name) => (name.clone(), None),
            Host::Address(address) => {
                // With several addresses, each needs a name of its own, or a client would mix them.
                let of_many = member.has_many.then_some(*address);
                (self.zone.origin.instance(group, member, of_many)?, Some(*address))
            }
        };
        Some(EndpointRecord::new(&Parts {
            ttl: self.ttl(),
            weight: member.weight,
            port: endpoint.port,
            target: &target,
            address,
            is_repeated: member.is_repeated,
        }))
    }

    fn reverse(&self, address: std::net::IpAddr) -> Answer<'z> {
        let places = self.zone.at(address);
        // The zones of addresses are somebody else's.
        if places.is_empty() {
            return Answer::failure(ResponseCode::Refused, Why::NotAuthoritative);
        }
        if !matches!(self.kind, RecordType::PTR | RecordType::ANY) {
            return Answer::of(Vec::new());
        }
        let mut names = Vec::new();
        for place in places.iter().take(self.most) {
            let Some(name) = place.name(&self.zone.origin) else {
                return Answer::failure(ResponseCode::ServFail, Why::TooLong);
            };
            names.push(self.record(RData::PTR(PTR(name))));
        }
        Answer { is_cut: names.len() < places.len(), ..Answer::of(names) }
    }

    fn of_zone(&self) -> Answer<'z> {
        let origin = &self.zone.origin;
        match self.kind {
            RecordType::SOA => Answer::of(vec![self.record(RData::SOA(self.soa()))]),
            RecordType::NS => {
                let record = self.record(RData::NS(NS(origin.name_server().clone())));
                let addresses = origin.address.map(|address| {
                    Record::from_rdata(origin.name_server().clone(), self.ttl(), address.into())
                });
                let (answers, additionals) = (vec![record], addresses.into_iter().collect());
                Answer::with(Records::Any { answers, authorities: Vec::new(), additionals })
            }
            RecordType::ANY => self.minimal(),
            _ => self.never_here(),
        }
    }

    fn of_name_server(&self) -> Answer<'z> {
        match self.zone.origin.address {
            Some(address) if self.kind == RData::from(address).record_type() => {
                Answer::of(vec![self.record(address.into())])
            }
            _ => self.never_here(),
        }
    }

    /// An answer without records, of a name that has none of this kind now.
    fn nothing_here(&self) -> Answer<'z> {
        self.missing(ResponseCode::NoError)
    }

    /// An answer without records of a name that exists, whose kind needs no proof: nothing that may be
    /// missing from the zone would be one.
    fn never_here(&self) -> Answer<'z> {
        self.denied(ResponseCode::NoError)
    }

    fn missing(&self, code: ResponseCode) -> Answer<'z> {
        if !self.zone.is_whole {
            return Answer::failure(ResponseCode::ServFail, Why::NotReady);
        }
        self.denied(code)
    }

    fn denied(&self, code: ResponseCode) -> Answer<'z> {
        let soa = Record::from_rdata(self.zone.origin.name().clone(), self.ttl(), RData::SOA(self.soa()));
        let (answers, additionals) = <(Vec<_>, Vec<_>)>::default();
        let records = Records::Any { answers, authorities: vec![soa], additionals };
        Answer { code, ..Answer::with(records) }
    }

    fn minimal(&self) -> Answer<'z> {
        Answer::of(vec![self.record(RData::HINFO(HINFO::new("RFC8482".into(), String::new())))])
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.ttl(), data)
    }

    fn ttl(&self) -> u32 {
        self.zone.origin.ttl
    }

    fn soa(&self) -> SOA {
        self.zone.origin.soa(self.zone.serial)
    }
}

impl Answer<'_> {
    /// This answer, or another one if it is empty.
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        let is_empty = match &self.records {
            Records::Any { answers, .. } => answers.is_empty(),
            Records::Addresses(addresses, _) => addresses.is_empty(),
            Records::Endpoints(endpoints, _) => endpoints.is_empty(),
        };
        if is_empty { other() } else { self }
    }
}
