//! The two worlds, translated: an instance of the registry as Eureka's clients know it, and a registration of
//! such a client as a service and an instance of the registry.
//!
//! A registration is kept whole: its metadata are the instance's properties, and what the registry has no
//! field for stands in one property more ([`RECORD`]), from which any gateway gives the record back. No
//! gateway keeps anything of it.

use std::collections::BTreeMap;

use sha1::{Digest as _, Sha1};
use shared::endpoint::Endpoint;
use shared::model::{DataCenter, HealthCheck, Instance, MAX_ID, ServiceKey, WEIGHT};

use super::model::{Info, Lease, Place, Port, Status};

/// The property with the record of a registration.
pub(crate) const RECORD: &str = "muster.eureka";
/// The version of services whose registration names none.
const VERSION: &str = "0.0.1";
/// Characters in the name of a host, as the registry takes it.
const MAX_HOST: usize = 64;
/// Protocols that clients of Eureka can speak, in the order of preference.
const OVER_HTTP: [&str; 3] = ["rest", "http", "https"];
/// The greatest interval between renewals, in seconds.
const MAX_INTERVAL: u32 = 24 * 3600;
/// The metadata with the version of the service, and with the place of the instance, as Spring Cloud has it.
const VERSION_KEY: &str = "version";
const ZONE_KEY: &str = "zone";
const REGION_KEY: &str = "region";

