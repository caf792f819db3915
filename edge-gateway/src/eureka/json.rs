//! Eureka's JSON: written in full or compact as its Jackson codec writes it, and read from registrations of
//! clients in many languages.
//!
//! Clients disagree about numbers and flags, which come as they are or as texts, so both are read. Whatever
//! is not known is ignored.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use shared::model::WEIGHT;

use super::apps::{Application, Listed};
use super::model::{ActionType, DEFAULT_PLACE, Info, Lease, Place, Port, Status};

/// The class that clients with the codec of before Jackson expect for no metadata.
const EMPTY_MAP: &str = "java.util.Collections$EmptyMap";

/// The amount that is told of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Everything.
    Full,
    /// The address and the status: what a caller needs.
    Compact,
}

/// All applications with their hash and version.
pub(crate) fn applications(listed: &Listed<'_>, detail: Detail) -> Vec<u8> {
    struct All<'a>(&'a Listed<'a>, Detail);
    impl Serialize for All<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(3))?;
            map.serialize_entry("versions__delta", &self.0.version.to_string())?;
            map.serialize_entry("apps__hashcode", &self.0.hash)?;
            map.serialize_entry("application", &Each(&self.0.applications, self.1))?;
            map.end()
        }
    }
    struct Each<'a>(&'a [Application<'a>], Detail);
    impl Serialize for Each<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.iter().map(|application| One(application, self.1)))
        }
    }
    wrapped("applications", &All(listed, detail))
}

/// One application.
pub(crate) fn application(application: &Application<'_>, detail: Detail) -> Vec<u8> {
    wrapped("application", &One(application, detail))
}

/// One instance.
pub(crate) fn instance(info: &Info, action: ActionType, detail: Detail) -> Vec<u8> {
    wrapped("instance", &Shown { info, action, detail })
}

fn wrapped(name: &str, value: &impl Serialize) -> Vec<u8> {
    struct Root<'a, T>(&'a str, &'a T);
    impl<T: Serialize> Serialize for Root<'_, T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(self.0, self.1)?;
            map.end()
        }
    }
    serde_json::to_vec(&Root(name, value)).expect("texts and numbers always serialise")
}

struct One<'a>(&'a Application<'a>, Detail);

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Instances<'a>(&'a Application<'a>, Detail);
        impl Serialize for Instances<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut seq = serializer.serialize_seq(Some(self.0.instances.len()))?;
                for (info, action) in &self.0.instances {
                    seq.serialize_element(&Shown { info, action: *action, detail: self.1 })?;
                }
                seq.end()
            }
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", &self.0.name)?;
        map.serialize_entry("instance", &Instances(self.0, self.1))?;
        map.end()
    }
}

struct Shown<'a> {
    info: &'a Info,
    action: ActionType,
    detail: Detail,
}

#[derive(Serialize)]
struct ShownPort {
    #[serde(rename = "$")]
    number: u16,
    // A text, as Eureka has it.
    #[serde(rename = "@enabled")]
    enabled: &'static str,
}

#[derive(Serialize)]
struct ShownPlace<'a> {
    #[serde(rename = "@class")]
    class: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownLease {
    renewal_interval_in_secs: u32,
    duration_in_secs: u32,
    registration_timestamp: u64,
    last_renewal_timestamp: u64,
    eviction_timestamp: u64,
    service_up_timestamp: u64,
}

fn flag(on: bool) -> &'static str {
    if on { "true" } else { "false" }
}

