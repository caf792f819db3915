//! The identity of a request: an id, a span, and a line in the access log if that is on.
//!
//! In: the head of a request. Out: the same head with the header `X-Request-Id`, so that a proxy passes the
//! id on; the answer with the same header; a log line with the target `access`. Logs and spans contain no
//! query, no header and no body, because these may hold secrets.
//!
//! A client's id is kept if it has 1 to 64 letters, digits, `-`, `_` or `.`. Any other id is replaced,
//! because ids appear in logs.

use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tracing::{Span, debug_span, info};

/// The header with a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client that is kept, in characters.
const ID_LENGTH: usize = 64;
/// The part of a path that is logged, in characters.
const ROUTE_LENGTH: usize = 256;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The id of the request that the current task is answering; `None` outside of a request.
pub fn request_id() -> Option<String> {
    CURRENT.try_with(|id| id.to_str().unwrap_or_default().to_owned()).ok()
}

/// Appends the id of the current request to the text of an error, so that the request's log lines
/// can be found.
pub fn with_request_id(words: &str) -> String {
    match request_id() {
        Some(id) if words.is_empty() => format!("request {id}"),
        Some(id) => format!("{words} (request {id})"),
        None => words.to_owned(),
    }
}

/// A request with its id, from the end of its head to the head of its answer.
pub(super) struct IdentifiedRequest {
    id: HeaderValue,
    /// `None` unless requests are logged: the fields cost allocations.
    line: Option<AccessLine>,
}

/// The fields of a request's line in the access log. The request itself is gone when the line is written.
struct AccessLine {
    listener: &'static str,
    method: Method,
    route: String,
    began: Instant,
}

impl IdentifiedRequest {
    /// Gives a request its id.
    pub(super) fn begin<B>(request: &mut Request<B>, listener: &'static str, logged: bool) -> Self {
        let id = id_of_client(request.headers()).unwrap_or_else(new_id);
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let line = logged.then(|| AccessLine {
            listener,
            method: request.method().clone(),
            route: request.uri().path().chars().take(ROUTE_LENGTH).collect(),
            began: Instant::now(),
        });
        Self { id, line }
    }

    /// The span of the request, at the level `debug`. When it is disabled, no field is evaluated.
    pub(super) fn span<B>(&self, request: &Request<B>) -> Span {
        debug_span!(
            "request",
            method = request.method().as_str(),
            path = request.uri().path(),
            request.id = self.id.to_str().unwrap_or_default(),
        )
    }

    /// Answers the request by running `answering`, within which [`request_id`] returns the id.
    pub(super) async fn answer<B, E>(
        self,
        answering: impl Future<Output = Result<Response<B>, E>>,
    ) -> Result<Response<B>, E> {
        let mut answer = CURRENT.scope(self.id.clone(), answering).await;
        if let Some(line) = &self.line {
            line.write(&self.id, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
        }
        if let Ok(answer) = &mut answer {
            // Replaces an id that a server behind us has set: the client must see the one that
            // is in our logs.
            answer.headers_mut().insert(REQUEST_ID, self.id);
        }
        answer
    }
}

impl AccessLine {
    fn write(&self, id: &HeaderValue, status: Option<u16>) {
        let duration_ms = self.began.elapsed().as_secs_f64() * 1e3;
        let listener = self.listener;
        let method = self.method.as_str();
        let route = self.route.as_str();
        let id = id.to_str().unwrap_or_default();
        // A missing field and an empty one are different in JSON, so there are two lines.
        match status {
            Some(status) => {
                info!(
                    target: "access",
                    listener,
                    method,
                    route,
                    status,
                    duration_ms,
                    request.id = id,
                    "a request was answered"
                );
            }
            None => {
                info!(
                    target: "access",
                    listener,
                    method,
                    route,
                    duration_ms,
                    request.id = id,
                    "a request was left without an answer"
                );
            }
        }
    }
}

/// The client's id, if it may stand in logs.
fn id_of_client(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&REQUEST_ID)?;
    let bytes = id.as_bytes();
    let is_harmless = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    ((1..=ID_LENGTH).contains(&bytes.len()) && is_harmless).then(|| id.clone())
}

fn new_id() -> HeaderValue {
    // 64 random bits: unique enough to find a request in the logs. Nothing relies on ids being
    // different or secret.
    HeaderValue::try_from(format!("{:016x}", fastrand::u64(..))).expect("hexadecimal digits are a value")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn begun(id: Option<&str>) -> (IdentifiedRequest, Request<()>) {
        let mut request = Request::new(());
        if let Some(id) = id {
            request
                .headers_mut()
                .insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).expect("a value"));
        }
        (IdentifiedRequest::begin(&mut request, "api", false), request)
    }

    #[tokio::test]
    async fn a_clients_id_is_kept_and_anything_else_replaced() {
        let long = "a".repeat(65);
        for (sent, kept) in [
            (Some("4bf92f3577b34da6"), true),
            (Some("a-b_c.D"), true),
            (Some(&long[..64]), true),
            (Some(long.as_str()), false),
            (Some(""), false),
            (Some("a b"), false),
            (Some("a\u{e9}"), false),
            (None, false),
        ] {
            let (identified, request) = begun(sent);
            let passed_on = request.headers()[&REQUEST_ID].clone();
            let seen = async { Ok::<_, ()>(Response::new(request_id().expect("within a request"))) };
            let answer = identified.answer(seen).await.expect("an answer");
            assert_eq!(answer.headers()[&REQUEST_ID], passed_on);
            assert_eq!(answer.body().as_bytes(), passed_on.as_bytes());
            assert_eq!(Some(answer.body().as_str()) == sent, kept, "{sent:?}");
        }
        assert_eq!(request_id(), None);
    }

    #[test]
    fn a_request_has_a_span_only_at_the_level_debug() {
        for (level, enabled) in [("info", false), ("debug", true)] {
            let subscriber = tracing_subscriber::registry().with(EnvFilter::new(level));
            tracing::subscriber::with_default(subscriber, || {
                let (identified, request) = begun(None);
                assert_eq!(!identified.span(&request).is_disabled(), enabled, "{level}");
            });
        }
    }

    #[tokio::test]
    async fn an_error_names_the_request() {
        let (identified, _) = begun(Some("r1"));
        let words = async { Ok::<_, ()>(Response::new([with_request_id("no etcd"), with_request_id("")])) };
        let answer = identified.answer(words).await.expect("an answer");
        assert_eq!(answer.body(), &["no etcd (request r1)".to_owned(), "request r1".to_owned()]);
        assert_eq!(with_request_id("no etcd"), "no etcd", "outside of any request");
    }
}
