//! The time that an instance lives without a heartbeat.

use shared::model::{HealthCheck, Instance};

use crate::registry::{RegistryConfig, RegistryError};

/// Seconds between heartbeats of an instance that names no health check.
const DEFAULT_INTERVAL: i32 = 30;
/// Heartbeats that an instance may miss when it names no health check.
const DEFAULT_TIMES: i32 = 3;
/// Seconds that an instance without a health check lives.
pub(super) const TTL_WITHOUT_CHECK: i64 = 120;

/// Fills what a registration leaves open, and raises the health check to its least times.
pub(super) fn fill_defaults(instance: &mut Instance, config: &RegistryConfig) -> Result<(), RegistryError> {
    if instance.status.is_empty() {
        instance.status = "UP".into();
    }
    let check = instance.health_check.get_or_insert_with(|| HealthCheck {
        mode: "push".into(),
        interval: DEFAULT_INTERVAL,
        times: DEFAULT_TIMES,
        ..Default::default()
    });
    if check.mode == "pull" {
        // Nobody pulls: as with Service-Center, such an instance gets the default times whatever it asked
        // for.
        check.interval = DEFAULT_INTERVAL;
        check.times = DEFAULT_TIMES;
    } else {
        check.interval = check.interval.max(config.min_interval);
        check.times = check.times.max(config.min_times);
    }
    // Service-Center computes with 32 bits and would overflow; here such a request is refused.
    if !(1..=i64::from(i32::MAX)).contains(&seconds_to_expiry(check)) {
        return Err(RegistryError::invalid("Invalid 'healthCheck' settings in request body."));
    }
    Ok(())
}

pub(super) fn seconds_to_expiry(check: &HealthCheck) -> i64 {
    i64::from(check.interval) * (i64::from(check.times) + 1)
}
