//! The settings of the control plane, and of the `control-plane` program around it.

use std::time::Duration;

use console::Console;
use host::exposure::Exposure;
use host::machine::own_name;
use settings::{Config as Read, Settings, Size};
use shared::model::DataCenter;

use crate::advertise::Advertise;
use crate::api::BodyLimits;
use crate::registry::{RegistryConfig, own};
use crate::view::Protection;
use crate::view::access::SharedServices;

mod leases;
#[cfg(feature = "etcd")]
mod process;
mod rbac;
mod token_keys;

pub use leases::{LeaseConfig, LeaseMode};
#[cfg(feature = "etcd")]
pub use process::ProcessConfig;
pub use rbac::{IssuerConfig, RbacConfig};
pub use token_keys::{KeyFiles, KeysError, TokenKeys};

/// The settings of a control plane, without its store, its bus and its listeners.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this replica, for people.
    pub name: String,
    /// Address under which clients reach the registry. `None` stands for the listening address.
    pub advertise: Option<Advertise>,
    /// Access control, and the listeners that may do without.
    pub exposure: Exposure,
    /// Limits of the registry.
    pub registry: RegistryConfig,
    /// Limits of bodies.
    pub bodies: BodyLimits,
    /// Number of changes that are kept for replays.
    pub history: usize,
    /// Bytes of changes that are kept for replays.
    pub history_bytes: usize,
    /// Changes that are kept for timelines.
    pub timeline: usize,
    /// Bytes of changes that are kept for timelines.
    pub timeline_bytes: usize,
    /// The time without an answer of the store, or without progress of the view, after which the plane is
    /// not ready.
    pub store_grace: Duration,
    /// The time after which a dead publisher is replaced.
    pub publisher_ttl: Duration,
    /// Pause between two looks for dependencies that Service-Center nodes left in the queue.
    pub queue_pause: Duration,
    /// The services that mass-expiry protection covers, and the share of instances that it keeps.
    pub protection: Protection,
    /// The longest time for which an expired instance is held.
    pub protection_hold: Duration,
    /// Requests of one tenant that are worked on at once while others send requests, too. 0 is no limit.
    pub tenant_requests: usize,
    /// Access control.
    pub rbac: RbacConfig,
    /// Leases of instances.
    pub leases: LeaseConfig,
    /// The pages for people.
    pub console: Console,
}

impl Read for Config {
    fn read(settings: &mut Settings<'_>) -> Self {
        let protection = Protection::default();
        Self {
            name: settings
                .optional(
                    "name",
                    "Name of this replica in logs and in the publisher's seat. Default: host and process id.",
                )
                .unwrap_or_else(own_name),
            advertise: settings.optional(
                "advertise",
                "Address under which clients reach the registry; behind gateways that of the load balancer. \
                 Default: the listening address, or if that means all, one of this machine's.",
            ),
            exposure: Exposure::read(settings),
            registry: registry(settings),
            bodies: BodyLimits::with_other(
                settings
                    .within::<Size>("http.body-bytes", "2MiB", "64KiB"..="64MiB", "Largest body of a request.")
                    .0,
            ),
            history: settings.within(
                "registry.history",
                "100000",
                "100"..="10000000",
                "Number of changes kept in memory. With them gateways catch up without the full state.",
            ),
            history_bytes: settings
                .within::<Size>(
                    "registry.history-bytes",
                    "128MiB",
                    "1MiB"..="64GiB",
                    "Size of the changes kept in memory; whichever bound is reached first counts.",
                )
                .0,
            timeline: settings.within(
                "registry.timeline",
                "50000",
                "0"..="1000000",
                "Number of changes kept for timelines, at most 200 of each service; 0 keeps none.",
            ),
            timeline_bytes: settings
                .within::<Size>(
                    "registry.timeline-bytes",
                    "32MiB",
                    "1MiB"..="16GiB",
                    "Size of the changes kept for timelines; whichever bound is reached first counts.",
                )
                .0,
            store_grace: settings.within(
                "registry.store-grace",
                "3s",
                "1s"..="1h",
                "Time without an answer of the store, or without progress of the watch on it, after which a control \
                 plane is not ready.",
            ),
            queue_pause: settings.within(
                "registry.queue-pause",
                "30s",
                "100ms"..="1h",
                "Pause between two looks for dependencies that Service-Center nodes queued and left behind.",
            ),
            protection: Protection {
                from_size: settings.get_or(
                    "protection.from-size",
                    protection.from_size,
                    "Smallest number of instances of a service that is protected against mass expiry; 0 protects none.",
                ),
                keep_percent: settings.within_or(
                    "protection.keep-percent",
                    protection.keep_percent,
                    "1"..="100",
                    "Percentage of its instances that a protected service keeps, however many expire.",
                ),
            },
            protection_hold: settings.within(
                "protection.hold",
                "5m",
                "1s"..="1h",
                "Longest time for which an expired instance is held.",
            ),
            tenant_requests: host::fairness::read(settings),
            rbac: RbacConfig::read(settings),
            // Read by the program whose store has many processes.
            leases: LeaseConfig::default(),
            console: Console::read(settings),
            publisher_ttl: settings.within(
                "publisher.ttl",
                "3s",
                "1s"..="1m",
                "Time after which a dead publisher loses its seat; until then another replica stands in for it.",
            ),
        }
    }
}

