//! Messages as bytes.

use hickory_proto::op::{MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType::{A, SRV};

use super::*;
use crate::slow_down;

const NAME: &str = "order.shop.muster.";

/// A service with so many instances.
fn crowd(count: usize) -> Served {
    let instances: Vec<Instance> = (0..count)
        .map(|i| instance(&format!("i{i}"), &[&format!("rest://10.0.{}.{}:80", i / 250, i % 250 + 1)], &[]))
        .collect();
    Served::new(&[service(["order", "shop", ""], "1.0.0", &instances)])
}

fn length(message: &Message) -> usize {
    message.to_vec().expect("a message").len()
}

#[test]
fn an_answer_over_udp_is_cut_to_what_the_client_takes() {
    let crowd = crowd(200);
    for (message, most) in [
        (question(NAME, A), 512),
        (with_edns(question(NAME, A), 100), 512),
        (with_edns(question(NAME, A), 900), 900),
        (with_edns(question(NAME, A), 65535), 1232),
        (with_edns(question(NAME, SRV), 1232), 1232),
    ] {
        let (_, answer) = crowd.send(&message, Transport::Udp);
        assert!(answer.metadata.truncation, "{most}");
        assert!(length(&answer) <= most && length(&answer) > most - 120, "{} of {most}", length(&answer));
        assert_eq!(answer.edns.is_some(), message.edns.is_some());
    }
    let (_, whole) = crowd.send(&question(NAME, A), Transport::Tcp);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
}

#[test]
fn addresses_that_only_save_a_question_are_no_cut() {
    let crowd = crowd(22);
    let (_, answer) = crowd.send(&with_edns(question(NAME, SRV), 1232), Transport::Udp);
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (22, false));
    assert!(answer.additionals.len() < 22);
}

#[test]
fn targets_have_their_addresses_in_long_answers_too() {
    // Names can be referred to in the first 16 KiB of a message; this one has 26.
    let crowd = crowd(400);
    let (_, answer) = crowd.send(&question(NAME, SRV), Transport::Tcp);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (400, 400));
    assert!(!answer.metadata.truncation);
    for (endpoint, address) in answer.answers.iter().zip(&answer.additionals) {
        let RData::SRV(srv) = &endpoint.data else { panic!("{endpoint}") };
        assert_eq!(srv.target, address.name);
        let number: u16 =
            srv.target.to_ascii()[1..].split('.').next().expect("an id").parse().expect("a number");
        let [_, _, third, fourth] = std::net::Ipv4Addr::octets(&match address.data {
            RData::A(a) => a.0,
            ref other => panic!("{other}"),
        });
        assert_eq!(number, u16::from(third) * 250 + u16::from(fourth) - 1);
    }
}

#[test]
fn an_address_of_two_endpoints_is_told_once() {
    let endpoints = ["rest://10.0.0.1:80", "grpc://10.0.0.1:90", "rest://10.0.0.2:80"];
    let one = instance("one", &endpoints[..2], &[]);
    let two = instance("two", &endpoints, &[]);
    let served = Served::new(&[service(["order", "shop", ""], "1.0.0", &[one, two])]);
    let answer = served.ask(NAME, SRV);
    let mut told: Vec<String> = answer.additionals.iter().map(ToString::to_string).collect();
    told.sort();
    assert_eq!(answer.answers.len(), 5);
    assert_eq!(
        told,
        [
            "10-0-0-1.two.instance.order.shop.muster. 5 IN A 10.0.0.1",
            "10-0-0-2.two.instance.order.shop.muster. 5 IN A 10.0.0.2",
            "one.instance.order.shop.muster. 5 IN A 10.0.0.1",
        ]
    );
}

#[test]
fn an_answer_has_the_records_that_people_are_shown() {
    let named = instance("named", &["rest://node-1.example:80"], &[("weight", "7")]);
    let many = instance("many", &["rest://10.0.0.1:80", "grpc://[2001:db8::1]:90"], &[]);
    let services = [service(["order", "shop", ""], "1.0.0", &[named, many])];
    let served = Served::new(&services);
    let key = services[0].key.clone().expect("a name");
    let zone = Zone::new(origin(), 7, &services, None);
    let mut told: Vec<String> = crate::records(zone, &key, &[])
        .expect("a name of DNS")
        .into_iter()
        // The library writes texts without quotes and gaps.
        .map(|told| (told.data.replace("\" \"", "").replace('"', ""), told))
        .map(|(data, told)| format!("{} {} IN {} {data}", told.name, told.ttl, told.kind))
        .collect();
    let mut answered: Vec<String> = [A, SRV, RecordType::AAAA, RecordType::TXT]
        .into_iter()
        .map(|kind| served.ask(NAME, kind))
        .flat_map(|message| [message.answers, message.additionals].concat())
        .map(|record| record.to_string())
        .collect();
    answered.sort();
    answered.dedup();
    told.sort();
    assert_eq!(told, answered);
}

