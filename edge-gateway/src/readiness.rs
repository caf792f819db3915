//! The conditions under which a gateway is ready: its links to the bus and to a control plane, and the cases
//! in which it serves without one of them.
//!
//! In: the state of both links here and elsewhere, and what is known here. Out: two conditions of readiness.
//! A load balancer takes clients away from a gateway that is not ready. While another gateway has the link
//! that this one has lost, that is right. When nobody has it, the requests that this gateway can still answer
//! are all that there is, and a balancer without a ready gateway would refuse them: without the bus all
//! writes and heartbeats, without control planes the finds.

use host::admin::Condition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::Others;
use crate::forward::BusBehind;
use crate::reads::Reads;

/// The task that shows the condition of the bus.
pub(crate) struct BusCondition {
    pub(crate) condition: Condition,
    /// True while this gateway is connected to the bus.
    pub(crate) joined: watch::Receiver<bool>,
    /// The bus as the control planes see it.
    pub(crate) behind: watch::Receiver<BusBehind>,
}

impl BusCondition {
    /// Shows the condition until the drain.
    pub(crate) async fn run(mut self, drain: CancellationToken) {
        loop {
            let joined = *self.joined.borrow_and_update();
            let behind = *self.behind.borrow_and_update();
            let (met, reason) = decide_bus(joined, behind);
            self.condition.set(met, reason);
            let changed = async {
                tokio::select! {
                    () = change(&mut self.joined) => {}
                    () = change(&mut self.behind) => {}
                }
            };
            if drain.run_until_cancelled(changed).await.is_none() {
                return;
            }
        }
    }
}

/// Waits for a change. A state that never changes again is waited for without end.
async fn change<T>(state: &mut watch::Receiver<T>) {
    if state.changed().await.is_err() {
        std::future::pending().await
    }
}

fn decide_bus(joined: bool, behind: BusBehind) -> (bool, &'static str) {
    match (joined, behind) {
        (true, _) => (true, "joined"),
        (false, BusBehind::Lost) => {
            (true, "not reachable for any control plane either; requests are passed on, and watchers wait")
        }
        (false, BusBehind::Joined | BusBehind::Unknown) => (false, "not reachable"),
    }
}

/// The task that shows the condition of the control planes.
pub(crate) struct ControlPlaneCondition {
    pub(crate) condition: Condition,
    /// True while a control plane answers this gateway.
    pub(crate) reachable: watch::Receiver<bool>,
    pub(crate) others: watch::Receiver<Others>,
    /// The states from which finds are answered; `None` where a control plane answers all of them.
    pub(crate) reads: Option<Reads>,
}

impl ControlPlaneCondition {
    /// Shows the condition until the drain.
    pub(crate) async fn run(mut self, drain: CancellationToken) {
        loop {
            let reachable = *self.reachable.borrow_and_update();
            let others = *self.others.borrow_and_update();
            let (met, reason) =
                decide(reachable, others, self.reads.as_ref().is_some_and(Reads::has_something));
            self.condition.set(met, reason);
            let changed = async {
                tokio::select! {
                    changed = self.reachable.changed() => changed,
                    changed = self.others.changed() => changed,
                }
            };
            match drain.run_until_cancelled(changed).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

fn decide(reachable: bool, others: Others, knows_something: bool) -> (bool, &'static str) {
    match (reachable, others) {
        (true, _) => (true, "joined"),
        (false, Others::None | Others::NotReady) if knows_something => {
            (true, "not reachable for any gateway; finds are answered from what is known")
        }
        (false, _) => (false, "not reachable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_without_bus_is_used_when_nobody_has_it() {
        for behind in [BusBehind::Unknown, BusBehind::Joined, BusBehind::Lost] {
            assert!(decide_bus(true, behind).0);
        }
        assert!(decide_bus(false, BusBehind::Lost).0);
        assert!(!decide_bus(false, BusBehind::Joined).0, "other gateways push");
        assert!(!decide_bus(false, BusBehind::Unknown).0, "nothing shows that others are no better");
    }

    #[test]
    fn a_gateway_without_control_plane_is_used_when_there_is_no_better() {
        for others in [Others::None, Others::NotReady, Others::Ready] {
            for knows_something in [false, true] {
                assert!(decide(true, others, knows_something).0);
            }
            assert!(!decide(false, others, false).0, "it would answer nothing");
        }
        assert!(!decide(false, Others::Ready, true).0, "another gateway answers everything");
        assert!(decide(false, Others::NotReady, true).0 && decide(false, Others::None, true).0);
    }
}
