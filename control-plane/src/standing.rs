//! The standing of this replica with its store: does the store answer, and does the view follow it?
//!
//! In: a linearizable read every second, the view's revision, and the room that the store has left. Out: the
//! condition `store` of the process' readiness, the [`Doubt`] about answers from the view, and the [`Ration`] of writers.
//!
//! A replica without its store goes on answering from its view, and should be the last one that is asked: its
//! heartbeats fail, and what it finds grows old. The read proves that the store answers. The revision that it
//! reports proves what the view must have reached a moment later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host::admin::Condition;
use shared::model::{Revision, Tenant};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::keys::ROOT;
use crate::registry::alarm::{AlarmId, Alarms};
use crate::registry::own;
use crate::store::rationed::{NEARLY_FULL, Ration, Users};
use crate::store::{RangeRequest, Store, StoreError, StoreSpace};
use crate::view::View;

/// The pause between two reads.
const PACE: Duration = Duration::from_secs(1);

/// The parts of the task.
pub(crate) struct Standing {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) view: View,
    pub(crate) ration: Arc<Ration>,
    pub(crate) alarms: Alarms,
    /// The time without an answer, or without progress, after which the replica is not ready.
    pub(crate) grace: Duration,
    /// Told when the view was confirmed last.
    pub(crate) doubt: Arc<Doubt>,
}

/// The moment at which the view was confirmed last, while it is not. Answers from it are marked then.
#[derive(Debug)]
pub(crate) struct Doubt {
    began: Instant,
    /// Milliseconds after `began`, and one more; 0 while nothing is in doubt. Every read looks at it, and it is written
    /// once a second at most.
    since: AtomicU64,
}

impl Doubt {
    /// Nothing is in doubt.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), since: AtomicU64::new(0) })
    }

    fn set(&self, since: Option<Instant>) {
        let millis = |since: Instant| since.saturating_duration_since(self.began).as_millis();
        let since = since.map_or(0, |since| u64::try_from(millis(since)).unwrap_or(u64::MAX - 1) + 1);
        if self.since.load(Ordering::Relaxed) != since {
            self.since.store(since, Ordering::Relaxed);
        }
    }

    /// The time since the view was confirmed last. `None` while it is confirmed.
    pub(crate) fn age(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed).checked_sub(1)?);
        Some(self.began.elapsed().saturating_sub(since))
    }
}

/// The facts so far, and what they mean. Pure.
#[derive(Debug)]
struct Judgement {
    grace: Duration,
    /// The last answer of the store.
    answered: Option<Instant>,
    /// A revision that the store had at this time and the view did not have yet.
    ahead: Option<(Revision, Instant)>,
}

impl Judgement {
    fn answered(&mut self, store: Revision, view: Revision, now: Instant) {
        self.answered = Some(now);
        self.ahead = match self.ahead {
            // The oldest revision that is missing counts: newer ones come all the time.
            Some((rev, since)) if view < rev => Some((rev, since)),
            _ => (view < store).then_some((store, now)),
        };
    }

    /// The time for which an answer is waited for: what is left of the grace since the last one, because a call
    /// that outlives it would report the silence too late. The whole grace once it is over.
    fn patience(&self, now: Instant) -> Duration {
        let silent = self.answered.map_or(self.grace, |answered| now.saturating_duration_since(answered));
        match self.grace.saturating_sub(silent) {
            Duration::ZERO => self.grace,
            left => left,
        }
    }

    /// The reason why the replica is not ready, if it is not.
    fn trouble(&self, now: Instant) -> Option<String> {
        let Some(answered) = self.answered else { return Some("the store has not answered yet".into()) };
        let silent = now.saturating_duration_since(answered);
        if silent >= self.grace {
            return Some(format!("the store has not answered for {} s", silent.as_secs()));
        }
        let (rev, since) = self.ahead?;
        let behind = now.saturating_duration_since(since);
        (behind >= self.grace)
            .then(|| format!("the view has not reached revision {rev} for {} s", behind.as_secs()))
    }
}

impl Judgement {
    /// The moment at which the view was confirmed last, if there is trouble.
    fn in_doubt_since(&self, now: Instant) -> Option<Instant> {
        self.trouble(now)?;
        let behind = self.ahead.map(|(_, since)| since);
        self.answered.map(|answered| behind.map_or(answered, |behind| behind.min(answered)))
    }
}

