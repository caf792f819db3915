//! Writes of Eureka's clients as requests of the registry's API.
//!
//! An operation takes several requests, and each of them can be sent again: what a client repeats after a
//! failure, at this gateway or another, ends in the same state.

use std::sync::Arc;

use axum::body::Body;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::json;
use shared::model::{Instance, ServiceRef};

use super::super::refusal;
use super::call::{instance, instances_of};
use super::{Answered, Asking, Client, nothing_there, status};
use crate::eureka::{self, Info, Member, RECORD, Status};

/// Bytes of a registration. The registry takes 60 KiB, and a little is said in other words there.
const MAX_BODY: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    service_id: String,
}

#[derive(Deserialize)]
struct Overridden {
    reported: Instance,
}

impl Asking<'_> {
    /// `POST /apps/{app}`: a service, if it is not there, and an instance.
    pub(super) async fn register(&self, client: &Client, app: &str, body: Body) -> Answered {
        let kind = client.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().contains("json") || client.headers.contains_key(CONTENT_ENCODING) {
            return Err(status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Err(refusal::bad_request("the body broke off, or has more than 64 KiB"));
        };
        let mut info = eureka::read(&body.to_bytes()).map_err(|problem| refusal::bad_request(&problem))?;
        check(&mut info, app).map_err(refusal::bad_request)?;

        let name = eureka::service_name(&info);
        let service = json!({ "service": {
            "appId": self.place.scope.app_id,
            "environment": self.place.scope.environment,
            "serviceName": name,
            "version": eureka::service_version(&info),
            "registerBy": "SDK",
            "framework": { "name": "Eureka" },
        } });
        let created: Option<Created> =
            self.call(client, Method::POST, "/microservices", Some(&service)).await?;
        let service = ServiceRef::new(self.tenant.clone(), created.ok_or_else(nothing_there)?.service_id);
        self.register_instance(client, &service, &mut info).await?;
        self.end_earlier(client, &service, app, &info).await?;
        Ok(status(StatusCode::NO_CONTENT))
    }

    /// An instance as it reports itself. What an operator's override shows would become the instance's own if
    /// it were written back, and outlive the override.
    async fn reported(&self, client: &Client, path: &str) -> Answered<Option<Instance>> {
        let found: Option<Overridden> =
            self.call(client, Method::GET, &format!("{path}/overrides"), None).await?;
        Ok(found.map(|found| found.reported))
    }

    async fn register_instance(
        &self,
        client: &Client,
        service: &ServiceRef,
        info: &mut Info,
    ) -> Answered<()> {
        let id = eureka::registry_id(&info.instance_id);
        let path = instance(service, &id);
        let before = self.reported(client, &path).await?;
        let mut earlier_status = None;
        if let Some(before) = &before {
            if let Some(record) = eureka::record_of(before) {
                // An older request has come late, over another way.
                let is_late = info.last_dirty > 0 && record.last_dirty > info.last_dirty;
                if is_late && self.order(client, Method::PUT, &format!("{path}/heartbeat"), None).await? {
                    return Ok(());
                }
                info.overridden = record.overridden.or(info.overridden);
            }
            earlier_status = Some(Status::of_registry(&before.status));
        }
        let wanted = eureka::status_after(info.status, info.overridden, earlier_status);
        let mut registered = eureka::to_instance(info, wanted);
        registered.service_id.clone_from(&service.id);
        let body = json!({ "instance": registered });
        if !self.order(client, Method::POST, &instances_of(&service.id), Some(&body)).await? {
            // The service was deleted a moment ago.
            return Err(refusal::unavailable("the service was deleted meanwhile; try again"));
        }
        // For an instance that is alive, a registration leaves the status as it is.
        if earlier_status.is_some_and(|earlier| earlier != wanted) {
            self.put_status(client, &path, wanted).await?;
        }
        Ok(())
    }

    /// Ends the registration of the same client as another version of its service: it is one instance, and
    /// would be called twice until the other has expired.
    async fn end_earlier(
        &self,
        client: &Client,
        service: &ServiceRef,
        app: &str,
        info: &Info,
    ) -> Answered<()> {
        let services = self.followed().await?.now();
        let own = (app, info.instance_id.as_str());
        for earlier in eureka::earlier_of(services.iter(), &self.place.scope, own, service) {
            self.order(client, Method::DELETE, &path_of(&earlier), None).await?;
        }
        Ok(())
    }

    /// `PUT /apps/{app}/{id}`: a heartbeat. 404 makes the client register again, which it is told too when it
    /// has changed since it registered.
    pub(super) async fn renew(&self, client: &Client, app: &str, id: &str) -> Answered {
        let dirty = client.parameter("lastDirtyTimestamp").and_then(|dirty| dirty.parse::<u64>().ok());
        let is_current = |member: &Member| {
            let record = eureka::record_of(&member.instance);
            record.is_none_or(|record| dirty.is_none_or(|dirty| dirty <= record.last_dirty))
        };
        let member = self.member(app, id, is_current).await?;
        let is_there = |member: &Arc<Member>| is_current(member) && self.may_see(member);
        let member = member.filter(is_there).ok_or_else(nothing_there)?;
        let path = format!("{}/heartbeat", path_of(&member));
        match self.order(client, Method::PUT, &path, None).await? {
            true => Ok(status(StatusCode::OK)),
            false => Err(nothing_there()),
        }
    }

    /// `DELETE /apps/{app}/{id}`.
    pub(super) async fn cancel(&self, client: &Client, app: &str, id: &str) -> Answered {
        let member = self.registered(app, id).await?;
        match self.order(client, Method::DELETE, &path_of(&member), None).await? {
            true => Ok(status(StatusCode::OK)),
            false => Err(nothing_there()),
        }
    }

    /// `PUT /apps/{app}/{id}/status?value=`: a status against the instance's own, until it is taken back.
    pub(super) async fn set_status(&self, client: &Client, app: &str, id: &str) -> Answered {
        let value = client.parameter("value").unwrap_or_default();
        let value = Status::of_word(&value).ok_or_else(|| refusal::bad_request("`value` is no status"))?;
        let set = Some(value).filter(|value| *value != Status::Unknown);
        self.override_status(client, app, id, set, set).await
    }

    /// `DELETE /apps/{app}/{id}/status`: takes the status back. The instance has its own again.
    pub(super) async fn clear_status(&self, client: &Client, app: &str, id: &str) -> Answered {
        let value = client.parameter("value").and_then(|value| Status::of_word(&value));
        let suggested = value.filter(|value| *value != Status::Unknown);
        self.override_status(client, app, id, None, suggested).await
    }

    async fn override_status(
        &self,
        client: &Client,
        app: &str,
        id: &str,
        overridden: Option<Status>,
        next: Option<Status>,
    ) -> Answered {
        let member = self.registered(app, id).await?;
        let path = path_of(&member);
        let now = self.reported(client, &path).await?;
        let now = now.ok_or_else(nothing_there)?;
        let mut own = Status::Up;
        if let Some(mut record) = eureka::record_of(&now) {
            own = record.own_status;
            record.overridden = overridden;
            let properties = eureka::properties_with(&now, &record, []);
            // First: a failure in between leaves the status as it was, and the client tries again.
            let body = json!({ "properties": properties });
            self.order(client, Method::PUT, &format!("{path}/properties"), Some(&body)).await?;
        }
        self.put_status(client, &path, next.unwrap_or(own)).await?;
        Ok(status(StatusCode::OK))
    }

    async fn put_status(&self, client: &Client, path: &str, wanted: Status) -> Answered<()> {
        // A client that says nothing of its status wants to be called.
        let word = wanted.for_registry().unwrap_or("UP");
        match self.order(client, Method::PUT, &format!("{path}/status?value={word}"), None).await? {
            true => Ok(()),
            false => Err(nothing_there()),
        }
    }

    /// `PUT /apps/{app}/{id}/metadata?key=value`: adds to the metadata.
    pub(super) async fn set_metadata(&self, client: &Client, app: &str, id: &str) -> Answered {
        let member = self.registered(app, id).await?;
        let path = path_of(&member);
        let now = self.reported(client, &path).await?;
        let now = now.ok_or_else(nothing_there)?;
        let named = form_urlencoded::parse(client.query.as_bytes());
        let entries: Vec<(String, String)> = named
            .filter(|(name, _)| name != RECORD && !name.is_empty())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let properties = match eureka::record_of(&now) {
            Some(record) => eureka::properties_with(&now, &record, entries),
            None => now.properties.into_iter().chain(entries).collect(),
        };
        let body = json!({ "properties": properties });
        match self.order(client, Method::PUT, &format!("{path}/properties"), Some(&body)).await? {
            true => Ok(status(StatusCode::OK)),
            false => Err(nothing_there()),
        }
    }

    async fn registered(&self, app: &str, id: &str) -> Answered<Arc<Member>> {
        let member = self.member(app, id, |_| true).await?;
        // A refusal would say that it exists.
        member.filter(|member| self.may_see(member)).ok_or_else(nothing_there)
    }
}

