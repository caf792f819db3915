//! Packets of DNS.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use ::dns::{Origin, Service, Stamp, State, Transport, Zone, respond, slow_down};
use fastrand::Rng;
use hickory_proto::op::{Message, MessageType};
use shared::event::Position;
use shared::model::{Instance, ServiceKey};

/// A service with an instance of each kind.
struct Known(ServiceKey, Vec<Arc<Instance>>);

impl Service for Known {
    fn key(&self) -> Option<&ServiceKey> {
        Some(&self.0)
    }

    fn stamp(&self) -> Stamp {
        Stamp { id: self.0.environment.as_str().into(), at: Position::default(), digest: 0 }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.1.iter()
    }
}

static SERVED: LazyLock<(Arc<Origin>, State)> = LazyLock::new(|| {
    let origin = Origin::new("muster.", 5, IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("a zone");
    let origin = Arc::new(origin);
    let known: Vec<Known> = ["", "production"].into_iter().map(service).collect();
    let zone = Zone::new(origin.clone(), 1, &known, None);
    (origin, State::Known(Arc::new(zone)))
});

fn service(environment: &str) -> Known {
    let key = ServiceKey {
        environment: environment.into(),
        app_id: "shop".into(),
        service_name: "order".into(),
        version: "1.2.0".into(),
        ..ServiceKey::default()
    };
    let instance = |id: &str, endpoints: &[&str]| {
        Arc::new(Instance {
            instance_id: id.into(),
            endpoints: endpoints.iter().map(|text| (*text).into()).collect(),
            properties: [("color".into(), "blue".into())].into(),
            ..Instance::default()
        })
    };
    let first = instance("i-1", &["rest://10.0.0.1:80"]);
    let second = instance("i-2", &["rest://10.0.0.2:80", "grpc://[2001:db8::2]:90"]);
    Known(key, vec![first, second, instance("i-3", &["rest://node.example:80"])])
}

/// Whatever a packet holds, its answer is a message of bounded length that belongs to it, and an answer is
/// never answered.
pub(crate) fn questions(input: &[u8]) {
    let (origin, state) = &*SERVED;
    let mut out = Vec::new();
    for state in [state, &State::Unknown] {
        for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, usize::from(u16::MAX))] {
            let code = respond(origin, state, input, transport, &mut out, &mut Rng::with_seed(1));
            check(input, code.map(|_| &*out), most);
        }
    }
    check(input, slow_down(input, &mut out).map(|_| &*out), input.len().max(12));
}

fn check(input: &[u8], answer: Option<&[u8]>, most: usize) {
    let Some(answer) = answer else { return };
    assert!(answer.len() <= most, "{} of {most} bytes", answer.len());
    let message = Message::from_vec(answer).expect("an answer can be read");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert_eq!(answer[..2], input[..2], "the answer has the question's id");
    assert_eq!(input[2] & 0x80, 0, "an answer is not answered");
    assert!(!message.metadata.recursion_available);
}
