//! Zones against a plain model: every name that exists, written down one by one.

use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{A, AAAA, SRV};
use proptest::prelude::*;

use super::*;

/// The names that exist, with their addresses and endpoints.
#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<String, Owner>,
    /// Names that several services have.
    unclear: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Owner {
    addresses: BTreeSet<String>,
    ports: BTreeMap<(u16, u16), usize>,
}

const ENDPOINTS: [&str; 4] =
    ["rest://10.0.0.1:80", "rest://10.0.0.2:80", "grpc://10.0.0.1:90", "grpc://[2001:db8::1]:90"];

fn instances() -> impl Strategy<Value = Vec<Instance>> {
    let one = (
        prop::sample::subsequence(ENDPOINTS.to_vec(), 0..3),
        prop::sample::select(vec!["", "UP", "DOWN", "STARTING", "TESTING", "OUTOFSERVICE"]),
        prop::option::of(prop::sample::select(vec!["0", "1", "50", "x"])),
        prop::option::of(prop::sample::select(vec!["Blue", "green"])),
    );
    prop::collection::vec(one, 0..4).prop_map(|all| {
        let each = all.into_iter().enumerate();
        each.map(|(i, (endpoints, status, weight, color))| {
            let properties: Vec<_> = [("weight", weight), ("color", color)]
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)))
                .collect();
            Instance { status: status.into(), ..instance(&format!("I{i}"), &endpoints, &properties) }
        })
        .collect()
    })
}

fn services() -> impl Strategy<Value = Vec<Known>> {
    let key = (
        prop::sample::select(vec!["a", "A", "b.c", "b-c", "B-c"]),
        prop::sample::select(vec!["x", "X"]),
        prop::sample::select(vec!["", "e"]),
        prop::sample::select(vec!["1.0", "2.0"]),
    );
    prop::collection::btree_map(key, instances(), 0..8).prop_map(|all| {
        all.into_iter()
            .map(|((name, app, env, version), instances)| service([name, app, env], version, &instances))
            .collect()
    })
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('.', "-")
}

impl Model {
    fn of(services: &[Known]) -> Self {
        let mut owners = BTreeMap::<String, BTreeSet<[String; 3]>>::new();
        let mut model = Self::default();
        for service in services {
            let [name, app, env] = parts(service);
            let path = [name.clone(), app, env];
            owners.entry(path_of(&path)).or_default().insert(path);
        }
        for service in services {
            let path = parts(service);
            let below = path_of(&path);
            let rivals = &owners[&below];
            let exact = rivals.iter().find(|rival| rival.iter().all(|part| plain(part) == *part));
            match exact {
                Some(exact) if *exact != path => continue,
                None if rivals.len() > 1 => {
                    model.unclear.insert(below);
                    continue;
                }
                _ => model.add(service, &below),
            }
        }
        model
    }

    fn add(&mut self, service: &Known, below: &str) {
        let version = plain(&service.key.as_ref().expect("a name").version);
        self.names.entry(below.to_owned()).or_default();
        self.names.entry(format!("{version}.version.{below}")).or_default();
        for instance in &service.instances {
            let weight = match instance.properties.get("weight").map(String::as_str) {
                Some("0") => continue,
                Some("1") => 1,
                Some("50") => 50,
                _ => 100,
            };
            if !matches!(instance.status.as_str(), "" | "UP") {
                continue;
            }
            let mut names = vec![
                below.to_owned(),
                format!("{version}.version.{below}"),
                format!("{}.instance.{below}", instance.instance_id.to_lowercase()),
            ];
            if let Some(color) = instance.properties.get("color") {
                names.push(format!("{}.color.tag.{below}", color.to_lowercase()));
            }
            for name in names {
                self.names.entry(name.clone()).or_default();
                for endpoint in &instance.endpoints {
                    let (protocol, rest) = endpoint.split_once("://").expect("a protocol");
                    let (host, port) = rest.rsplit_once(':').expect("a port");
                    let port = port.parse().expect("a number");
                    let address = host.trim_matches(['[', ']']).to_owned();
                    let owner = self.names.entry(name.clone()).or_default();
                    owner.addresses.insert(address);
                    *owner.ports.entry((weight, port)).or_default() += 1;
                    let of_protocol = self.names.entry(format!("_{protocol}._tcp.{name}")).or_default();
                    *of_protocol.ports.entry((weight, port)).or_default() += 1;
                }
            }
        }
    }

    /// The code of the answer to a question for a name.
    fn code(&self, name: &str) -> ResponseCode {
        let whole = name.strip_prefix("_q._tcp.").unwrap_or(name);
        if self.unclear.contains(whole) {
            ResponseCode::ServFail
        } else if self
            .names
            .keys()
            .chain(&self.unclear)
            .any(|known| *known == name || known.ends_with(&format!(".{name}")))
        {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        }
    }
}

fn parts(service: &Known) -> [String; 3] {
    let key = service.key.clone().expect("a name");
    [key.service_name, key.app_id, key.environment]
}

fn path_of(path: &[String; 3]) -> String {
    let labels: Vec<_> = path.iter().filter(|part| !part.is_empty()).map(|part| plain(part)).collect();
    labels.join(".")
}

/// Names around those that exist: each of them, without its first label, and with another one.
fn around(model: &Model) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let known = model.names.keys().chain(&model.unclear);
    for name in known {
        names.insert(name.clone());
        names.insert(format!("q.{name}"));
        names.insert(format!("_q._tcp.{name}"));
        if let Some((_, rest)) = name.split_once('.') {
            names.insert(rest.to_owned());
            names.insert(format!("q.{rest}"));
        }
    }
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_zone_answers_like_the_plain_model(services in services()) {
        let served = Served::new(&services);
        let model = Model::of(&services);
        let nothing = Owner::default();
        for name in around(&model) {
            let asked = format!("{name}.muster.");
            for kind in [A, AAAA, SRV] {
                prop_assert_eq!(served.code(&asked, kind), model.code(&name), "{} {}", name, kind);
            }
            if model.code(&name) == ResponseCode::ServFail {
                continue;
            }
            let owner = model.names.get(&name).unwrap_or(&nothing);
            let addresses: BTreeSet<_> = served.addresses(&asked).into_iter().collect();
            prop_assert_eq!(&addresses, &owner.addresses, "{}", name);
            let mut ports = BTreeMap::<(u16, u16), usize>::new();
            for (weight, port, target) in served.endpoints(&asked) {
                *ports.entry((weight, port)).or_default() += 1;
                prop_assert_eq!(served.addresses(&target).len(), 1, "{} has one address", target);
            }
            prop_assert_eq!(&ports, &owner.ports, "{}", name);
        }
    }
}