#[test]
fn the_order_of_an_answer_changes() {
    let crowd = crowd(8);
    let bytes = question(NAME, A).to_vec().expect("a message");
    let mut rng = Rng::with_seed(3);
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let mut out = Vec::new();
        respond(&crowd.origin, &crowd.state, &bytes, Transport::Udp, &mut out, &mut rng);
        firsts.insert(Message::from_vec(&out).expect("a message").answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 8);
}

#[test]
fn a_message_that_is_no_question_gets_no_answer_or_a_refusal() {
    let crowd = crowd(1);
    let mut out = Vec::new();
    let mut send = |bytes: &[u8]| {
        let code = respond(&crowd.origin, &crowd.state, bytes, Transport::Udp, &mut out, &mut Rng::new());
        code.map(|_| Message::from_vec(&out).expect("a message").metadata.response_code)
    };
    assert_eq!(send(&[]), None);
    assert_eq!(send(&[0; 11]), None);
    let mut answer = question(NAME, A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(send(&answer.to_vec().expect("a message")), None, "or two servers would answer for ever");
    // A header that promises more than follows.
    assert_eq!(send(&[0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]), Some(ResponseCode::FormErr));
    assert_eq!(send(&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), Some(ResponseCode::FormErr));
    // A name that points at itself.
    let circle = [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 12, 0, 1, 0, 1];
    assert_eq!(send(&circle), Some(ResponseCode::FormErr));
    let mut update = question(NAME, A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(send(&update.to_vec().expect("a message")), Some(ResponseCode::NotImp));
    let mut two = question(NAME, A);
    two.add_query(two.queries[0].clone());
    assert_eq!(send(&two.to_vec().expect("a message")), Some(ResponseCode::FormErr));
}

#[test]
fn a_later_version_of_edns_is_told_ours() {
    let mut message = with_edns(question(NAME, A), 1232);
    if let Some(edns) = &mut message.edns {
        edns.set_version(1);
    }
    let (_, answer) = crowd(1).send(&message, Transport::Udp);
    // The number has two names.
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.expect("ours").version(), 0);
}

#[test]
fn a_failure_says_its_reason_to_those_who_can_read_it() {
    let unknown = Served { origin: origin(), state: State::Unknown };
    let (_, answer) = unknown.send(&with_edns(question(NAME, A), 1232), Transport::Udp);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let text = format!("{:?}", answer.edns.expect("options").options());
    assert!(text.contains("15"), "{text}");
    let (_, plain) = unknown.send(&question(NAME, A), Transport::Udp);
    assert!(plain.edns.is_none());
}

#[test]
fn a_source_that_asks_too_much_gets_less_than_it_sent() {
    let message = with_edns(question(NAME, A), 1232);
    let bytes = message.to_vec().expect("a message");
    let mut out = Vec::new();
    assert_eq!(slow_down(&bytes, &mut out), Some(Code::Slowed));
    assert!(out.len() <= bytes.len());
    let answer = Message::from_vec(&out).expect("a message");
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(slow_down(&bytes[..11], &mut out), None);
    // A name that refers to a label in the header. In full it would be longer than the question.
    let short = [9, 8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 0, 0, 1, 0, 1];
    assert_eq!(slow_down(&short, &mut out), None);
    let crowd = crowd(1);
    let code = respond(&crowd.origin, &crowd.state, &short, Transport::Udp, &mut out, &mut Rng::new());
    assert_eq!((code, out.len()), (Some(Code::BadMessage), 12));
}

#[test]
fn the_question_comes_back_as_it_was_written() {
    // Resolvers vary the case to recognise forged answers.
    let (_, answer) = crowd(1).send(&question("oRdEr.ShOp.mUsTeR.", A), Transport::Udp);
    assert_eq!(answer.queries[0].name().to_ascii(), "oRdEr.ShOp.mUsTeR.");
    assert_eq!(answer.answers[0].name.to_ascii(), "oRdEr.ShOp.mUsTeR.");
    assert!(answer.metadata.recursion_desired && !answer.metadata.recursion_available);
}
