//! Wall time as a parameter, so that tests can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall time since the unix epoch. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `seconds` until it is moved; for tests.
    pub fn manual(seconds: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seconds * 1_000_000))))
    }

    /// Moves a manual clock forward. Has no effect on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Some(micros) = &self.0 {
            // Relaxed: readers need the number only, it guards no other memory.
            micros.fetch_add(by.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// The time as the standard library has it, for dates and certificates.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.micros())
    }

    /// Unix time in microseconds.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn micros(&self) -> u64 {
        match &self.0 {
            Some(micros) => micros.load(Ordering::Relaxed),
            // A system clock before 1970 is wrong in any case; 0 keeps the process running until it is set.
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64),
        }
    }

    /// Unix time in seconds.
    pub fn seconds(&self) -> u64 {
        self.micros() / 1_000_000
    }
}
