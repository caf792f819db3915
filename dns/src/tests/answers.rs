//! The records of names.

use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused, ServFail};
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType::{A, AAAA, ANY, AXFR, NS, PTR, SOA, SRV, TXT};

use super::*;
use crate::answer::{Records, SHORTEST_RECORD, answer};

fn shop() -> Served {
    let first = instance("i-1", &["rest://10.0.0.1:8080"], &[("color", "Blue"), ("weight", "70")]);
    let second =
        instance("i-2", &["rest://10.0.0.2:8080", "grpc://[2001:db8::2]:9090"], &[("color", "green")]);
    let third = instance("i-3", &["rest://10.0.0.3:8080"], &[]);
    let away = [
        Instance { status: "DOWN".into(), ..instance("down", &["rest://10.0.0.8:1"], &[("color", "red")]) },
        instance("idle", &["rest://10.0.0.9:1"], &[("weight", "0")]),
    ];
    Served::new(&[
        service(["order", "shop", ""], "1.2.0", &[first, second]),
        service(["order", "shop", ""], "2.0.0", &[third]),
        service(["order", "shop", "production"], "1.2.0", &[instance("p", &["rest://10.0.1.1:1"], &[])]),
        service(["Pay_Later", "shop", ""], "1.0.0", &away),
        service(["named", "shop", ""], "1.0.0", &[instance("n", &["rest://node-1.example:80"], &[])]),
    ])
}

#[test]
fn a_service_has_the_addresses_of_its_instances() {
    let shop = shop();
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::2"];
    assert_eq!(shop.addresses("order.shop.muster."), all);
    assert_eq!(shop.addresses("ORDER.Shop.MUSTER."), all);
    assert_eq!(shop.addresses("order.shop.production.muster."), ["10.0.1.1"]);
    assert_eq!(shop.addresses("1-2-0.version.order.shop.muster."), ["10.0.0.1", "10.0.0.2", "2001:db8::2"]);
    assert_eq!(shop.addresses("blue.color.tag.order.shop.muster."), ["10.0.0.1"]);
    assert_eq!(shop.addresses("i-3.instance.order.shop.muster."), ["10.0.0.3"]);
    let answer = shop.ask("order.shop.muster.", A);
    assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
    assert!(answer.answers.iter().all(|record| record.ttl == 5));
}

#[test]
fn an_instance_that_two_versions_share_has_a_target_for_each_address() {
    let shop = Served::new(&[
        service(["order", "shop", ""], "1.0", &[instance("i", &["rest://10.0.0.1:81"], &[])]),
        service(["order", "shop", ""], "2.0", &[instance("i", &["rest://10.0.0.2:82"], &[])]),
    ]);
    let target = |address: &str| format!("{address}.i.instance.order.shop.muster.");
    let expected = [(100, 81, target("10-0-0-1")), (100, 82, target("10-0-0-2"))];
    assert_eq!(shop.endpoints("order.shop.muster."), expected);
    assert_eq!(shop.addresses(&expected[0].2), ["10.0.0.1"]);
    assert_eq!(shop.addresses(&expected[1].2), ["10.0.0.2"]);
}

#[test]
fn endpoints_have_weights_ports_and_targets_with_addresses() {
    let shop = shop();
    let both = "i-2.instance.order.shop.muster.";
    let expected = [
        (70, 8080, "i-1.instance.order.shop.muster.".to_owned()),
        (100, 8080, format!("10-0-0-2.{both}")),
        (100, 8080, "i-3.instance.order.shop.muster.".to_owned()),
        (100, 9090, format!("2001-db8-0-0-0-0-0-2.{both}")),
    ];
    let mut sorted = expected.to_vec();
    sorted.sort();
    assert_eq!(shop.endpoints("order.shop.muster."), sorted);
    assert_eq!(shop.endpoints("_grpc._tcp.order.shop.muster."), [expected[3].clone()]);
    assert_eq!(shop.endpoints("_rest._tcp.2-0-0.version.order.shop.muster."), [expected[2].clone()]);
    // Each target has the one address that belongs to its port.
    assert_eq!(shop.addresses(&expected[1].2), ["10.0.0.2"]);
    assert_eq!(shop.addresses(&expected[3].2), ["2001:db8::2"]);
    assert_eq!(shop.endpoints(&expected[3].2), [expected[3].clone()]);
    assert_eq!(shop.ask("order.shop.muster.", SRV).additionals.len(), 4);
}

#[test]
fn a_machine_with_a_name_is_told_by_its_name() {
    let shop = shop();
    assert_eq!(shop.endpoints("named.shop.muster."), [(100, 80, "node-1.example.".to_owned())]);
    let [record] = &shop.ask("named.shop.muster.", A).answers[..] else { panic!("one alias") };
    assert!(matches!(&record.data, RData::CNAME(name) if name.0.to_ascii() == "node-1.example."));
}

