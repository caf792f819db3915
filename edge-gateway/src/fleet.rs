//! The other gateways of the fleet, as the bus tells: whether one of them is ready to take watchers.
//!
//! In: this gateway's readiness, and the announcements of the others. Out: [`Others`], and this gateway's own
//! announcements, every two seconds and when it is told to leave.
//!
//! Watchers without a revision have one attempt to come back after their watch ends. A gateway that drains
//! ends them while another one is ready, and has to know that. A wrong answer costs an attempt and nothing
//! else, so no more than this is agreed upon among gateways.
//!
//! An announcement also has the gateway's figures, for people who ask any gateway about all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Message, Messages};
use futures_util::StreamExt;
use host::admin::Readiness;
use host::figures::sampler::{ProcessFigures, Sampler};
use parking_lot::Mutex;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::maybe::or_pending;
use shared::subject;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics::FleetMetrics;

mod figures;

/// The pause between two announcements.
pub(crate) const PERIOD: Duration = Duration::from_secs(2);
/// The time for which an announcement of readiness counts: two may be lost.
const READY_FOR: Duration = Duration::from_secs(7);
/// The time for which a gateway is expected to come back that was heard once.
const EXPECTED_FOR: Duration = Duration::from_secs(60);
/// The time for which a gateway is remembered that was heard once: the longest that a question may ask about.
const REMEMBERED_FOR: Duration = Duration::from_secs(70);
/// The time for which a gateway that ends waits until its last announcement has been sent.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Gateways that are remembered: the bound of a list that others fill.
const MAX_GATEWAYS: usize = 4096;

/// Characters of a gateway's name that are kept.
const MAX_NAME: usize = 256;

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

/// A gateway that was heard lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its number on the bus.
    pub(crate) id: u64,
    /// Its name in metrics; empty for one of an older version.
    pub(crate) name: String,
    /// The time since it was last heard.
    pub(crate) silent_for: Duration,
}

/// The gateways that may have watchers, as far as this one has heard of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    /// The number of this gateway on the bus.
    // One of 2^64: two gateways with the same number would ignore each other.
    pub(crate) own: u64,
    // Written by the fleet's task.
    heard: Arc<Mutex<Heard>>,
}

impl Peers {
    /// Nobody has been heard of.
    pub(crate) fn new() -> Self {
        Self { own: fastrand::u64(..), heard: Arc::default() }
    }

    /// The other gateways that have been heard within a minute and have not said that they end. `None` until
    /// this gateway has listened long enough to have heard everybody.
    pub(crate) fn others(&self) -> Option<Vec<Peer>> {
        let now = Instant::now();
        let heard = self.heard.lock();
        heard.listening_since.filter(|since| now >= *since + READY_FOR)?;
        let may_live = heard.gateways.iter().filter(|(_, last)| !last.ended && now < last.at + EXPECTED_FOR);
        let peers = may_live.map(|(id, last)| {
            let silent_for = now.saturating_duration_since(last.at);
            Peer { id: *id, name: last.name.clone(), silent_for }
        });
        Some(peers.collect())
    }

    /// The time until no gateway can have left within the last `time` before it. `None` when none has left.
    /// `alone` says that there was none before this one.
    pub(crate) fn lost_within(&self, time: Duration, alone: bool) -> Option<Duration> {
        let now = Instant::now();
        let heard = self.heard.lock();
        // Events from before this gateway listened are not known.
        let unknown = match heard.listening_since {
            None => Some(now),
            Some(_) if alone => None,
            Some(since) => Some(since),
        };
        let has_left = |last: &&Announcement| last.ended || now >= last.at + EXPECTED_FOR;
        let left = heard.gateways.values().filter(has_left).map(|last| last.at);
        let until = left.chain(unknown).max()? + time;
        (now < until).then(|| until - now)
    }

    /// The figures of the other gateways that have been heard within a minute and have not said that they end.
    pub(crate) fn figures(&self) -> Vec<ProcessFigures> {
        let now = Instant::now();
        let heard = self.heard.lock();
        let may_live = heard.gateways.values().filter(|last| !last.ended && now < last.at + EXPECTED_FOR);
        let figures = may_live.map(|last| {
            let silent_for = now.saturating_duration_since(last.at);
            figures::as_of_now(last.figures.as_deref(), &last.name, silent_for)
        });
        figures.collect()
    }

    /// True for a gateway that has said that it ends.
    pub(crate) fn has_ended(&self, id: u64) -> bool {
        self.heard.lock().gateways.get(&id).is_some_and(|last| last.ended)
    }
}

/// The task that announces this gateway and listens to the others.
pub(crate) struct Fleet {
    /// The name of this gateway in metrics.
    pub(crate) name: String,
    pub(crate) peers: Peers,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) readiness: Readiness,
    /// True while a control plane answers this gateway.
    pub(crate) reachable: watch::Receiver<bool>,
    /// The place where the task reports.
    pub(crate) others: watch::Sender<Others>,
    pub(crate) metrics: FleetMetrics,
    /// The figures of this process.
    pub(crate) sampler: Sampler,
}

/// The announcements of the other gateways.
#[derive(Debug, Default)]
struct Heard {
    /// The subscription has been in place since then.
    listening_since: Option<Instant>,
    gateways: HashMap<u64, Announcement>,
}