impl Standing {
    /// Judges until `stop`.
    pub(crate) async fn run(self, condition: Condition, stop: CancellationToken) {
        let mut judgement = Judgement { grace: self.grace, answered: None, ahead: None };
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut space = None;
        let mut was_ready = false;
        loop {
            tokio::select! { () = stop.cancelled() => return, _ = pace.tick() => {} }
            let patience = judgement.patience(Instant::now());
            // Side by side: two calls that are not answered must not last for twice the grace.
            let asking = async {
                tokio::join!(
                    self.probe(&mut judgement, patience),
                    tokio::time::timeout(patience, self.store.space())
                )
            };
            let Some(((), asked)) = stop.run_until_cancelled(asking).await else { return };
            if let Ok(Ok(now)) = asked {
                space = self.note_space(space, now);
            }
            let now = Instant::now();
            self.doubt.set(judgement.in_doubt_since(now));
            let trouble = judgement.trouble(now);
            let is_ready = trouble.is_none();
            match &trouble {
                Some(reason) if was_ready => warn!(reason, "this replica is not ready any more"),
                None if !was_ready => info!("the store answers, and the view follows it"),
                _ => {}
            }
            was_ready = is_ready;
            condition.set(is_ready, trouble.unwrap_or_else(|| room(space)));
        }
    }

    async fn probe(&self, judgement: &mut Judgement, patience: Duration) {
        let first = RangeRequest { limit: 1, keys_only: true, ..RangeRequest::prefix(ROOT) };
        if let Ok(Ok(reply)) = tokio::time::timeout(patience, self.store.range(first)).await {
            judgement.answered(reply.revision, *self.view.revisions().borrow(), Instant::now());
        }
        // Writes beside the registry raise the store's revision without an event for the view. The barrier
        // makes the watch report that there was none.
        if judgement.ahead.is_some_and(|(_, since)| since.elapsed() >= self.grace / 3) {
            // Its failure changes nothing: the next read shows that too.
            let _ = tokio::time::timeout(self.grace / 3, self.store.barrier(ROOT)).await;
            let view = *self.view.revisions().borrow();
            judgement.ahead = judgement.ahead.filter(|(rev, _)| view < *rev);
        }
    }

    fn note_space(&self, before: Option<StoreSpace>, now: Option<StoreSpace>) -> Option<StoreSpace> {
        self.ration.set_space(now, || users(&self.view));
        let is_full = |space: Option<StoreSpace>| space.is_some_and(|space| space.full);
        if is_full(now) && !is_full(before) {
            warn!(
                "the store is full; etcd has to be compacted and defragmented, and its alarm disarmed: see the runbook \
                 store-full"
            );
            self.alarms.raise(AlarmId::InternalError, StoreError::Full(room(now)).to_string());
        }
        now
    }
}

/// The tenants and the control planes that the registry has. `None` while it cannot be read.
fn users(view: &View) -> Option<Users> {
    let snapshot = view.now().ok()?;
    let own = snapshot.tenants.get(&Tenant::default());
    // In a rolling upgrade there are two versions of the registry's own service.
    let nodes = own.into_iter().flat_map(|tenant| tenant.services.values());
    let nodes =
        nodes.filter(|node| node.service.as_ref().is_some_and(|record| record.service_name == own::NAME));
    let writers = nodes.map(|node| node.instances.size() as u64).sum();
    Some(Users { tenants: snapshot.tenants.keys().cloned().collect(), writers })
}

