//! The other gateways of the fleet, as the bus tells: whether one of them is ready to take watchers.
//!
//! In: this gateway's readiness, and the announcements of the others. Out: [`Others`], and this gateway's own
//! announcements, every two seconds and at the beginning of its drain.
//!
//! Watchers without a revision have one attempt to come back after their watch ends. A gateway that drains
//! ends them while another one is ready, and has to know that. A wrong answer costs an attempt and nothing
//! else, so no more than this is agreed upon among gateways.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Message, Messages};
use futures_util::StreamExt;
use host::admin::Readiness;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::maybe::or_pending;
use shared::subject;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics::FleetMetrics;

/// The pause between two announcements.
const PERIOD: Duration = Duration::from_secs(2);
/// The time for which an announcement of readiness counts: two may be lost.
const READY_FOR: Duration = Duration::from_secs(7);
/// The time for which a gateway is expected to come back that was heard once.
const EXPECTED_FOR: Duration = Duration::from_secs(60);
/// Gateways that are remembered: the bound of a list that others fill.
const MAX_GATEWAYS: usize = 4096;

/// The other gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Others {
    /// No other gateway has been heard of.
    #[default]
    None,
    /// There are, or were a moment ago, others, and none of them is ready.
    NotReady,
    /// At least one is ready.
    Ready,
}

/// The task that announces this gateway and listens to the others.
pub(crate) struct Fleet {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) readiness: Readiness,
    /// The place where the task reports.
    pub(crate) others: watch::Sender<Others>,
    pub(crate) metrics: FleetMetrics,
}

/// The announcements of the other gateways.
#[derive(Debug, Default)]
struct Heard {
    gateways: HashMap<u64, Announcement>,
}

#[derive(Clone, Copy, Debug)]
struct Announcement {
    at: Instant,
    ready: bool,
}

impl Heard {
    fn note(&mut self, id: u64, ready: bool, at: Instant) {
        if self.gateways.len() < MAX_GATEWAYS || self.gateways.contains_key(&id) {
            self.gateways.insert(id, Announcement { at, ready });
        }
    }

    fn ready(&self, now: Instant) -> usize {
        self.gateways.values().filter(|last| last.ready && now < last.at + READY_FOR).count()
    }

    fn others(&mut self, now: Instant) -> Others {
        self.gateways.retain(|_, last| now < last.at + EXPECTED_FOR);
        match (self.ready(now), self.gateways.is_empty()) {
            (_, true) => Others::None,
            (0, false) => Others::NotReady,
            (_, false) => Others::Ready,
        }
    }
}

impl Fleet {
    /// Runs until `stop`. The drain is announced at once when `drain` is cancelled.
    pub(crate) async fn run(self, drain: CancellationToken, stop: CancellationToken) {
        // One of 2^64: two gateways with the same number would ignore each other.
        let id = fastrand::u64(..);
        let mut heard = Heard::default();
        let mut messages: Option<Messages> = None;
        let mut pace = interval(PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut announced_drain = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = drain.cancelled(), if !announced_drain => {
                    announced_drain = true;
                    self.announce(id).await;
                }
                _ = pace.tick() => {
                    if messages.is_none() {
                        // Before the bus can be reached this fails, and the next tick tries again.
                        messages = self.bus.subscribe(subject::GATEWAYS).await.ok();
                    }
                    self.announce(id).await;
                }
                message = or_pending(messages.as_mut().map(StreamExt::next)) => match message {
                    Some(message) => hear(&mut heard, id, &message),
                    None => messages = None,
                },
            }
            let now = Instant::now();
            let others = heard.others(now);
            self.metrics.ready(heard.ready(now));
            self.others.send_if_modified(|known| std::mem::replace(known, others) != others);
        }
    }

    async fn announce(&self, id: u64) {
        let state = pb::GatewayState { id, ready: self.readiness.report().ready };
        if let Err(error) = self.bus.publish(Message::new(subject::GATEWAYS, state.encode_to_vec())).await {
            debug!(%error, "the other gateways were not told of this one");
        }
    }
}

fn hear(heard: &mut Heard, own: u64, message: &Message) {
    match pb::GatewayState::decode(&*message.payload) {
        // The bus brings a gateway its own announcements too.
        Ok(state) if state.id == own => {}
        Ok(state) => heard.note(state.id, state.ready, Instant::now()),
        Err(error) => debug!(%error, "the announcement of a gateway cannot be decoded and is ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_count_while_their_announcements_are_fresh() {
        let begin = Instant::now();
        let mut heard = Heard::default();
        assert_eq!(heard.others(begin), Others::None);
        heard.note(1, true, begin);
        heard.note(2, false, begin);
        assert_eq!(heard.others(begin), Others::Ready);
        assert_eq!(heard.others(begin + READY_FOR), Others::NotReady, "nobody has said so for too long");
        heard.note(2, true, begin + READY_FOR);
        assert_eq!(heard.others(begin + READY_FOR), Others::Ready);
        heard.note(2, false, begin + READY_FOR);
        assert_eq!(heard.others(begin + READY_FOR), Others::NotReady, "it drains");
        assert_eq!(heard.others(begin + READY_FOR + EXPECTED_FOR), Others::None);
        for id in 0..2 * MAX_GATEWAYS as u64 {
            heard.note(id, true, begin);
        }
        assert_eq!(heard.gateways.len(), MAX_GATEWAYS);
    }
}
