//! Hedged requests over the bus: a request that one replica does not answer soon is sent to all of them, and the
//! first answer counts.
//!
//! The bus gives a request to one replica. A replica that stands still has its share of them until the server of
//! the bus notices, and each of these requests would wait for its timeout. Only requests that change nothing may
//! be hedged.

use std::time::Duration;

use bus::{Bus, BusError, Message, Messages};
use shared::subject;
use tokio::sync::Semaphore;

use crate::metrics::UpstreamMetrics;

/// The time for which one replica may answer alone. Answers take a few milliseconds, and what a watcher is told
/// may wait for two of them in turn.
const PATIENCE: Duration = Duration::from_millis(50);
/// The most requests that wait at all replicas at once. While one replica stands still, the others answer each
/// in milliseconds, so this is enough for more than a thousand requests a second. While all of them are slow
/// under load, it is all that hedging adds to the load.
const AT_ONCE: usize = 8;

/// Sends requests, and hedges those that wait. Each of these has its own bound on requests at all replicas.
#[derive(Debug)]
pub(crate) struct Hedge {
    places: Semaphore,
    metrics: UpstreamMetrics,
}

impl Hedge {
    /// Counts the hedged requests in `metrics`.
    pub(crate) fn new(metrics: UpstreamMetrics) -> Self {
        Self { places: Semaphore::new(AT_ONCE), metrics }
    }

    /// Sends a request and waits for the first part of an answer, as [`Bus::request`] does. While the bound is
    /// reached, it waits for the one replica and for a place. Cancel-safe.
    ///
    /// # Errors
    /// As [`Bus::request`] to one replica. Whatever goes wrong with the request to all of them, the one replica
    /// may still answer.
    pub(crate) async fn request(
        &self,
        bus: &dyn Bus,
        message: Message,
        timeout: Duration,
    ) -> Result<Messages, BusError> {
        tokio::select! {
            biased;
            answer = bus.request(message.clone(), timeout) => answer,
            Some(answer) = self.ask_all(bus, &message, timeout) => Ok(answer),
        }
    }

    /// The answer of any replica, asked after the patience. `None` when none answers, for instance because all of
    /// them are of a version that does not serve such requests.
    async fn ask_all(&self, bus: &dyn Bus, message: &Message, timeout: Duration) -> Option<Messages> {
        tokio::time::sleep(PATIENCE).await;
        let _place = self.places.acquire().await.ok()?;
        self.metrics.hedged();
        let to_all = Message { subject: subject::to_all(&message.subject), ..message.clone() };
        bus.request(to_all, timeout).await.ok()
    }
}

#[cfg(test)]
mod tests;