#[test]
fn texts_tell_versions_and_instances() {
    let shop = shop();
    let texts = |name: &str| -> Vec<String> {
        let answers = shop.ask(name, TXT).answers.into_iter();
        answers.map(|record| record.data.to_string()).collect()
    };
    let versions = texts("order.shop.muster.");
    assert!(versions.iter().any(|text| text.contains("version=1.2.0") && text.contains("instances=2")));
    assert_eq!(versions.len(), 2);
    let [instance] = &texts("i-1.instance.order.shop.muster.")[..] else { panic!("one instance") };
    for part in ["id=i-1", "weight=70", "endpoint=rest://10.0.0.1:8080", "property.color=Blue"] {
        assert!(instance.contains(part), "{instance}");
    }
}

#[test]
fn instances_without_traffic_are_left_out_and_their_service_stays() {
    let shop = shop();
    for kind in [A, AAAA, SRV] {
        let answer = shop.ask("pay-later.shop.muster.", kind);
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (NoError, 0));
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)), "proven to be empty");
    }
    for name in ["down.instance.pay-later.shop.muster.", "red.color.tag.pay-later.shop.muster."] {
        assert_eq!(shop.code(name, A), NXDomain, "{name}");
    }
    assert_eq!(shop.code("1-0-0.version.pay-later.shop.muster.", A), NoError);
}

#[test]
fn absent_names_are_denied_with_the_zones_record() {
    let shop = shop();
    for name in [
        "nothing.shop.muster.",
        "order.nothing.muster.",
        "9-9-9.version.order.shop.muster.",
        "_http._tcp.order.shop.muster.",
        "_tcp.pay-later.shop.muster.",
        "a.b.c.d.e.f.g.muster.",
        "x.color.tag.order.shop.muster.",
    ] {
        let answer = shop.ask(name, A);
        assert_eq!(answer.metadata.response_code, NXDomain, "{name}");
        assert!(matches!(&answer.authorities[0].data, RData::SOA(soa) if soa.minimum == 5), "{name}");
    }
}

#[test]
fn names_above_others_exist_without_records() {
    let shop = shop();
    for name in [
        "muster.",
        "shop.muster.",
        "production.muster.",
        "shop.production.muster.",
        "version.order.shop.muster.",
        "instance.order.shop.production.muster.",
        "color.tag.order.shop.muster.",
        "_tcp.order.shop.muster.",
        "_rest._tcp.order.shop.muster.",
    ] {
        let answer = shop.ask(name, A);
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (NoError, 0), "{name}");
    }
}

#[test]
fn the_zone_has_a_server() {
    let shop = shop();
    assert!(matches!(&shop.ask("muster.", SOA).answers[0].data, RData::SOA(soa) if soa.serial == 7));
    let servers = shop.ask("muster.", NS);
    assert!(matches!(&servers.answers[0].data, RData::NS(name) if name.0.to_ascii() == "ns.muster."));
    assert_eq!(servers.additionals.len(), 1);
    assert_eq!(shop.addresses("ns.muster."), ["127.0.0.1"]);
}

#[test]
fn an_address_leads_back_to_its_instances() {
    let shop = shop();
    let names = |name: &str| -> Vec<String> {
        shop.ask(name, PTR).answers.into_iter().map(|record| record.data.to_string()).collect()
    };
    assert_eq!(names("1.0.0.10.in-addr.arpa."), ["i-1.instance.order.shop.muster."]);
    let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    assert_eq!(names(six), ["i-2.instance.order.shop.muster."]);
    for other in ["7.0.0.10.in-addr.arpa.", "8.0.0.10.in-addr.arpa.", "0.0.10.in-addr.arpa.", "ip6.arpa."] {
        assert_eq!(shop.code(other, PTR), Refused, "{other}");
    }
}

