//! Shifts: plans that move traffic from some instances to others, in steps of weights.
//!
//! A plan is a record of the store, and its present step is two overrides. This room knows the states of a
//! plan and the moves between them, on plain numbers; `crate::registry::shifts` makes transactions of them.
//!
//! ```text
//!            advance                advance after the last step
//!          ┌────────┐
//! start ─▶ running ─┴──────────────────────────▶ done
//!           │   ▲                                 │
//!     pause ▼   │ resume                          │
//!          paused ───────────── undo ──────────▶ undone
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::model::{Incarnation, Revision, ServiceRef, Tenant, null_default};

use super::overrides::{OverrideRecord, OverrideTarget};

/// Some instances of one service: a side of a shift.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ShiftSide {
    /// The id of the service.
    #[serde(deserialize_with = "null_default")]
    pub service_id: String,
    /// The instances.
    #[serde(flatten)]
    pub target: OverrideTarget,
}

/// The weights for a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ShiftStep {
    /// The weight of each instance to which traffic moves.
    #[serde(deserialize_with = "null_default")]
    pub to_weight: u8,
    /// The weight of each instance from which it moves.
    #[serde(deserialize_with = "null_default")]
    pub from_weight: u8,
    /// The seconds that the step lasts.
    #[serde(deserialize_with = "null_default")]
    pub seconds: u64,
}

/// The state of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShiftState {
    /// The next step comes when the present one has lasted its time.
    #[default]
    Running,
    /// The present step stays.
    Paused,
    /// Every step has lasted its time. The weights of the last one stay.
    Done,
    /// The weights are what they were before.
    Undone,
}

/// The value of a plan's key. The field names in the store must not change: other versions of this program
/// read them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ShiftRecord {
    /// The instances from which traffic moves.
    pub from: ShiftSide,
    /// The instances to which it moves.
    pub to: ShiftSide,
    /// The steps, in order.
    #[serde(deserialize_with = "null_default")]
    pub steps: Vec<ShiftStep>,
    /// The account that has started the shift.
    #[serde(deserialize_with = "null_default")]
    pub owner: String,
    /// The reason, for people.
    #[serde(deserialize_with = "null_default")]
    pub reason: String,
    /// The second since 1970 at which it was started.
    #[serde(deserialize_with = "null_default")]
    pub since: u64,
    /// Its state.
    pub state: ShiftState,
    /// The number of the present step; the first one is 1.
    #[serde(deserialize_with = "null_default")]
    pub step: usize,
    /// The second since 1970 at which the present step began, or at which the plan came into its last state.
    #[serde(deserialize_with = "null_default")]
    pub step_since: u64,
    /// The seconds that the present step had lasted when it was paused.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub elapsed: u64,
    /// The account that has paused, resumed or undone it last.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The reason for which it has paused by itself.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub obstacle: String,
    /// The incarnation of the store in which a person has started or resumed it last. `None` if an older version
    /// of this program has written the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ShiftRecord {
    /// The second since 1970 at which the present step has lasted its time; `None` while the plan is not
    /// running.
    pub fn due(&self) -> Option<u64> {
        if self.state != ShiftState::Running {
            return None;
        }
        // A step that the plan does not have is over, so that such a record comes to its end.
        let lasts = self.present().map_or(0, |step| step.seconds);
        Some(self.step_since.saturating_add(lasts))
    }

    /// The present step.
    pub fn present(&self) -> Option<&ShiftStep> {
        self.steps.get(self.step.checked_sub(1)?)
    }

    /// The plan one step further, if the present one has lasted its time at `now`. However late this is, the
    /// next step begins now and lasts its whole time.
    #[must_use]
    pub fn advanced(&self, now: u64) -> Option<Self> {
        if self.due()? > now {
            return None;
        }
        let mut next = Self { step_since: now, ..self.clone() };
        if self.step < self.steps.len() {
            next.step += 1;
        } else {
            next.state = ShiftState::Done;
        }
        Some(next)
    }

    /// The plan, begun or resumed by a person who sees the store in this incarnation.
    #[must_use]
    pub fn seen_in(self, incarnation: Incarnation) -> Self {
        Self { incarnation: Some(incarnation.get()), ..self }
    }

    /// False if the store was restored from a backup since a person has started or resumed the plan.
    pub fn is_of(&self, incarnation: Incarnation) -> bool {
        self.incarnation.is_none_or(|known| known == incarnation.get())
    }

    /// The plan, paused; `None` if it is not running.
    #[must_use]
    pub fn paused(&self, now: u64, by: &str) -> Option<Self> {
        let lasts = self.present().map_or(0, |step| step.seconds);
        (self.state == ShiftState::Running).then(|| Self {
            state: ShiftState::Paused,
            elapsed: now.saturating_sub(self.step_since).min(lasts),
            by: by.to_owned(),
            ..self.clone()
        })
    }

    /// The plan, paused by an obstacle. After it, the present step begins anew.
    #[must_use]
    pub fn interrupted(&self, obstacle: String) -> Self {
        Self { state: ShiftState::Paused, elapsed: 0, by: String::new(), obstacle, ..self.clone() }
    }

    /// The plan, running again; `None` if it is not paused.
    #[must_use]
    pub fn resumed(&self, now: u64, by: &str) -> Option<Self> {
        (self.state == ShiftState::Paused).then(|| Self {
            state: ShiftState::Running,
            step_since: now.saturating_sub(self.elapsed),
            elapsed: 0,
            by: by.to_owned(),
            obstacle: String::new(),
            ..self.clone()
        })
    }

    /// The plan, undone; `None` if it is that already.
    #[must_use]
    pub fn undone(&self, now: u64, by: &str) -> Option<Self> {
        (self.state != ShiftState::Undone).then(|| Self {
            state: ShiftState::Undone,
            step_since: now,
            elapsed: 0,
            by: by.to_owned(),
            obstacle: String::new(),
            ..self.clone()
        })
    }

    /// Both sides, as services of the tenant with their targets.
    pub fn sides(&self, tenant: &Tenant) -> [(ServiceRef, &OverrideTarget); 2] {
        [&self.from, &self.to].map(|side| (ServiceRef::new(tenant.clone(), &side.service_id), &side.target))
    }

    /// The overrides of the present step, in the order of [`Self::sides`].
    pub fn wishes(&self, id: &str) -> [OverrideRecord; 2] {
        let present = self.present().copied().unwrap_or_default();
        let Self { owner, step, reason, .. } = self;
        let wish = OverrideRecord {
            owner: owner.clone(),
            reason: format!("shift by {owner}, step {step} of {}: {reason}", self.steps.len()),
            since: self.step_since,
            shift: id.to_owned(),
            ..OverrideRecord::default()
        };
        [(&self.from, present.from_weight), (&self.to, present.to_weight)].map(|(side, weight)| {
            OverrideRecord { target: side.target.clone(), weight: Some(weight), ..wish.clone() }
        })
    }
}