impl From<Port> for ShownPort {
    fn from(port: Port) -> Self {
        Self { number: port.number, enabled: flag(port.enabled) }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { info, action, detail } = self;
        let is_full = *detail == Detail::Full;
        let mut map = serializer.serialize_map(None)?;
        let mut texts = vec![
            ("instanceId", &*info.instance_id),
            ("app", &info.app),
            ("ipAddr", &info.ip_addr),
            ("hostName", &info.host_name),
            ("vipAddress", &info.vip_address),
            ("secureVipAddress", &info.secure_vip_address),
            ("asgName", &info.asg_name),
        ];
        if is_full {
            texts.extend([
                ("appGroupName", &*info.app_group_name),
                ("sid", &info.sid),
                ("homePageUrl", &info.home_page_url),
                ("statusPageUrl", &info.status_page_url),
                ("healthCheckUrl", &info.health_check_url),
                ("secureHealthCheckUrl", &info.secure_health_check_url),
            ]);
        }
        for (name, text) in texts {
            if !text.is_empty() {
                map.serialize_entry(name, text)?;
            }
        }
        map.serialize_entry("status", info.status.word())?;
        map.serialize_entry("port", &ShownPort::from(info.port))?;
        map.serialize_entry("securePort", &ShownPort::from(info.secure_port))?;
        let Place { name, class, metadata } = &info.place;
        map.serialize_entry("dataCenterInfo", &ShownPlace { class, name, metadata })?;
        map.serialize_entry("lastUpdatedTimestamp", &info.last_updated.to_string())?;
        map.serialize_entry("actionType", action.word())?;
        if is_full {
            map.serialize_entry("overriddenStatus", info.overridden.unwrap_or(Status::Unknown).word())?;
            map.serialize_entry("countryId", &info.country_id)?;
            map.serialize_entry("leaseInfo", &ShownLease::of(info))?;
            map.serialize_entry("isCoordinatingDiscoveryServer", flag(info.is_coordinating))?;
            map.serialize_entry("lastDirtyTimestamp", &info.last_dirty.to_string())?;
            if info.metadata.is_empty() {
                map.serialize_entry("metadata", &BTreeMap::from([("@class", EMPTY_MAP)]))?;
            } else {
                map.serialize_entry("metadata", &info.metadata)?;
            }
        }
        map.end()
    }
}

impl ShownLease {
    fn of(info: &Info) -> Self {
        Self {
            renewal_interval_in_secs: info.lease.renewal,
            duration_in_secs: info.lease.duration,
            registration_timestamp: info.registered,
            // Renewals change nothing in the registry, so the last change is the last that is known.
            last_renewal_timestamp: info.last_updated,
            eviction_timestamp: 0,
            service_up_timestamp: info.registered,
        }
    }
}

/// Reads the body of a registration.
///
/// # Errors
/// The problem in words, when something is missing or has another form.
pub(crate) fn read(body: &[u8]) -> Result<Info, String> {
    #[derive(Deserialize)]
    struct Body {
        instance: Option<Read>,
    }
    let body: Body =
        serde_json::from_slice(body).map_err(|error| format!("the body is not readable: {error}"))?;
    body.instance.ok_or("the body has no `instance`")?.into_info()
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Read {
    instance_id: Text,
    app: Text,
    app_group_name: Text,
    host_name: Text,
    ip_addr: Text,
    sid: Text,
    port: Option<ReadPort>,
    secure_port: Option<ReadPort>,
    home_page_url: Text,
    status_page_url: Text,
    health_check_url: Text,
    secure_health_check_url: Text,
    vip_address: Text,
    secure_vip_address: Text,
    country_id: Text,
    data_center_info: Option<ReadPlace>,
    status: Text,
    overridden_status: Text,
    #[serde(rename = "overriddenstatus")]
    overridden_alternative: Text,
    lease_info: Option<ReadLease>,
    metadata: Option<BTreeMap<String, Text>>,
    last_dirty_timestamp: Text,
    asg_name: Text,
    is_coordinating_discovery_server: Text,
}

/// A port as an object, or as its number alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum ReadPort {
    Object {
        #[serde(rename = "$")]
        number: Text,
        #[serde(rename = "@enabled", default)]
        enabled: Text,
    },
    Number(Text),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadPlace {
    #[serde(rename = "@class")]
    class: Text,
    name: Text,
    metadata: Option<BTreeMap<String, Text>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReadLease {
    renewal_interval_in_secs: Text,
    duration_in_secs: Text,
}

/// A text, a number or a flag, as its text. Nothing is the empty text.
#[derive(Clone, Debug, Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self::default()),
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::Bool(flag) => Ok(Self(flag.to_string())),
            Value::Array(_) | Value::Object(_) => {
                Err(serde::de::Error::custom("a text was expected, not a list or an object"))
            }
        }
    }
}

