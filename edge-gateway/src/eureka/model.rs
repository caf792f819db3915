//! An instance as Eureka's clients know it. Names of fields are those of Eureka.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use shared::model::is_up;

/// The statuses of Eureka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Status {
    /// Takes traffic.
    #[default]
    Up,
    /// Takes none: its own check fails.
    Down,
    /// Takes none yet.
    Starting,
    /// Takes none, because somebody wants it so.
    OutOfService,
    /// Nothing is said.
    Unknown,
}

impl Status {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Starting => "STARTING",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The status that a word names, in whatever case. `None` for another word.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        [Self::Up, Self::Down, Self::Starting, Self::OutOfService, Self::Unknown]
            .into_iter()
            .find(|status| status.word().eq_ignore_ascii_case(word))
    }

    /// The status that the registry's word means for a client of Eureka.
    pub(crate) fn of_registry(word: &str) -> Self {
        match word {
            up if is_up(up) => Self::Up,
            "STARTING" => Self::Starting,
            "DOWN" => Self::Down,
            // Among them TESTING: nobody should call the instance, and nothing is wrong with it.
            _ => Self::OutOfService,
        }
    }

    /// The registry's word. `None` when nothing is said.
    pub(crate) fn for_registry(self) -> Option<&'static str> {
        match self {
            Self::Up => Some("UP"),
            Self::Down => Some("DOWN"),
            Self::Starting => Some("STARTING"),
            Self::OutOfService => Some("OUTOFSERVICE"),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The last thing that happened to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ActionType {
    /// It came.
    Added,
    /// It changed.
    Modified,
    /// It left.
    Deleted,
}

impl ActionType {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A port, and whether it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    #[serde(rename = "n")]
    pub(crate) number: u16,
    #[serde(rename = "on")]
    pub(crate) enabled: bool,
}

/// The times of an instance's lease, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Between two renewals.
    pub(crate) renewal: u32,
    /// From the last renewal to the end.
    pub(crate) duration: u32,
}

impl Default for Lease {
    fn default() -> Self {
        // Eureka's own.
        Self { renewal: 30, duration: 90 }
    }
}

/// The place of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// `MyOwn`, `Netflix` or `Amazon`.
    pub(crate) name: String,
    /// The Java class that reads it.
    pub(crate) class: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The class of a place about which nothing more is known.
pub(crate) const DEFAULT_PLACE: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

impl Default for Place {
    fn default() -> Self {
        Self { name: "MyOwn".into(), class: DEFAULT_PLACE.into(), metadata: BTreeMap::new() }
    }
}

/// One instance. What is empty was not given.
///
/// The short form in which it stands in a property of the registered instance is this type's `serde` form:
/// without the metadata, which are properties themselves, and without what the registry knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Info {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) instance_id: String,
    /// The application, in upper case.
    #[serde(skip)]
    pub(crate) app: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) app_group_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) host_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) ip_addr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sid: String,
    pub(crate) port: Port,
    pub(crate) secure_port: Port,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) home_page_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) status_page_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) health_check_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) secure_health_check_url: String,
    /// Names by which clients look the instance up, separated by commas.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) vip_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) secure_vip_address: String,
    pub(crate) country_id: i32,
    pub(crate) place: Place,
    #[serde(skip)]
    pub(crate) status: Status,
    /// The status with which the client has registered.
    #[serde(rename = "own")]
    pub(crate) own_status: Status,
    /// The status that somebody has set against the instance's own; [`Status::Unknown`] if nobody has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overridden: Option<Status>,
    pub(crate) lease: Lease,
    #[serde(skip)]
    pub(crate) metadata: BTreeMap<String, String>,
    /// The client's own value of the property in which the registry shows an operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<String>,
    /// Milliseconds since 1970, as every time of Eureka.
    #[serde(skip)]
    pub(crate) registered: u64,
    #[serde(skip)]
    pub(crate) last_updated: u64,
    /// The client's own clock when it last changed something. Of two registrations the later one counts.
    #[serde(rename = "dirty")]
    pub(crate) last_dirty: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) asg_name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_coordinating: bool,
}
