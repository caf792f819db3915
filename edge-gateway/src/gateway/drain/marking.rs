//! The marks of a drain, set and ended in its client's name: a control plane allows, makes and records them.
//!
//! A mark is an override with an id of its own, so what it hides is there again when it ends, whichever
//! gateway ends it. A control plane of an older version has no marks. There the status of the instance is
//! changed, as drains did before, and changed back at the end.

use std::collections::HashSet;

use axum::body::Body;
use futures_util::StreamExt as _;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use shared::model::{Revision, UP};

use super::client::Client;
use super::target::Wanted;
use super::{DRAINING, GatewayParts, NoAnswer, refusal};
use crate::gateway::proxy::WrittenAt;
use crate::survey::MOST_INSTANCES;

/// Writes that are under way at the same time.
const AT_ONCE: usize = 8;
/// Bytes of a list of instances that are read.
const MAX_LIST: usize = 64 << 20;
/// Bytes of an instance with its overrides that are read: twice the instance, and 65 of them.
const MAX_INSTANCE: usize = 4 << 20;
/// Bytes of a refusal that are read.
const MAX_REFUSAL: usize = 64 << 10;
/// The code of a refusal because there is no such instance.
const NO_INSTANCE: &str = "400017";

/// The instances that take no more traffic, and a revision that contains that.
pub(super) struct Marking {
    pub(super) rev: Revision,
    pub(super) instances: Vec<Marked>,
}

/// An instance that takes no more traffic.
pub(super) struct Marked {
    pub(super) id: String,
    pub(super) mark: Mark,
}

/// The way in which an instance is marked.
#[derive(Debug)]
pub(super) enum Mark {
    /// By an override of its own.
    Override,
    /// By its reported status, which was this before.
    Status(String),
}

/// An instance in a control plane's answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Listed {
    instance_id: String,
    status: String,
}

/// An instance as it reports itself and as clients see it, and the overrides that take it: of two that say
/// something, the first wins.
#[derive(Deserialize)]
struct Overridden {
    #[serde(default)]
    instance: Listed,
    reported: Listed,
    #[serde(default)]
    overrides: Vec<Wish>,
}

/// An override, as far as it concerns a drain.
#[derive(Deserialize)]
struct Wish {
    /// Empty for one that leaves the status.
    #[serde(default)]
    status: String,
}

impl Overridden {
    /// True if clients go on sending requests, whatever status the instance reports.
    fn stays_in_traffic(&self) -> bool {
        self.overrides.iter().find(|wish| !wish.status.is_empty()).is_some_and(|wish| wish.status == UP)
    }
}

/// An answer that ends the drain, because it is not a success.
type Refused = Response<Body>;
type Written = Result<Result<Revision, Refused>, NoAnswer>;

impl GatewayParts {
    /// Marks the instances as ones that take no traffic.
    pub(super) async fn mark(
        &self,
        client: &Client,
        wanted: &Wanted,
    ) -> Result<Result<Marking, Refused>, NoAnswer> {
        let ids = match &client.target.instance {
            Some(instance) => vec![decoded(instance)],
            None => match self.list(client).await? {
                Ok(listed) => listed.into_iter().map(|instance| instance.instance_id).collect(),
                Err(refused) => return Ok(Err(refused)),
            },
        };
        if ids.is_empty() {
            return Ok(Err(refusal::bad_request("the service has no instances to drain")));
        }
        if ids.len() > MOST_INSTANCES {
            return Ok(Err(refusal::bad_request(
                "a drain takes at most 512 instances; drain them one by one",
            )));
        }
        let marking = ids.into_iter().map(|id| async move {
            let outcome = self.mark_one(client, wanted, &id).await;
            (id, outcome)
        });
        let mut outcomes = futures_util::stream::iter(marking).buffer_unordered(AT_ONCE);
        let mut marking = Marking { rev: Revision::ZERO, instances: Vec::new() };
        let is_service = client.target.instance.is_none();
        while let Some((id, outcome)) = outcomes.next().await {
            let refused = match outcome? {
                Ok((rev, mark)) => {
                    marking.rev = marking.rev.max(rev);
                    marking.instances.push(Marked { id, mark });
                    continue;
                }
                Err(refused) => refused,
            };
            // One that has ended since the list was made needs no drain.
            match read(refused).await {
                (IsGone(true), _) if is_service => {}
                (_, refused) => return Ok(Err(refused)),
            }
        }
        if marking.instances.is_empty() {
            return Ok(Err(refusal::bad_request("the service has no instances to drain")));
        }
        Ok(Ok(marking))
    }

    async fn mark_one(
        &self,
        client: &Client,
        wanted: &Wanted,
        instance: &str,
    ) -> Result<Result<(Revision, Mark), Refused>, NoAnswer> {
        let path = format!("{}/drain?{}", client.path_of(instance), wanted.mark_query());
        let refused = match self.write(client, Method::PUT, &path).await? {
            Ok(rev) => return Ok(Ok((rev, Mark::Override))),
            Err(refused) => refused,
        };
        if !matches!(refused.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Ok(Err(refused));
        }
        // The control plane is of a version without marks.
        let found = match self.overridden(client, instance).await? {
            Ok(found) if found.stays_in_traffic() => {
                return Ok(Err(refusal::bad_request(
                    "an override keeps an instance UP, and the control plane is of a version without drains beside \
                     overrides; end the override, or have it say OUTOFSERVICE",
                )));
            }
            Ok(found) => found,
            Err(refused) => return Ok(Err(refused)),
        };
        let written = self.set_status(client, instance, DRAINING).await?;
        Ok(written.map(|rev| (rev, Mark::Status(found.reported.status))))
    }

