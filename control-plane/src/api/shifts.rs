//! Operations on shifts: plans that move traffic from some instances to others, in steps of weights.

use axum::extract::State;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use shared::model::null_default;

use super::call::Call;
use super::failure::Code::{InstanceNotFound, NotEnoughQuota, ServiceNotFound};
use super::failure::Failure;
use super::operation::{Operation, get, object, of, post, put};
use super::overrides::ANONYMOUS;
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::shifts::{Act, ShownShift};
use crate::registry::validate;
use crate::trail::{self, About};
use crate::view::shifts::{ShiftRecord, ShiftSide, ShiftStep};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        post(
            "/shifts",
            start,
            "StartShift",
            "Start a shift: move traffic from some instances to others by weights, in steps.",
        )
        .takes(of::<StartShift>())
        .returns(object! { "shiftId": String })
        .fails_with(&[ServiceNotFound, InstanceNotFound, NotEnoughQuota]),
        get("/shifts", list, "ListShift", "List the shifts.")
            .query(&[("serviceId", "Only those with this service.")])
            .returns(object! { "shifts": Vec<ShownShift> })
            .fails_with(&[ServiceNotFound]),
        get("/shifts/{shiftId}", show, "GetShift", "Show a shift.").returns(object! { "shift": ShownShift }),
        put(
            "/shifts/{shiftId}/pause",
            acting(Act::Pause),
            "PauseShift",
            "Let the present step of a shift stay.",
        ),
        put(
            "/shifts/{shiftId}/resume",
            acting(Act::Resume),
            "ResumeShift",
            "Let a shift that is paused go on.",
        ),
        put(
            "/shifts/{shiftId}/undo",
            acting(Act::Undo),
            "UndoShift",
            "End the weights that a shift has set.",
        ),
    ]
}

/// The body that starts a shift.
#[derive(Default, Deserialize, schemars::JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct StartShift {
    /// The instances from which traffic moves.
    #[serde(deserialize_with = "null_default")]
    from: ShiftSide,
    /// The instances to which it moves.
    #[serde(deserialize_with = "null_default")]
    to: ShiftSide,
    /// The steps, in order.
    #[serde(deserialize_with = "null_default")]
    steps: Vec<StartStep>,
    /// The reason, for people.
    #[serde(deserialize_with = "null_default")]
    reason: String,
}

/// A step of the body.
#[derive(Clone, Copy, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct StartStep {
    /// The weight of each instance to which traffic moves, from 0 to 100.
    #[serde(deserialize_with = "null_default")]
    to_weight: u8,
    /// The weight of each instance from which it moves. Without: what is missing to 100.
    from_weight: Option<u8>,
    /// The seconds that the step lasts.
    #[serde(deserialize_with = "null_default")]
    seconds: u64,
}

impl From<StartStep> for ShiftStep {
    fn from(step: StartStep) -> Self {
        let StartStep { to_weight, from_weight, seconds } = step;
        let from_weight = from_weight.unwrap_or(100_u8.saturating_sub(to_weight));
        Self { to_weight, from_weight, seconds }
    }
}

async fn start(State(api): State<Api>, call: Call) -> Reply {
    let StartShift { from, to, steps, reason } = call.json()?;
    let steps = steps.into_iter().map(ShiftStep::from).collect();
    let owner = call.permit.account().unwrap_or(ANONYMOUS).to_owned();
    let plan = ShiftRecord { from, to, steps, reason, owner, ..ShiftRecord::default() };
    let id = api.registry().start_shift(&call.caller.tenant, plan).await?;
    trail::about(|| About::New(id.clone()));
    reply::json(&json!({ "shiftId": id }))
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    let service = call.queried_service()?;
    reply::list("shifts", &api.registry().shifts(&call.caller, service.as_ref()).await?)
}

async fn show(State(api): State<Api>, call: Call) -> Reply {
    let shown = api.registry().shift_by_id(&call.caller, shift_id(&call)?).await?;
    reply::json(&json!({ "shift": shown }))
}

/// The handler of an act on a shift.
fn acting(
    act: Act,
) -> impl Fn(State<Api>, Call) -> BoxFuture<'static, Reply> + Clone + Send + Sync + 'static {
    move |State(api), call| {
        Box::pin(async move {
            let by = call.permit.account().unwrap_or(ANONYMOUS);
            api.registry().change_shift(&call.caller, shift_id(&call)?, act, by).await?;
            reply::empty()
        })
    }
}

fn shift_id(call: &Call) -> Result<&str, Failure> {
    let id = call.param("shiftId");
    validate::instance_id(id)?;
    Ok(id)
}