fn registry(settings: &mut Settings<'_>) -> RegistryConfig {
    RegistryConfig {
        service_quota: quota(settings, "quota.services", "50000", "Services that a tenant may register."),
        instance_quota: quota(settings, "quota.instances", "150000", "Instances that a tenant may register."),
        schema_quota: settings.live(|settings| {
            let help = "Schemas, and tags, and rules, that a service may have.";
            settings.within("quota.schemas", "100", "1"..="10000", help)
        }),
        wanted_quota: settings.live(|settings| {
            let help = "Unregistered names for which a consumer may wait.";
            settings.within("quota.wanted", "1000", "0"..="100000", help)
        }),
        account_quota: settings.live(|settings| {
            settings.within("quota.accounts", "1000", "1"..="100000", "Accounts of access control.")
        }),
        role_quota: settings.live(|settings| {
            settings.within("quota.roles", "100", "1"..="10000", "Roles of access control.")
        }),
        // Read as unsigned numbers, so that a negative one is a mistake at the start.
        instance_ttl: settings
            .within::<u32>(
                "registry.instance-ttl",
                "0",
                "0"..="604800",
                "Seconds that every instance lives without a heartbeat; 0: as its health check says.",
            )
            .into(),
        min_interval: settings
            .within::<u16>(
                "registry.instance-min-interval",
                "0",
                "0"..="3600",
                "Shortest heartbeat interval of an instance in seconds; a shorter one is raised.",
            )
            .into(),
        min_times: settings
            .within::<u16>(
                "registry.instance-min-times",
                "0",
                "0"..="1000",
                "Smallest number of heartbeats that an instance may miss; a smaller one is raised.",
            )
            .into(),
        data_center: data_center(settings),
        shared: shared_services(settings),
        own_environment: settings.get(
            "registry.environment",
            "production",
            "Environment of the registry's own service, SERVICECENTER, and of shared services.",
        ),
    }
}

fn quota(settings: &mut Settings<'_>, key: &'static str, default: &'static str, help: &'static str) -> usize {
    settings.live(|settings| settings.within(key, default, "1"..="10000000", help))
}

fn shared_services(settings: &mut Settings<'_>) -> SharedServices {
    let list: String = settings
        .optional(
            "registry.shared-services",
            "Comma list of services of default/default, application default, that every tenant finds.",
        )
        .unwrap_or_default();
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    SharedServices::new(names.chain([own::NAME]).map(String::from))
}

/// The place where this node runs. It has all three parts or none.
fn data_center(settings: &mut Settings<'_>) -> Option<DataCenter> {
    let name: Option<String> = settings.optional("data-center.name", "Data centre of this node.");
    let region: Option<String> =
        settings.optional("data-center.region", "Region of this node's data centre.");
    let zone: Option<String> = settings
        .optional("data-center.zone", "Zone of this node; clients prefer registries of their own zone.");
    match (name, region, zone) {
        (None, None, None) => None,
        (Some(name), Some(region), Some(available_zone)) => Some(DataCenter { name, region, available_zone }),
        // A half place would look like another data centre to clients, so it is no place.
        _ => {
            settings.mistake("data-center.name", "name, region and zone of a data centre go together");
            None
        }
    }
}
