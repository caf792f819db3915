//! Questions against zones, from bytes to bytes.

use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use shared::event::Position;
use shared::model::{Instance, Revision, ServiceKey};

use crate::{Code, Origin, Service, Stamp, State, Transport, Zone, respond};

mod answers;
mod messages;
mod model;
mod servers;

/// A service of a test.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) key: Option<ServiceKey>,
    pub(crate) at: u64,
    pub(crate) instances: Vec<Arc<Instance>>,
}

impl Service for Known {
    fn key(&self) -> Option<&ServiceKey> {
        self.key.as_ref()
    }

    fn stamp(&self) -> Stamp {
        let id = self.key.as_ref().map_or_else(String::new, |key| format!("{key:?}"));
        Stamp { id: id.into(), at: Position { rev: Revision::new(self.at), sub: 0 }, digest: 0 }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.iter()
    }
}

/// A service by `name.app.env` and version; the environment may be empty.
pub(crate) fn service(path: [&str; 3], version: &str, instances: &[Instance]) -> Known {
    let [name, app, env] = path.map(str::to_owned);
    let key = ServiceKey {
        environment: env,
        app_id: app,
        service_name: name,
        version: version.into(),
        ..ServiceKey::default()
    };
    Known { key: Some(key), at: 1, instances: instances.iter().cloned().map(Arc::new).collect() }
}

pub(crate) fn instance(id: &str, endpoints: &[&str], properties: &[(&str, &str)]) -> Instance {
    Instance {
        instance_id: id.into(),
        endpoints: endpoints.iter().map(|text| (*text).to_owned()).collect(),
        properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        status: "UP".into(),
        ..Instance::default()
    }
}

pub(crate) fn origin() -> Arc<Origin> {
    Arc::new(Origin::new("muster.", 5, IpAddr::from([127, 0, 0, 1])).expect("a zone"))
}

/// A server of a zone.
pub(crate) struct Served {
    pub(crate) origin: Arc<Origin>,
    pub(crate) state: State,
}

impl Served {
    pub(crate) fn new(services: &[Known]) -> Self {
        let origin = origin();
        let zone = Zone::new(origin.clone(), 7, services, None);
        Self { origin, state: State::Known(Arc::new(zone)) }
    }

    /// The same while something of the zone may be missing.
    pub(crate) fn incomplete(services: &[Known]) -> Self {
        let origin = origin();
        let zone = Zone::new(origin.clone(), 7, services, None).incomplete();
        Self { origin, state: State::Known(Arc::new(zone)) }
    }

    /// The answer over TCP, where there is room for everything.
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind), Transport::Tcp).1
    }

    pub(crate) fn send(&self, message: &Message, transport: Transport) -> (Code, Message) {
        let bytes = message.to_vec().expect("a message");
        let mut out = Vec::new();
        let code = respond(&self.origin, &self.state, &bytes, transport, &mut out, &mut Rng::with_seed(1));
        (code.expect("an answer"), Message::from_vec(&out).expect("a message"))
    }

    pub(crate) fn code(&self, name: &str, kind: RecordType) -> ResponseCode {
        self.ask(name, kind).metadata.response_code
    }

    /// The addresses that a name has.
    pub(crate) fn addresses(&self, name: &str) -> Vec<String> {
        let mut addresses: Vec<String> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .flat_map(|kind| self.ask(name, kind).answers)
            .map(|record| record.data.ip_addr().expect("an address").to_string())
            .collect();
        addresses.sort();
        addresses
    }

    /// The endpoints that a name has: weight, port and target.
    pub(crate) fn endpoints(&self, name: &str) -> Vec<(u16, u16, String)> {
        let answers = self.ask(name, RecordType::SRV).answers;
        let mut endpoints: Vec<_> = answers
            .into_iter()
            .map(|record| match record.data {
                RData::SRV(srv) => (srv.weight, srv.port, srv.target.to_ascii()),
                other => panic!("{other:?}"),
            })
            .collect();
        endpoints.sort();
        endpoints
    }
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut query = Query::query(Name::from_ascii(name).expect("a name"), kind);
    query.set_query_class(DNSClass::IN);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query);
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}