fn path_of(member: &Member) -> String {
    instance(&member.service, &member.instance.instance_id)
}

/// Checks what Eureka's server checks, and what an endpoint of the registry needs.
fn check(info: &mut Info, app: &str) -> Result<(), &'static str> {
    if info.host_name.is_empty() {
        return Err("`hostName` is missing");
    }
    if info.ip_addr.is_empty() {
        return Err("`ipAddr` is missing");
    }
    if info.app != app {
        return Err("`app` is not the application of the path");
    }
    // Old clients have no id of their own.
    if info.instance_id.is_empty() {
        info.instance_id.clone_from(&info.host_name);
    }
    if info.instance_id.len() > 256 {
        return Err("`instanceId` has more than 256 bytes");
    }
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if info.ip_addr.len() > 255 || !info.ip_addr.bytes().all(is_host) {
        return Err("`ipAddr` is no address");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_needs_what_eureka_needs() {
        let good = Info {
            app: "ORDERS".into(),
            host_name: "n".into(),
            ip_addr: "10.0.0.1".into(),
            ..Info::default()
        };
        let mut named = good.clone();
        check(&mut named, "ORDERS").expect("whole");
        assert_eq!(named.instance_id, "n", "a client without an id is its host");
        let broken: [fn(&mut Info); 5] = [
            |info| info.host_name.clear(),
            |info| info.ip_addr.clear(),
            |info| info.ip_addr = "10.0.0.1/?a".into(),
            |info| info.app = "OTHER".into(),
            |info| info.instance_id = "i".repeat(257),
        ];
        for spoil in broken {
            let mut bad = good.clone();
            spoil(&mut bad);
            check(&mut bad, "ORDERS").expect_err("is refused");
        }
    }
}