/// A plan of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftView {
    /// The record.
    pub record: ShiftRecord,
    /// The revision that wrote it last.
    pub mod_rev: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seconds: &[u64]) -> ShiftRecord {
        let step = |seconds: &u64| ShiftStep { to_weight: 10, from_weight: 90, seconds: *seconds };
        let steps = seconds.iter().map(step).collect();
        ShiftRecord { steps, step: 1, step_since: 100, since: 100, owner: "ann".into(), ..Default::default() }
    }

    #[test]
    fn a_late_step_begins_when_it_is_taken() {
        let plan = plan(&[10, 20]);
        assert_eq!((plan.due(), plan.advanced(109)), (Some(110), None));
        // All was down for long.
        let second = plan.advanced(10_000).expect("due");
        assert_eq!((second.step, second.step_since, second.due()), (2, 10_000, Some(10_020)));
        assert_eq!(second.advanced(10_000), None);
        let done = second.advanced(10_020).expect("due");
        assert_eq!((done.state, done.step, done.due()), (ShiftState::Done, 2, None));
        assert_eq!(done.paused(1, "ann"), None);
    }

    #[test]
    fn a_pause_keeps_the_time_that_the_step_has_lasted() {
        let paused = plan(&[10, 20]).paused(107, "bob").expect("running");
        assert_eq!((paused.elapsed, paused.due(), paused.paused(108, "bob")), (7, None, None));
        let again = paused.resumed(1_000, "bob").expect("paused");
        assert_eq!((again.due(), again.elapsed, again.resumed(1, "bob")), (Some(1_003), 0, None));
        // A clock that was set back shortens nothing.
        assert_eq!(plan(&[10]).paused(3, "bob").expect("running").elapsed, 0);
        let undone = again.undone(2_000, "bob").expect("running");
        assert_eq!((undone.state, undone.undone(1, "bob")), (ShiftState::Undone, None));
    }

    #[test]
    fn a_record_without_its_step_comes_to_an_end() {
        for step in [0, 7] {
            let broken = ShiftRecord { step, ..plan(&[]) };
            assert_eq!(broken.advanced(100).map(|plan| plan.state), Some(ShiftState::Done));
            assert_eq!(broken.wishes("x")[0].weight, Some(0));
        }
    }

    #[test]
    fn the_stored_form_of_a_plan_is_fixed() {
        let text = r#"{"from":{"serviceId":"a"},"to":{"serviceId":"b","zone":"east"},"steps":[{"toWeight":10,"fromWeight":90,"seconds":5}],"owner":"ann","reason":"r","since":7,"state":"paused","step":1,"stepSince":8,"elapsed":2,"by":"bob","obstacle":"o"}"#;
        let plan: ShiftRecord = serde_json::from_str(text).expect("parses");
        assert_eq!(serde_json::to_string(&plan).expect("plain fields"), text);
        assert_eq!(plan.wishes("x")[1].reason, "shift by ann, step 1 of 1: r");
    }
}