/// The registry's id of an instance. An id that the registry takes is itself; any other has a digest, which
/// is the same at every gateway.
pub(crate) fn registry_id(instance_id: &str) -> String {
    let is_taken = (1..=MAX_ID).contains(&instance_id.len())
        && instance_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if is_taken {
        return instance_id.to_owned();
    }
    Sha1::digest(instance_id).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the service of a registration. Eureka knows applications in upper case only, so the case comes
/// from the address by which Spring Cloud looks it up.
pub(crate) fn service_name(info: &Info) -> String {
    let mut names = info.vip_address.split(',').map(str::trim);
    match names.find(|name| name.eq_ignore_ascii_case(&info.app)) {
        Some(name) => name.to_owned(),
        None => info.app.to_lowercase(),
    }
}

/// The version of the service of a registration: that of its metadata, if the registry can have it.
pub(crate) fn service_version(info: &Info) -> String {
    let named = info.metadata.get(VERSION_KEY).map(|version| version.trim());
    named.filter(|version| is_version(version)).unwrap_or(VERSION).to_owned()
}

fn is_version(text: &str) -> bool {
    let is_number = |part: &str| {
        part.len() <= 5
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u16>().is_ok_and(|number| number <= 32767)
    };
    text.split('.').count() <= 4 && text.split('.').all(is_number)
}

/// A registration as an instance of the registry.
pub(crate) fn to_instance(info: &Info, status: Status) -> Instance {
    let mut properties = info.metadata.clone();
    let record = serde_json::to_string(info).expect("texts and numbers always serialise");
    properties.insert(RECORD.to_owned(), record);
    Instance {
        instance_id: registry_id(&info.instance_id),
        endpoints: endpoints(info),
        host_name: info.host_name.chars().take(MAX_HOST).collect(),
        status: status.for_registry().unwrap_or_default().to_owned(),
        properties,
        health_check: Some(health_check(info.lease)),
        data_center_info: data_center(info),
        ..Instance::default()
    }
}

fn endpoints(info: &Info) -> Vec<String> {
    let host = if info.ip_addr.contains(':') { format!("[{}]", info.ip_addr) } else { info.ip_addr.clone() };
    let mut all = Vec::new();
    for (port, query) in [(info.port, ""), (info.secure_port, "?sslEnabled=true")] {
        if port.enabled && port.number != 0 {
            all.push(format!("rest://{host}:{}{query}", port.number));
        }
    }
    all
}

/// The heartbeats that keep the instance for at least as long as the lease does.
fn health_check(lease: Lease) -> HealthCheck {
    let interval = lease.renewal.clamp(1, MAX_INTERVAL);
    let duration = lease.duration.clamp(interval, MAX_INTERVAL);
    let times = duration.div_ceil(interval) - 1;
    let number = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
    HealthCheck {
        mode: "push".into(),
        interval: number(interval),
        times: number(times),
        ..HealthCheck::default()
    }
}

/// The place, where the metadata tell a zone.
fn data_center(info: &Info) -> Option<DataCenter> {
    let is_id = |text: &&str| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let metadata = |key: &str| info.metadata.get(key).map(String::as_str).filter(is_id);
    let zone = metadata(ZONE_KEY)?;
    let name = Some(&*info.place.name).filter(is_id)?;
    let region = metadata(REGION_KEY).unwrap_or("default");
    Some(DataCenter { name: name.into(), region: region.into(), available_zone: zone.into() })
}

/// The properties of a registered instance with another record, and with these entries more.
pub(crate) fn properties_with(
    instance: &Instance,
    record: &Info,
    entries: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let mut properties = instance.properties.clone();
    let mut record = record.clone();
    for (name, value) in entries {
        if name == WEIGHT {
            record.weight = Some(value.clone());
        }
        properties.insert(name, value);
    }
    // The registry may show the weight of an operator's override, which ends one day.
    match &record.weight {
        Some(own) => properties.insert(WEIGHT.to_owned(), own.clone()),
        None => properties.remove(WEIGHT),
    };
    let record = serde_json::to_string(&record).expect("texts and numbers always serialise");
    properties.insert(RECORD.to_owned(), record);
    properties
}

/// The record of a registration, as it stands in a property. `None` for an instance that was not registered
/// by a client of Eureka.
pub(crate) fn record_of(instance: &Instance) -> Option<Info> {
    let record = instance.properties.get(RECORD)?;
    let info: Info = serde_json::from_str(record).ok()?;
    (!info.instance_id.is_empty()).then_some(info)
}

/// An instance of the registry as Eureka's clients know it.
pub(crate) fn to_info(key: &ServiceKey, instance: &Instance) -> Info {
    let mut info = record_of(instance).unwrap_or_else(|| native(key, instance));
    info.app = key.service_name.to_uppercase();
    info.status = Status::of_registry(&instance.status);
    info.registered = milliseconds(&instance.timestamp);
    info.last_updated = milliseconds(&instance.mod_timestamp).max(info.registered);
    if info.last_dirty == 0 {
        info.last_dirty = info.last_updated;
    }
    for (name, value) in &instance.properties {
        if name != RECORD {
            info.metadata.insert(name.clone(), value.clone());
        }
    }
    info
}

/// The record of an instance that no client of Eureka has registered.
fn native(key: &ServiceKey, instance: &Instance) -> Info {
    let mut info = Info {
        instance_id: instance.instance_id.clone(),
        vip_address: key.service_name.clone(),
        secure_vip_address: key.service_name.clone(),
        country_id: 1,
        sid: "na".into(),
        place: Place::default(),
        ..Info::default()
    };
    let all: Vec<Endpoint> = instance.endpoints.iter().filter_map(|text| Endpoint::parse(text)).collect();
    let over_http = |is_secure: bool| {
        let of = |protocol: &str| {
            all.iter().find(|known| *known.protocol == *protocol && known.is_secure == is_secure)
        };
        OVER_HTTP.into_iter().find_map(of)
    };
    let (plain, secure) = (over_http(false), over_http(true));
    // Another protocol is better than no address at all: a client may know what the service speaks.
    let first = plain.or(secure).or(all.first());
    if let Some(first) = first {
        // Clients call the name of the host unless told otherwise, and the endpoint is what can be called.
        info.host_name = first.host.to_string();
        info.ip_addr = first.host.to_string();
        let scheme = if first.is_secure { "https" } else { "http" };
        info.home_page_url = format!("{scheme}://{}/", first.authority());
    } else {
        info.host_name.clone_from(&instance.host_name);
    }
    let port = |endpoint: Option<&Endpoint>| {
        endpoint.map_or(Port::default(), |known| Port { number: known.port, enabled: true })
    };
    info.port = port(if secure.is_some() { plain } else { plain.or(first) });
    info.secure_port = port(secure);
    if let Some(check) = instance.health_check.as_ref().filter(|check| check.interval > 0) {
        let interval = u32::try_from(check.interval).unwrap_or_default();
        let times = u32::try_from(check.times).unwrap_or_default();
        let duration = interval.saturating_mul(times.saturating_add(1));
        info.lease = Lease { renewal: interval, duration };
    }
    // Below the properties, which have precedence.
    let place = instance.data_center_info.clone().unwrap_or_default();
    for (name, value) in
        [(VERSION_KEY, &key.version), (ZONE_KEY, &place.available_zone), (REGION_KEY, &place.region)]
    {
        if !value.is_empty() {
            info.metadata.insert(name.to_owned(), value.clone());
        }
    }
    info
}

fn milliseconds(seconds: &str) -> u64 {
    seconds.parse::<u64>().unwrap_or_default().saturating_mul(1000)
}

/// The status of an instance that registers, by the rules of Eureka: its own, if that is DOWN or STARTING;
/// then the one that somebody has set against it; then that of its earlier registration, if that takes
/// traffic or was taken out of it.
pub(crate) fn status_after(own: Status, overridden: Option<Status>, before: Option<Status>) -> Status {
    match (own, overridden, before) {
        (Status::Down | Status::Starting, _, _) => own,
        (_, Some(set), _) => set,
        (_, None, Some(kept @ (Status::Up | Status::OutOfService))) => kept,
        (Status::Unknown, None, _) => Status::Up,
        (_, None, _) => own,
    }
}