#[test]
fn other_zones_transfers_and_classes_are_refused() {
    let shop = shop();
    for name in [".", "com.", "order.shop.", "order.shop.muster.com.", "version.bind."] {
        assert_eq!(shop.code(name, A), Refused, "{name}");
    }
    assert_eq!(shop.code("muster.", AXFR), Refused);
    let mut chaos = question("order.shop.muster.", A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(shop.send(&chaos, Transport::Tcp).1.metadata.response_code, Refused);
    assert!(matches!(shop.ask("order.shop.muster.", ANY).answers[0].data, RData::HINFO(_)), "a short one");
}

#[test]
fn a_name_of_several_services_is_not_guessed() {
    let at = |address: &str| [instance("i", &[&format!("rest://{address}:80")], &[])];
    let upper = service(["Order", "shop", ""], "1.0.0", &at("10.0.0.1"));
    let dotted = service(["ORDER", "shop", ""], "1.0.0", &at("10.0.0.2"));
    let exact = service(["order", "shop", ""], "1.0.0", &at("10.0.0.3"));
    let alone = Served::new(std::slice::from_ref(&upper));
    assert_eq!(alone.addresses("order.shop.muster."), ["10.0.0.1"]);
    let unclear = Served::new(&[upper.clone(), dotted.clone()]);
    for name in ["order.shop.muster.", "i.instance.order.shop.muster."] {
        assert_eq!(unclear.code(name, A), ServFail);
    }
    assert_eq!(unclear.code("1.0.0.10.in-addr.arpa.", PTR), Refused);
    let owned = Served::new(&[upper, exact, dotted]);
    assert_eq!(owned.addresses("order.shop.muster."), ["10.0.0.3"], "the label's own name");
    let State::Known(zone) = owned.state else { panic!("known") };
    assert_eq!((zone.names(), zone.hidden()), (1, 2));
}

#[test]
fn without_proof_nothing_is_denied() {
    let origin = origin();
    let unknown = Served { origin: origin.clone(), state: State::Unknown };
    assert_eq!(unknown.code("order.shop.muster.", A), ServFail);
    assert_eq!(unknown.code("1.0.0.10.in-addr.arpa.", PTR), ServFail);
    assert_eq!(unknown.code("example.com.", A), Refused);
    let closed = Served { origin, state: State::Closed };
    assert_eq!(closed.code("order.shop.muster.", A), Refused);
    // A service whose name nobody knows yet may be the one that is asked for.
    let nameless = Known { key: None, at: 1, instances: Vec::new() };
    let some = instance("i", &["rest://10.0.0.1:80"], &[]);
    let partly = Served::new(&[service(["order", "shop", ""], "1.0.0", &[some]), nameless]);
    assert_eq!(partly.addresses("order.shop.muster."), ["10.0.0.1"]);
    for name in ["pay.shop.muster.", "2-0-0.version.order.shop.muster.", "shop.muster."] {
        assert_eq!(partly.code(name, A), ServFail, "{name}");
    }
}

#[test]
fn while_something_may_be_missing_what_is_there_is_told_and_nothing_is_denied() {
    let served = Served::incomplete(&[
        service(["order", "shop", ""], "1.0.0", &[instance("i", &["rest://10.0.0.1:80"], &[])]),
        service(["pay", "shop", ""], "1.0.0", &[]),
    ]);
    assert_eq!(served.addresses("order.shop.muster."), ["10.0.0.1"]);
    for (name, kind) in
        [("other.shop.muster.", A), ("pay.shop.muster.", A), ("_grpc._tcp.order.shop.muster.", SRV)]
    {
        assert_eq!(served.code(name, kind), ServFail, "{name}");
    }
    // Resolvers that ask for both kinds of addresses get the one that there is.
    for (name, kind) in [("order.shop.muster.", AAAA), ("order.shop.muster.", NS), ("muster.", A)] {
        assert_eq!(served.code(name, kind), NoError, "{name}");
    }
}

#[test]
fn a_name_that_is_too_long_fails_and_lies_not() {
    let long = "x".repeat(63);
    let some = instance(&long, &["rest://10.0.0.1:80"], &[]);
    let served = Served::new(&[service([&long, &long, &long], "1.0.0", &[some])]);
    let name = format!("{long}.{long}.{long}.muster.");
    assert_eq!(served.addresses(&name), ["10.0.0.1"]);
    assert_eq!(served.code(&name, SRV), ServFail);
    assert_eq!(served.code("1.0.0.10.in-addr.arpa.", PTR), ServFail);
}

#[test]
fn a_zone_takes_over_what_has_not_changed() {
    let services = [
        service(["order", "shop", ""], "1.0.0", &[instance("i", &["rest://10.0.0.1:80"], &[])]),
        service(["pay", "shop", ""], "1.0.0", &[]),
    ];
    let before = Zone::new(origin(), 1, &services, None);
    let mut changed = services.clone();
    changed[1].instances.push(Arc::new(instance("j", &["rest://10.0.0.2:80"], &[])));
    changed[1].at = 2;
    let after = Zone::new(origin(), 2, &changed, Some(&before));
    let group = |zone: &Zone, name: &str| match zone.get(name) {
        Some(crate::zone::Entry::One(group)) => group.clone(),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&group(&before, "order.shop"), &group(&after, "order.shop")));
    assert_eq!(group(&after, "pay.shop").members.len(), 1);
}

#[test]
fn no_more_records_are_made_than_an_answer_has_room_for() {
    let id = |number: usize| format!("{number:032}");
    let all: Vec<Instance> = (0..4000)
        .map(|number| {
            let endpoint = format!("rest://10.1.{}.{}:80", number / 250, number % 250);
            instance(&id(number), &[&endpoint], &[])
        })
        .collect();
    let served = Served::new(&[service(["many", "shop", ""], "1.0.0", &all)]);
    let name = Name::from_ascii("many.shop.muster.").expect("a name");
    let most = usize::from(u16::MAX) / SHORTEST_RECORD;
    let query = Query::query(name, SRV);
    let answer = answer(&served.origin, &served.state, &query, most, &mut Rng::with_seed(1));
    let Records::Endpoints(endpoints, _) = &answer.records else { panic!("endpoints") };
    let made = endpoints.len();
    assert!(made < 1400 && answer.is_cut, "{made}");
    let told = served.ask("many.shop.muster.", SRV);
    assert!(told.metadata.truncation && told.answers.len() <= made, "it is full: {}", told.answers.len());
}
