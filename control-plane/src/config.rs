//! The settings of this plane.

use std::time::Duration;

use settings::{Config as Read, Settings, Size};
use shared::model::DataCenter;

use crate::api::BodyLimits;
use crate::registry::RegistryConfig;
use crate::view::Protection;

/// What a control plane needs to know besides its store and its bus.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this replica, for people.
    pub name: String,
    /// Address under which clients reach the registry; `host:port`. Empty: the one it listens on.
    pub advertise: String,
    /// Limits of the registry.
    pub registry: RegistryConfig,
    /// Limits of bodies.
    pub bodies: BodyLimits,
    /// Changes kept for replays.
    pub history: usize,
    /// How soon a publisher that died is replaced.
    pub publisher_ttl: Duration,
    /// How often dependencies are looked for that Service-Center nodes left behind.
    pub queue_pause: Duration,
    /// When expired instances are held.
    pub protection: Protection,
    /// For how long.
    pub protection_hold: Duration,
}

impl Read for Config {
    fn read(settings: &mut Settings<'_>) -> Self {
        let defaults = (RegistryConfig::default(), BodyLimits::default());
        Self {
            name: settings
                .optional("name", "Name of this replica in logs and in the publisher's seat. Default: host and process id.")
                .unwrap_or_else(own_name),
            advertise: settings
                .optional(
                    "advertise",
                    "host:port under which clients reach the registry; behind gateways that of the load balancer. \
                     Default: the listening address.",
                )
                .unwrap_or_default(),
            registry: RegistryConfig {
                service_quota: settings.live(|settings| settings.within(
                    "quota.services",
                    "50000",
                    "1"..="10000000",
                    "Services that a tenant may register.",
                )),
                instance_quota: settings.live(|settings| settings.within(
                    "quota.instances",
                    "150000",
                    "1"..="10000000",
                    "Instances that a tenant may register.",
                )),
                schema_quota: settings.live(|settings| settings.within("quota.schemas", "100", "1"..="10000", "Schemas and tags that a service may have.")),
                wanted_quota: settings.live(|settings| settings.within(
                    "quota.wanted",
                    "1000",
                    "0"..="100000",
                    "Names that do not exist yet for which a consumer may wait.",
                )),
                instance_ttl: settings.within::<u32>(
                    "registry.instance-ttl",
                    "0",
                    "0"..="604800",
                    "Seconds that an instance lives without a heartbeat, whatever it asked for; 0: as it asked.",
                )
                .into(),
                min_interval: settings.within::<u16>(
                    "registry.instance-min-interval",
                    "0",
                    "0"..="3600",
                    "Seconds between heartbeats that an instance must allow at least; shorter ones are raised.",
                ).into(),
                min_times: settings.within::<u16>(
                    "registry.instance-min-times",
                    "0",
                    "0"..="1000",
                    "Missed heartbeats that an instance must allow at least; fewer are raised.",
                ).into(),
                data_center: data_center(settings),
                shared_services: settings
                    .optional::<String>(
                        "registry.shared-services",
                        "Comma list of services of default/default, application default, that every tenant finds.",
                    )
                    .map(|list| list.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from).collect())
                    .unwrap_or_default(),
                own_environment: settings.get(
                    "registry.environment",
                    "production",
                    "Environment of the registry's own service, SERVICECENTER, and of shared services.",
                ),
            },
            bodies: BodyLimits {
                instance: defaults.1.instance,
                properties: defaults.1.properties,
                other: settings
                    .within::<Size>("http.body-bytes", "2MiB", "64KiB"..="64MiB", "Largest body of a request.")
                    .0,
            },
            history: settings.within(
                "registry.history",
                "100000",
                "100"..="10000000",
                "Changes kept in memory so that gateways catch up without the full state.",
            ),
            queue_pause: settings.within(
                "registry.queue-pause",
                "30s",
                "100ms"..="1h",
                "Pause between two looks for dependencies that Service-Center nodes queued and left behind.",
            ),
            protection: Protection {
                from_size: settings.get(
                    "protection.from-size",
                    "4",
                    "Services with at least so many instances are protected against mass expiry; 0 protects none.",
                ),
                keep_percent: settings.within(
                    "protection.keep-percent",
                    "50",
                    "1"..="100",
                    "Part of its instances, in percent, that a protected service keeps whatever expires.",
                ),
            },
            protection_hold: settings.within(
                "protection.hold",
                "5m",
                "1s"..="1h",
                "How long an expired instance is held at most.",
            ),
            publisher_ttl: settings.within(
                "publisher.ttl",
                "3s",
                "1s"..="1m",
                "How soon a publisher that died is replaced.",
            ),
        }
    }
}

/// Where this node runs: all three parts or none.
fn data_center(settings: &mut Settings<'_>) -> Option<DataCenter> {
    let name: Option<String> = settings.optional("data-center.name", "Data centre of this node.");
    let region: Option<String> =
        settings.optional("data-center.region", "Region of this node's data centre.");
    let zone: Option<String> = settings
        .optional("data-center.zone", "Zone of this node; clients prefer registries of their own zone.");
    match (name, region, zone) {
        (None, None, None) => None,
        (Some(name), Some(region), Some(available_zone)) => Some(DataCenter { name, region, available_zone }),
        _ => {
            settings.mistake("data-center.name", "name, region and zone of a data centre go together");
            None
        }
    }
}

/// Host name and process id.
pub fn own_name() -> String {
    format!("{}-{}", host_name(), std::process::id())
}

/// The machine's name, `localhost` when it has none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.into() }
}