impl Text {
    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        let text = self.0.trim();
        if text.is_empty() {
            return Ok(default);
        }
        text.parse().map_err(|_| format!("`{name}` is no number that it can be"))
    }
}

impl ReadPort {
    fn into_port(self, name: &str, enabled_by_default: bool) -> Result<Port, String> {
        let (number, enabled) = match self {
            Self::Object { number, enabled } => (number, enabled),
            Self::Number(number) => (number, Text::default()),
        };
        let enabled = match enabled.0.trim() {
            "" => enabled_by_default,
            text => text.eq_ignore_ascii_case("true"),
        };
        Ok(Port { number: number.number(name, 0)?, enabled })
    }
}

fn texts(map: Option<BTreeMap<String, Text>>) -> BTreeMap<String, String> {
    let all = map.unwrap_or_default().into_iter();
    // Older codecs name a class beside the entries.
    all.filter(|(name, _)| name != "@class").map(|(name, Text(text))| (name, text)).collect()
}

impl Read {
    fn into_info(self) -> Result<Info, String> {
        let place = self.data_center_info.ok_or("`dataCenterInfo` is missing")?;
        if place.name.0.is_empty() {
            return Err("`dataCenterInfo.name` is missing".into());
        }
        let class = if place.class.0.is_empty() { DEFAULT_PLACE.into() } else { place.class.0 };
        let usual = Lease::default();
        let lease = self.lease_info.unwrap_or_default();
        let lease = Lease {
            renewal: lease.renewal_interval_in_secs.number("renewalIntervalInSecs", usual.renewal)?,
            duration: lease.duration_in_secs.number("durationInSecs", usual.duration)?,
        };
        let status = match self.status.0.trim() {
            "" => Status::Up,
            word => Status::of_word(word).unwrap_or(Status::Unknown),
        };
        let overridden = [self.overridden_status, self.overridden_alternative]
            .iter()
            .find_map(|word| Status::of_word(word.0.trim()))
            .filter(|status| *status != Status::Unknown);
        let metadata = texts(self.metadata);
        Ok(Info {
            instance_id: self.instance_id.0,
            app: self.app.0.to_uppercase(),
            app_group_name: self.app_group_name.0,
            host_name: self.host_name.0,
            ip_addr: self.ip_addr.0,
            sid: self.sid.0,
            port: self.port.map_or(Ok(Port::default()), |port| port.into_port("port", true))?,
            secure_port: self
                .secure_port
                .map_or(Ok(Port::default()), |port| port.into_port("securePort", false))?,
            home_page_url: self.home_page_url.0,
            status_page_url: self.status_page_url.0,
            health_check_url: self.health_check_url.0,
            secure_health_check_url: self.secure_health_check_url.0,
            vip_address: self.vip_address.0,
            secure_vip_address: self.secure_vip_address.0,
            country_id: self.country_id.number("countryId", 1)?,
            place: Place { name: place.name.0, class, metadata: texts(place.metadata) },
            status,
            own_status: status,
            overridden,
            lease,
            weight: metadata.get(WEIGHT).cloned(),
            metadata,
            registered: 0,
            last_updated: 0,
            last_dirty: self.last_dirty_timestamp.number("lastDirtyTimestamp", 0)?,
            asg_name: self.asg_name.0,
            is_coordinating: self.is_coordinating_discovery_server.0.eq_ignore_ascii_case("true"),
        })
    }
}
