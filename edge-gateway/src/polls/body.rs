//! The body of a find's answer, watched until the connection has taken it.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};

use super::Flight;

/// The answer of a find that has content, whose end is noted.
pub(crate) fn followed(answer: Response<Body>, flight: Option<Flight>) -> Response<Body> {
    let Some(flight) = flight else { return answer };
    if answer.body().is_end_stream() {
        flight.taken();
        return answer;
    }
    answer.map(|body| Body::new(Followed { body, flight: Some(flight) }))
}

struct Followed {
    body: Body,
    flight: Option<Flight>,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let is_whole = match &frame {
            None => true,
            // A server need not ask again after the last one.
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if is_whole && let Some(flight) = self.flight.take() {
            flight.taken();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