    /// Gives an instance back: nothing of the drain is left.
    pub(super) async fn give_back(&self, client: &Client, marked: &Marked) -> Result<(), String> {
        let written = match &marked.mark {
            Mark::Override => {
                let path = format!("{}/drain", client.path_of(&marked.id));
                match self.write(client, Method::DELETE, &path).await {
                    // Somebody else has ended the mark, or its time has.
                    Ok(Err(refused)) if refused.status() == StatusCode::BAD_REQUEST => return Ok(()),
                    written => written,
                }
            }
            // Its own word: one that was out of service before stays so.
            Mark::Status(status) if status == DRAINING => return Ok(()),
            Mark::Status(status) => {
                let status = if status.is_empty() { UP } else { status };
                self.set_status(client, &marked.id, status).await
            }
        };
        done(written).await
    }

    /// The number of these instances that clients see taking no traffic: they report so, or an override says
    /// so. One that cannot be read does not count.
    pub(super) async fn count_out(&self, client: &Client, marked: &[Marked]) -> usize {
        let is_out = |instance: &Listed| !matches!(instance.status.as_str(), UP | "");
        // One instance is asked for alone: the list of its service may have thousands.
        if client.target.instance.is_some() {
            let mut out = 0;
            for instance in marked {
                if let Ok(Ok(found)) = self.overridden(client, &instance.id).await {
                    out += usize::from(is_out(&found.instance));
                }
            }
            return out;
        }
        let Ok(Ok(listed)) = self.list(client).await else { return 0 };
        let marked: HashSet<&str> = marked.iter().map(|instance| instance.id.as_str()).collect();
        listed
            .iter()
            .filter(|instance| marked.contains(instance.instance_id.as_str()) && is_out(instance))
            .count()
    }

    async fn overridden(
        &self,
        client: &Client,
        instance: &str,
    ) -> Result<Result<Overridden, Refused>, NoAnswer> {
        let path = format!("{}/overrides", client.path_of(instance));
        let Some(request) = client.request(Method::GET, &path) else {
            return Ok(Err(refusal::bad_request("the path is not one of an instance")));
        };
        let answer = self.pass_on(request).await?;
        if answer.status() != StatusCode::OK {
            return Ok(Err(answer));
        }
        let body = Limited::new(answer.into_body(), MAX_INSTANCE).collect().await;
        let found = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
        Ok(found.ok_or_else(|| refusal::unavailable("an instance could not be read; try again")))
    }

    async fn set_status(&self, client: &Client, instance: &str, status: &str) -> Written {
        let path = format!("{}/status?value={status}", client.path_of(instance));
        self.write(client, Method::PUT, &path).await
    }

    /// Unregisters an instance.
    pub(super) async fn unregister(&self, client: &Client, marked: &Marked) -> Result<(), String> {
        done(self.write(client, Method::DELETE, &client.path_of(&marked.id)).await).await
    }

    async fn write(&self, client: &Client, method: Method, path: &str) -> Written {
        let Some(request) = client.request(method, path) else {
            return Ok(Err(refusal::bad_request("the path is not one of an instance")));
        };
        let answer = self.pass_on(request).await?;
        if !answer.status().is_success() {
            return Ok(Err(answer));
        }
        // Every control plane of a fitting version names it.
        let written = answer.extensions().get::<WrittenAt>().map(|WrittenAt(rev)| *rev);
        Ok(written.ok_or_else(|| {
            refusal::unavailable("the control plane did not say at which revision it has written")
        }))
    }

    /// The instances of the service that is drained.
    async fn list(&self, client: &Client) -> Result<Result<Vec<Listed>, Refused>, NoAnswer> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct List {
            instances: Vec<Listed>,
        }
        let path = format!("{}/instances", client.target.base);
        let Some(request) = client.request(Method::GET, &path) else {
            return Ok(Err(refusal::bad_request("the path is not one of a service")));
        };
        let answer = self.pass_on(request).await?;
        if answer.status() != StatusCode::OK {
            return Ok(Err(answer));
        }
        let body = Limited::new(answer.into_body(), MAX_LIST).collect().await;
        let list = body.ok().and_then(|body| serde_json::from_slice::<List>(&body.to_bytes()).ok());
        Ok(match list {
            Some(List { instances }) => Ok(instances),
            None => Err(refusal::unavailable("the list of instances could not be read; try again")),
        })
    }
}

/// The outcome of the last step for one instance. One that has ended by itself needs none.
async fn done(written: Written) -> Result<(), String> {
    match written {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refused)) => match read(refused).await {
            (IsGone(true), _) => Ok(()),
            (_, refused) => Err(format!("a control plane answered {}", refused.status())),
        },
        Err(error) => Err(error.to_string()),
    }
}

/// True when the reason of a refusal is that there is no such instance.
struct IsGone(bool);

/// Reads the reason of a refusal.
async fn read(refused: Refused) -> (IsGone, Refused) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Code {
        error_code: String,
    }
    if refused.status() != StatusCode::BAD_REQUEST {
        return (IsGone(false), refused);
    }
    let (head, body) = refused.into_parts();
    let Ok(body) = Limited::new(body, MAX_REFUSAL).collect().await else {
        return (
            IsGone(false),
            refusal::unavailable("the answer of a control plane could not be read; try again"),
        );
    };
    let body = body.to_bytes();
    let is_gone = serde_json::from_slice(&body).is_ok_and(|Code { error_code }| error_code == NO_INSTANCE);
    (IsGone(is_gone), Response::from_parts(head, Body::from(body)))
}

/// The id in a segment of a path. One that is not text is refused by the control plane.
fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}