/// A sentence about the room that the store has left, for the readiness.
fn room(space: Option<StoreSpace>) -> String {
    match space {
        Some(space) if space.full => {
            "answers, but is full and refuses every write: see the runbook store-full".into()
        }
        Some(space) if space.share() >= NEARLY_FULL => {
            format!("answers; {:.0} % of its quota are used", space.share() * 100.0)
        }
        _ => "answers".into(),
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::Clock;

    use super::*;
    use crate::store::KeyValue;
    use crate::view::{self, History, Protection};

    const GRACE: Duration = Duration::from_secs(3);

    fn judgement() -> Judgement {
        Judgement { grace: GRACE, answered: None, ahead: None }
    }

    #[test]
    fn control_planes_of_all_versions_are_counted() {
        let (mut writer, view) = view::empty(History::new(10), Protection::default(), Clock::manual(1));
        assert!(users(&view).is_none(), "nothing is read yet");
        let mut items = Vec::new();
        let mut put = |key: String, value: &str| {
            let rev = Revision::new(items.len() as u64 + 1);
            let value = value.as_bytes().to_vec().into();
            items.push(KeyValue { key, value, create_rev: rev, mod_rev: rev, version: 1, lease: None });
        };
        for (id, name, nodes) in [("old", own::NAME, 2), ("new", own::NAME, 1), ("other", "order", 4)] {
            let record = format!(r#"{{"serviceName":"{name}","appId":"default","version":"1.0.0"}}"#);
            put(format!("/cse-sr/ms/files/default/default/{id}"), &record);
            for node in 0..nodes {
                put(format!("/cse-sr/inst/files/default/default/{id}/{node}"), r#"{"hostName":"h"}"#);
            }
        }
        put(
            "/cse-sr/ms/files/another/default/s".into(),
            r#"{"serviceName":"SERVICECENTER","appId":"default"}"#,
        );
        writer.reset(items, Revision::new(20));
        let users = users(&view).expect("read");
        assert_eq!((users.writers, users.tenants.len()), (3, 2));
    }

    #[test]
    fn a_silent_store_is_noticed_after_the_grace() {
        let start = Instant::now();
        let mut judgement = judgement();
        assert!(judgement.trouble(start).is_some(), "nothing is known yet");
        judgement.answered(5.into(), 5.into(), start);
        assert_eq!(judgement.trouble(start + GRACE - Duration::from_millis(1)), None);
        let second = Duration::from_secs(1);
        assert_eq!(judgement.patience(start + second), GRACE - second, "it is told when the grace is over");
        assert_eq!(judgement.patience(start + GRACE), GRACE);
        let trouble = judgement.trouble(start + GRACE).expect("too long");
        assert_eq!(trouble, "the store has not answered for 3 s");
        judgement.answered(5.into(), 5.into(), start + GRACE);
        assert_eq!(judgement.trouble(start + GRACE), None);
    }

    #[test]
    fn a_view_that_stands_still_is_noticed_after_the_grace() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut judgement = judgement();
        for n in 0..3 {
            // The store goes on, and its newest revision is always missing for a moment only.
            judgement.answered(u64::from(9 + n).into(), 8.into(), start + second * n);
            assert_eq!(judgement.trouble(start + second * n), None);
        }
        judgement.answered(20.into(), 8.into(), start + GRACE);
        let trouble = judgement.trouble(start + GRACE).expect("too long");
        assert_eq!(trouble, "the view has not reached revision 9 for 3 s");
        judgement.answered(21.into(), 9.into(), start + GRACE);
        assert_eq!(judgement.trouble(start + GRACE), None, "the view moves");
        judgement.answered(21.into(), 21.into(), start + GRACE + second);
        assert!(judgement.ahead.is_none());
    }

    #[test]
    fn the_view_is_in_doubt_since_it_was_confirmed_last() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut judgement = judgement();
        assert_eq!(judgement.in_doubt_since(start), None, "there is no view yet");
        judgement.answered(5.into(), 5.into(), start);
        assert_eq!(judgement.in_doubt_since(start + GRACE - second), None);
        assert_eq!(judgement.in_doubt_since(start + GRACE), Some(start), "the store is silent");
        judgement.answered(9.into(), 5.into(), start + second);
        judgement.answered(9.into(), 5.into(), start + GRACE);
        assert_eq!(judgement.in_doubt_since(start + GRACE), None);
        assert_eq!(
            judgement.in_doubt_since(start + second + GRACE),
            Some(start + second),
            "the view is behind"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_goes_on_from_the_last_confirmation() {
        let doubt = Doubt::none();
        assert_eq!(doubt.age(), None);
        doubt.set(Some(doubt.began));
        assert_eq!(doubt.age(), Some(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(doubt.age(), Some(Duration::from_secs(7)));
        doubt.set(None);
        assert_eq!(doubt.age(), None);
    }

    #[test]
    fn the_readiness_tells_how_full_the_store_is() {
        let space = |used, full| Some(StoreSpace { used, quota: 100, full });
        assert_eq!(room(None), "answers");
        assert_eq!(room(space(79, false)), "answers");
        assert_eq!(room(space(93, false)), "answers; 93 % of its quota are used");
        assert!(room(space(100, true)).contains("refuses every write"));
    }
}
