//! The records of a service as lines for people.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use shared::model::ServiceKey;

use crate::answer::{State, answer};
use crate::origin::Origin;
use crate::zone::{Zone, path_of};

/// The types of records that a service has.
const KINDS: [RecordType; 4] = [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT];

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The name that is asked for.
    pub name: String,
    /// The type, such as `SRV`.
    pub kind: String,
    /// The data, as a zone file has it.
    pub data: String,
    /// Seconds for which it may be kept.
    pub ttl: u32,
}

/// All records with which a zone answers for a service: its name, the names of its protocols, and the targets
/// of its endpoints. Sorted. `protocols` are those that are asked for.
///
/// # Errors
/// The reason for which the service has no name in DNS.
pub fn records(zone: Zone, key: &ServiceKey, protocols: &[&str]) -> Result<Vec<Told>, &'static str> {
    let path = path_of(key).ok_or("a service without a name or an application has no name in DNS")?;
    let origin: Arc<Origin> = zone.origin.clone();
    let state = State::Known(Arc::new(zone));
    let mut told = BTreeSet::new();
    let prefixes = std::iter::once(String::new());
    let prefixes = prefixes.chain(protocols.iter().map(|protocol| format!("_{protocol}._tcp.")));
    for prefix in prefixes {
        let name = Name::from_ascii(format!("{prefix}{path}"))
            .and_then(|name| name.append_domain(origin.name()))
            .map_err(|_| "the name is too long for DNS")?;
        for kind in KINDS {
            let query = Query::query(name.clone(), kind);
            let answer = answer(&origin, &state, &query, usize::MAX, &mut Rng::with_seed(0));
            told.extend(answer.into_records(&name).iter().map(line));
        }
    }
    Ok(told.into_iter().collect())
}

fn line(record: &Record) -> Told {
    Told {
        name: record.name.to_ascii(),
        kind: record.record_type().to_string(),
        data: data(&record.data),
        ttl: record.ttl,
    }
}

/// The library writes the texts of a record one right after the other; a zone file has each in quotes.
fn data(data: &RData) -> String {
    match data {
        RData::TXT(txt) => txt.txt_data.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A text as a zone file has it: bytes that cannot be printed are three decimal digits (RFC 1035, 5.1).
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from('"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\{byte:03}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::TXT;

    #[test]
    fn texts_are_told_apart() {
        let txt = TXT::new(vec!["version=1.0.0".into(), r#"path="a\b""#.into(), "\u{e9}".into()]);
        let shown = data(&RData::TXT(txt));
        assert_eq!(shown, r#""version=1.0.0" "path=\"a\\b\"" "\195\169""#);
    }
}