#[derive(Clone, Debug)]
struct Announcement {
    at: Instant,
    ready: bool,
    ended: bool,
    name: String,
    /// Absent for a gateway of an older version.
    figures: Option<Arc<ProcessFigures>>,
}

impl Heard {
    fn note(&mut self, id: u64, last: Announcement) {
        if self.gateways.len() < MAX_GATEWAYS || self.gateways.contains_key(&id) {
            self.gateways.insert(id, last);
        }
    }

    fn ready(&self, now: Instant) -> usize {
        self.gateways.values().filter(|last| last.ready && now < last.at + READY_FOR).count()
    }

    fn others(&mut self, now: Instant) -> Others {
        self.gateways.retain(|_, last| now < last.at + REMEMBERED_FOR);
        let is_expected = self.gateways.values().any(|last| now < last.at + EXPECTED_FOR);
        match (self.ready(now), is_expected) {
            (_, false) => Others::None,
            (0, true) => Others::NotReady,
            (_, true) => Others::Ready,
        }
    }
}

impl Fleet {
    /// Runs until `stop`. That this gateway is not ready any more is announced at once when `leaving` is
    /// cancelled.
    pub(crate) async fn run(self, leaving: CancellationToken, stop: CancellationToken) {
        let mut messages: Option<Messages> = None;
        let mut pace = interval(PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut announced_leave = false;
        let mut link = self.bus.link();
        let mut generation = link.borrow_and_update().generation;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.announce(true).await;
                    // The process ends next. What it has not sent by then is lost, and the others would expect
                    // this gateway back for a minute.
                    let flushed = tokio::time::timeout(LAST_WORDS, self.bus.flush()).await;
                    if !matches!(flushed, Ok(Ok(()))) {
                        debug!("the other gateways may not know that this one has ended");
                    }
                    return;
                }
                () = leaving.cancelled(), if !announced_leave => {
                    announced_leave = true;
                    self.announce(false).await;
                }
                _ = pace.tick() => {
                    if messages.is_none() {
                        // Before the bus can be reached this fails, and the next tick tries again.
                        messages = self.bus.subscribe(subject::GATEWAYS).await.ok();
                        self.peers.heard.lock().listening_since = messages.as_ref().map(|_| Instant::now());
                    }
                    self.announce(false).await;
                }
                Ok(()) = link.changed() => {
                    let now = link.borrow_and_update().generation;
                    // Announcements may be lost, among them the first of a gateway.
                    if now != generation {
                        generation = now;
                        self.peers.heard.lock().listening_since = messages.as_ref().map(|_| Instant::now());
                    }
                }
                message = or_pending(messages.as_mut().map(StreamExt::next)) => match message {
                    Some(message) => hear(&mut self.peers.heard.lock(), self.peers.own, &message),
                    None => {
                        messages = None;
                        self.peers.heard.lock().listening_since = None;
                    }
                },
            }
            let now = Instant::now();
            let others = self.peers.heard.lock().others(now);
            self.metrics.ready(self.peers.heard.lock().ready(now));
            self.others.send_if_modified(|known| std::mem::replace(known, others) != others);
        }
    }

    async fn announce(&self, ended: bool) {
        // A gateway that only answers what it knows is ready for its clients and takes no watchers.
        let ready = !ended && self.readiness.report().ready && *self.reachable.borrow();
        let figures = Some(figures::told(self.sampler.figures()));
        let state = pb::GatewayState { id: self.peers.own, ready, name: self.name.clone(), ended, figures };
        if let Err(error) = self.bus.publish(Message::new(subject::GATEWAYS, state.encode_to_vec())).await {
            debug!(%error, "the other gateways were not told of this one");
        }
    }
}

fn hear(heard: &mut Heard, own: u64, message: &Message) {
    match pb::GatewayState::decode(&*message.payload) {
        // The bus brings a gateway its own announcements too.
        Ok(state) if state.id == own => {}
        Ok(state) => {
            // Bounded: everything that others fill is.
            let name = state.name.chars().take(MAX_NAME).collect();
            let figures = state.figures.map(figures::heard).map(Arc::new);
            let at = Instant::now();
            let last = Announcement { at, ready: state.ready, ended: state.ended, name, figures };
            heard.note(state.id, last);
        }
        Err(error) => debug!(%error, "the announcement of a gateway cannot be decoded and is ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ready: bool, at: Instant) -> Announcement {
        Announcement { at, ready, ended: false, name: String::new(), figures: None }
    }

    #[test]
    fn others_count_while_their_announcements_are_fresh() {
        let begin = Instant::now();
        let mut heard = Heard::default();
        assert_eq!(heard.others(begin), Others::None);
        heard.note(1, said(true, begin));
        heard.note(2, said(false, begin));
        assert_eq!(heard.others(begin), Others::Ready);
        assert_eq!(heard.others(begin + READY_FOR), Others::NotReady, "nobody has said so for too long");
        heard.note(2, said(true, begin + READY_FOR));
        assert_eq!(heard.others(begin + READY_FOR), Others::Ready);
        heard.note(2, said(false, begin + READY_FOR));
        assert_eq!(heard.others(begin + READY_FOR), Others::NotReady, "it drains");
        assert_eq!(heard.others(begin + READY_FOR + EXPECTED_FOR), Others::None);
        for id in 0..2 * MAX_GATEWAYS as u64 {
            heard.note(id, said(true, begin));
        }
        assert_eq!(heard.gateways.len(), MAX_GATEWAYS);
    }
}
