//! The operation that makes many finds in one request. [`answer::batch`] has the elements and the reply,
//! which a gateway makes as well.

use std::collections::HashMap;

use answer::Resolution;
use answer::batch::{Batch, BatchReply, InstanceElement, InstanceId, List, Outcome, Section, ServiceElement};
use answer::batch::{MOST_ELEMENTS, Refusal, TooLarge};
use answer::resolution::FOUND;
use axum::body::Body;
use axum::extract::State;
use host::http::HeldBytes;

use super::call::{Call, at_most};
use super::failure::Failure;
use super::operation::{Operation, object, of, post};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::find::FindQuery;
use crate::registry::{Caller, validate};

/// Characters of an unknown action that the refusal shows. A hostile value is not echoed whole.
const SHOWN: usize = 64;

pub(super) fn operation() -> Operation {
    post(
        "/instances/action",
        act,
        "InstancesAction",
        "Find the instances of many providers. Each has its own outcome.",
    )
    .query(&[("type", "`query`.")])
    .for_consumer()
    .takes(of::<Batch>())
    .returns(object! { "services": Section, "instances": Section })
}

async fn act(State(api): State<Api>, call: Call) -> Reply {
    let action = call.query("type");
    if action != "query" {
        let shown: String = action.chars().take(SHOWN).collect();
        return Err(Failure::invalid(format!("Invalid action: {shown}")));
    }
    let body: Batch = call.json()?;
    if body.services.is_empty() && body.instances.is_empty() {
        return Err(Failure::invalid("Required services or instances"));
    }
    at_most(MOST_ELEMENTS, body.services.len(), "services")?;
    at_most(MOST_ELEMENTS, body.instances.len(), "instances")?;
    // All elements are checked before the first is worked on: a malformed one refuses the whole request.
    let queries = body.services.into_iter().map(service_query).collect::<Result<Vec<_>, _>>()?;
    let ids = body.instances.into_iter().map(checked_ids).collect::<Result<Vec<_>, _>>()?;
    let mut caller = call.caller.clone();
    if queries.len() + ids.len() > 1 {
        // Once for all elements, of which thousands may be absent or unchanged.
        caller.confirmation = api.registry().confirm_once().await;
    }
    let mut answer = BatchReply::default();
    let resolutions = find_each(&api, &caller, queries, &mut answer).await?;
    get_each(&api, &caller, ids, &mut answer).await?;
    let body = answer.body();
    let held = HeldBytes::of_all(body.iter());
    let mut response = held.on(reply::raw_json(Body::new(body)));
    // Empty unless a gateway asks for them.
    if let Some(header) = Resolution::encode_batch(resolutions.iter().map(Option::as_ref)) {
        response.headers_mut().insert(FOUND, header);
    }
    Ok(response)
}

fn service_query(element: ServiceElement) -> Result<FindQuery, Failure> {
    let Some(key) = element.service else { return Err(Failure::invalid("Required service")) };
    validate::lookup(&key.app_id, &key.service_name, &key.environment)?;
    let query = FindQuery {
        app_id: key.app_id,
        service_name: key.service_name,
        version: key.version,
        environment: key.environment,
        rev: element.rev,
        ..FindQuery::default()
    };
    query.check_version()?;
    Ok(query)
}

fn checked_ids(element: InstanceElement) -> Result<(InstanceId, String), Failure> {
    let Some(ids) = element.instance else { return Err(Failure::invalid("Required instance")) };
    validate::service_id(&ids.service_id)?;
    validate::instance_id(&ids.instance_id)?;
    Ok((ids, element.rev))
}

impl From<Failure> for Refusal {
    fn from(Failure { code, detail }: Failure) -> Self {
        Self { code: code.number(), message: code.message(), detail }
    }
}

impl From<TooLarge> for Failure {
    fn from(TooLarge: TooLarge) -> Self {
        Self::invalid("the reply would be larger than 32 MiB; ask for fewer services at once")
    }
}

/// Adds the outcomes of the finds to the answer, and returns the services that answer each of them.
async fn find_each(
    api: &Api,
    caller: &Caller,
    queries: Vec<FindQuery>,
    answer: &mut BatchReply,
) -> Result<Vec<Option<Resolution>>, Failure> {
    let mut resolutions = Vec::new();
    // One after the other: each may write a dependency rule of the same consumer, and such writes would only
    // make each other lose.
    // An element that is repeated has the outcome of the first, without the work.
    let mut known: HashMap<[String; 5], Outcome> = HashMap::new();
    for (index, query) in queries.into_iter().enumerate() {
        let FindQuery { app_id, service_name, version, environment, rev, .. } = query.clone();
        let element = [app_id, service_name, version, environment, rev];
        let (outcome, resolution) = match known.get(&element) {
            Some(outcome) => (outcome.clone(), None),
            None => {
                let (outcome, resolution) = find_one(api, caller, &query).await;
                known.insert(element, outcome.clone());
                (outcome, resolution)
            }
        };
        answer.add(List::Services, index, outcome)?;
        resolutions.push(resolution);
    }
    Ok(resolutions)
}

async fn find_one(api: &Api, caller: &Caller, query: &FindQuery) -> (Outcome, Option<Resolution>) {
    match api.registry().find(caller, query).await {
        Ok(found) => {
            // The find has decided by the same revision whether something changed, and has withdrawn the
            // claim where nobody could confirm it.
            let sent = if found.not_modified { query.rev.as_str() } else { "" };
            let bodies = found.services.iter().filter_map(|view| view.answer());
            (Outcome::found(sent, found.rev, bodies), found.resolution)
        }
        Err(error) => (Outcome::Failed(Failure::from(error).into()), None),
    }
}

async fn get_each(
    api: &Api,
    caller: &Caller,
    ids: Vec<(InstanceId, String)>,
    answer: &mut BatchReply,
) -> Result<(), Failure> {
    for (index, (ids, rev)) in ids.into_iter().enumerate() {
        let service = caller.service(&ids.service_id);
        let outcome = match api.registry().get_instance(caller, &service, &ids.instance_id, &[], &rev).await {
            Ok(found) => {
                let sent = if found.not_modified { rev.as_str() } else { "" };
                Outcome::found_one(sent, found.rev, found.instance.json())
            }
            Err(error) => Outcome::Failed(Failure::from(error).into()),
        };
        answer.add(List::Instances, index, outcome)?;
    }
    Ok(())
}
