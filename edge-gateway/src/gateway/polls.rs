//! Finds as clients poll: each is followed from before its answer is made until the connection has taken it.

use std::net::SocketAddr;

use answer::Resolution;
use answer::resolution::ASK;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderValue, Request, Response, StatusCode};
use shared::model::{Revision, ServiceRef, Tenant};

use super::proxy::{FORWARDED_FOR, FoundServices};
use super::{GatewayParts, NoAnswer};
use crate::polls::{Asker, Flight, Given, followed};
use crate::reads::{Polled, consumer};

/// A read of instances that is followed, or any other request.
pub(super) struct Poll(Option<Following>);

struct Following {
    flight: Flight,
    polled: Polled,
    /// An answer of a control plane contains everything up to here.
    floor: Revision,
}

impl GatewayParts {
    /// A request begins, which may be one of a client that polls.
    pub(super) fn begin_poll(&self, request: &Request<Body>, tenant: &Tenant) -> Poll {
        let begin = || {
            let polled = Polled::read(request, tenant)?;
            // Without a consumer it is a tool that looks, and sends no requests to what it finds.
            let consumer = consumer(request.headers())?;
            let required = self.upstream.required_of(Some(tenant));
            let floor = match &self.reads {
                // The state of the last process may answer, and says nothing about now.
                Some(edge) if edge.reads.remembered().is_some() => Revision::ZERO,
                Some(edge) => required.min(edge.reads.floor(&ServiceRef::new(tenant.clone(), consumer))),
                None => required,
            };
            let words = || {
                let forwarded = request.headers().get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
                let query = request.uri().query().unwrap_or_default().split('&');
                // The client's own revision is no part of its question.
                let query = query.filter(|pair| !pair.starts_with("rev=")).map(str::as_bytes);
                forwarded.chain([&b" "[..], request.uri().path().as_bytes()]).chain(query).collect()
            };
            let asker = Asker {
                tenant,
                consumer,
                peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0),
                words: words(),
            };
            let flight = self.polls.begin(&asker, floor)?;
            Some(Following { flight, polled, floor: required })
        };
        Poll(begin())
    }

    /// Passes a request of this tenant on that has its place, and follows its answer.
    pub(super) async fn pass_on_poll(
        &self,
        mut request: Request<Body>,
        mut poll: Poll,
        tenant: &Tenant,
    ) -> Result<Response<Body>, NoAnswer> {
        if poll.0.as_ref().is_some_and(|poll| poll.polled == Polled::Find) {
            request.headers_mut().insert(ASK, HeaderValue::from_static("1"));
        }
        let mut answer = self.pass_on_in_place(request, Some(tenant)).await?;
        let resolution = resolution_of(&mut answer);
        poll.offer_forwarded(&answer, resolution.as_ref());
        Ok(poll.follow(answer))
    }
}

impl Poll {
    /// The answer has this content.
    pub(super) fn offer(&mut self, given: Given) {
        if let Some(poll) = &mut self.0 {
            poll.flight.offer(given);
        }
    }

    /// The answer is one of a control plane, which may have named the services of it.
    pub(super) fn offer_forwarded(&mut self, answer: &Response<Body>, resolution: Option<&Resolution>) {
        let Some(poll) = &mut self.0 else { return };
        if !is_answer(answer) {
            return;
        }
        let named = |service: &_| (Clone::clone(service), None);
        let (rev, services) = match (&poll.polled, resolution) {
            (Polled::Find, Some(resolution)) => {
                (resolution.rev.max(poll.floor), Some(resolution.services.iter().map(named).collect()))
            }
            (Polled::Of(service), _) => (poll.floor, Some(vec![named(service)])),
            (Polled::Find | Polled::Batch, _) => (poll.floor, None),
        };
        poll.flight.offer(Given { rev, services });
    }

    /// The answer, which is followed to its end.
    pub(super) fn follow(self, answer: Response<Body>) -> Response<Body> {
        followed(answer, self.0.map(|poll| poll.flight))
    }
}

/// The services that a control plane has named beside its answer.
pub(super) fn resolution_of(answer: &mut Response<Body>) -> Option<Resolution> {
    let FoundServices(services) = answer.extensions_mut().remove()?;
    Resolution::decode(&services).filter(|_| is_answer(answer))
}

/// The services that a control plane has named beside its answer to a batch, by the indexes of the elements.
pub(super) fn resolutions_of(answer: &mut Response<Body>) -> Vec<(usize, Resolution)> {
    let found: Option<FoundServices> = answer.extensions_mut().remove();
    let told = found.filter(|_| is_answer(answer));
    told.map(|FoundServices(services)| Resolution::decode_batch(&services)).unwrap_or_default()
}

fn is_answer(answer: &Response<Body>) -> bool {
    matches!(answer.status(), StatusCode::OK | StatusCode::NOT_MODIFIED)
}
