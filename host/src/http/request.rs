//! What tells one request from all others: an id, and, where it is asked for, a line in the log.
//!
//! In: the head of a request. Out: the same with the header `X-Request-Id`, so that whoever passes it on passes the id
//! on too; the answer with the same header; and one line of the target `access` with what an operator may see:
//! never a query, a header or a body, in which there may be secrets.
//!
//! A client's own id is kept when it is one (letters, digits, `-`, `_`, `.`, at most 64); anything else is replaced,
//! because ids stand in logs.

use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tracing::info;

/// The header with a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a client's id at most.
const ID_LENGTH: usize = 64;
/// Characters of a path that are logged.
const ROUTE_LENGTH: usize = 256;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The id of the request that is being answered by this task, if any.
pub fn request_id() -> Option<String> {
    CURRENT.try_with(|id| id.to_str().unwrap_or_default().to_owned()).ok()
}

/// The words of an error with the id of the request that met it, by which its lines in the logs are found.
pub fn with_request_id(words: &str) -> String {
    match request_id() {
        Some(id) if words.is_empty() => format!("request {id}"),
        Some(id) => format!("{words} (request {id})"),
        None => words.to_owned(),
    }
}

/// A request from its head to the head of its answer.
pub(super) struct Noted {
    id: HeaderValue,
    line: Option<Line>,
}

/// What a line in the log says of a request.
struct Line {
    listener: &'static str,
    method: Method,
    route: String,
    began: Instant,
}

impl Noted {
    /// Gives a request its id.
    pub(super) fn begin<B>(request: &mut Request<B>, listener: &'static str, logged: bool) -> Self {
        let id = own_id(request.headers()).unwrap_or_else(new_id);
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let line = logged.then(|| Line {
            listener,
            method: request.method().clone(),
            route: request.uri().path().chars().take(ROUTE_LENGTH).collect(),
            began: Instant::now(),
        });
        Self { id, line }
    }

    /// Answers the request; all that happens meanwhile in this task knows its id.
    pub(super) async fn answer<B, E>(
        self,
        answering: impl Future<Output = Result<Response<B>, E>>,
    ) -> Result<Response<B>, E> {
        let mut answer = CURRENT.scope(self.id.clone(), answering).await;
        if let Some(line) = &self.line {
            line.write(&self.id, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
        }
        if let Ok(answer) = &mut answer {
            answer.headers_mut().insert(REQUEST_ID, self.id);
        }
        answer
    }
}

impl Line {
    fn write(&self, id: &HeaderValue, status: Option<u16>) {
        let duration_ms = self.began.elapsed().as_secs_f64() * 1e3;
        let (listener, method, route) = (self.listener, self.method.as_str(), self.route.as_str());
        let id = id.to_str().unwrap_or_default();
        match status {
            Some(status) => {
                info!(target: "access", listener, method, route, status, duration_ms, request.id = id, "a request was answered");
            }
            None => {
                info!(target: "access", listener, method, route, duration_ms, request.id = id, "a request was left without an answer");
            }
        }
    }
}

fn own_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&REQUEST_ID)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let good = (1..=ID_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(plain);
    good.then(|| id.clone())
}

fn new_id() -> HeaderValue {
    HeaderValue::try_from(format!("{:016x}", fastrand::u64(..))).expect("hexadecimal digits are a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(id: Option<&str>) -> (Noted, Request<()>) {
        let mut request = Request::new(());
        if let Some(id) = id {
            request
                .headers_mut()
                .insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).expect("a value"));
        }
        (Noted::begin(&mut request, "api", false), request)
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
            let (noted, request) = begun(sent);
            let passed_on = request.headers()[&REQUEST_ID].clone();
            let seen = async { Ok::<_, ()>(Response::new(request_id().expect("within a request"))) };
            let answer = noted.answer(seen).await.expect("an answer");
            assert_eq!(answer.headers()[&REQUEST_ID], passed_on);
            assert_eq!(answer.body().as_bytes(), passed_on.as_bytes());
            assert_eq!(Some(answer.body().as_str()) == sent, kept, "{sent:?}");
        }
        assert_eq!(request_id(), None);
    }

    #[tokio::test]
    async fn an_error_names_the_request() {
        let (noted, _) = begun(Some("r1"));
        let words = async { Ok::<_, ()>(Response::new([with_request_id("no etcd"), with_request_id("")])) };
        let answer = noted.answer(words).await.expect("an answer");
        assert_eq!(answer.body(), &["no etcd (request r1)".to_owned(), "request r1".to_owned()]);
        assert_eq!(with_request_id("no etcd"), "no etcd", "outside of any request");
    }
}
