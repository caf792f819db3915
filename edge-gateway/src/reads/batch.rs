//! Batches of questions that may be answered here, read as a control plane reads them.

use answer::batch::{Batch, InstanceElement, List, ServiceElement};
use bytes::Bytes;
use http::{Method, Request};
use http_body::Body;
use shared::model::{ServiceRef, Tenant, is_service_id};

use super::question::{About, Asked, AskedLabels, Reader, registry_path};

/// Bytes of a body that is read here, about a thousand elements. A larger one goes to a control plane as it
/// is.
const MOST_BYTES: u64 = 128 << 10;
/// Elements of a batch that is answered here: as many as finds of one consumer are known.
const MOST_ELEMENTS: usize = super::lease::MOST_RESOLUTIONS;
/// A batch finds by the name alone, and not by an alias as a single find does.
const BY_NAME: &str = "\0by-name";

/// A batch of questions of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Questions {
    /// The consumer that asks.
    pub(crate) reader: Reader,
    /// One question: the list of the request, the index in it, and the question itself.
    pub(crate) asked: Vec<(List, usize, Asked)>,
}

/// The consumer that asks for a batch whose body is worth reading. `None` if only a control plane answers it.
pub(crate) fn asker<B: Body>(request: &Request<B>, tenant: &Tenant) -> Option<Reader> {
    let path = request.uri().path();
    // The older version of the API has no batches.
    let is_batch = *request.method() == Method::POST
        && path.starts_with("/v4/")
        && registry_path(path) == Some("instances/action");
    if !is_batch || request.body().size_hint().exact().is_none_or(|length| length > MOST_BYTES) {
        return None;
    }
    let (reader, query) = Reader::read(request, tenant)?;
    (query.get("type") == "query").then_some(reader)
}

impl Questions {
    /// The questions of a body. `None` for one that only a control plane answers, or refuses.
    pub(crate) fn read(reader: Reader, body: &Bytes) -> Option<Self> {
        let Batch { services, instances } = Batch::read(body)?;
        if !(1..=MOST_ELEMENTS).contains(&(services.len() + instances.len())) {
            return None;
        }
        let mut asked = Vec::with_capacity(services.len() + instances.len());
        for (index, element) in services.into_iter().enumerate() {
            asked.push((List::Services, index, by_name(element)?));
        }
        for (index, element) in instances.into_iter().enumerate() {
            asked.push((List::Instances, index, by_id(element, &reader.consumer.tenant)?));
        }
        Some(Self { reader, asked })
    }
}

fn by_name(ServiceElement { service, rev }: ServiceElement) -> Option<Asked> {
    let key = service?;
    let labels =
        AskedLabels { environment: key.environment, app_id: key.app_id, service_name: key.service_name };
    Asked::find(labels, &key.version, rev, BY_NAME)
}

fn by_id(InstanceElement { instance, rev }: InstanceElement, tenant: &Tenant) -> Option<Asked> {
    let ids = instance?;
    // What a control plane would refuse is left to it; an instance's id has no form that a service's has not.
    if ![&ids.service_id, &ids.instance_id].into_iter().all(|id| is_service_id(id)) {
        return None;
    }
    let service = ServiceRef::new(tenant.clone(), ids.service_id);
    Some(Asked { about: About::One { service, instance: ids.instance_id }, labels: None, rev })
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    const PATH: &str = "/v4/default/registry/instances/action?type=query";

    fn read(method: Method, path: &str, body: &str) -> Option<Questions> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let request = Request::builder().method(method).uri(path).header("x-consumerid", "c");
        let request = request.body(Full::new(body.clone())).expect("a request");
        Questions::read(asker(&request, &Tenant::default())?, &body)
    }

    #[test]
    fn each_element_is_a_question() {
        let body = r#"{"services":[{"service":{"appId":"a","serviceName":"b","version":"0+","alias":"x"}},
            {"service":{"serviceName":"b","environment":"e"},"rev":"7"}],
            "instances":[{"instance":{"serviceId":"s","instanceId":"i"},"rev":"8"}]}"#;
        let questions = read(Method::POST, PATH, body).expect("questions");
        let about: Vec<_> = questions
            .asked
            .iter()
            .map(|(list, index, asked)| (*list, *index, asked.about.clone(), asked.rev.as_str()))
            .collect();
        let find = |key: &str| About::Find { key: key.into() };
        let service = ServiceRef::new(Tenant::default(), "s");
        assert_eq!(
            about,
            [
                (List::Services, 0, find("a\0b\x000+\0\0by-name"), ""),
                (List::Services, 1, find("\0b\0\0e\0by-name"), "7"),
                (List::Instances, 0, About::One { service, instance: "i".into() }, "8"),
            ]
        );
    }

    #[test]
    fn every_other_batch_is_for_a_control_plane() {
        let body = r#"{"services":[{"service":{"serviceName":"b"}}]}"#;
        assert!(read(Method::POST, PATH, body).is_some());
        let many = format!(r#"{{"services":[{}]}}"#, vec![r#"{"service":{}}"#; MOST_ELEMENTS + 1].join(","));
        for (method, path, body) in [
            (Method::PUT, PATH, body),
            (Method::POST, "/registry/v3/instances/action?type=query", body),
            (Method::POST, "/v4/default/registry/instances/action", body),
            (Method::POST, "/v4/default/registry/instances/action?type=Query", body),
            (Method::POST, &format!("{PATH}&noCache=1"), body),
            (Method::POST, "/v4/default/registry/instances", body),
            (Method::POST, PATH, ""),
            (Method::POST, PATH, "{}"),
            (Method::POST, PATH, r#"{"services":[{"service":null}]}"#),
            (Method::POST, PATH, r#"{"services":[{"service":{"serviceName":"a\u0000b"}}]}"#),
            (Method::POST, PATH, r#"{"instances":[{"instance":{"serviceId":"s"}}]}"#),
            (Method::POST, PATH, &many),
            (Method::POST, PATH, &format!("{body}{}", " ".repeat(128 << 10))),
        ] {
            assert_eq!(read(method, path, body), None, "{path}");
        }
    }
}
