//! Compression of responses for clients that accept gzip.

use answer::{gzip, tag};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use host::http::HeldBytes;
use http::header;
use http_body_util::BodyExt;

use crate::api::failure::Failure;
use crate::api::reply::{Prepared, PreparedList};

/// The same response with its body compressed.
pub(super) async fn compressed(response: Response) -> Response {
    let extensions = response.extensions();
    let prepared = extensions
        .get::<Prepared>()
        .map(Prepared::gzip)
        .or_else(|| extensions.get::<PreparedList>().map(PreparedList::gzip));
    let (mut parts, body) = response.into_parts();
    let compressed = match prepared {
        Some(compressed) => compressed,
        None => match compress(body).await {
            Ok(compressed) => compressed,
            Err(failure) => return failure.into_response(),
        },
    };
    if let Some(tag) = parts.headers.get(header::ETAG) {
        let tag = tag::of_gzip(tag);
        parts.headers.insert(header::ETAG, tag);
    }
    gzip::mark(&mut parts.headers);
    HeldBytes::of(&compressed).on(Response::from_parts(parts, Body::from(compressed)))
}

async fn compress(body: Body) -> Result<Bytes, Failure> {
    let body = body.collect().await.map_err(|error| Failure::internal(&error))?.to_bytes();
    Ok(gzip::once(&body))
}
