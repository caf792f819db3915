//! The console: pages for people, served beside the API of every plane.
//!
//! In: the method, path and headers of a request, before anything else has looked at it. Out: a response for
//! the paths of the console, and nothing for all others. The files are part of the program and contain no
//! data of the registry, so they need no token: what the pages show they request over the API, like every
//! client.
//!
//! The files are made from `console/web`; see `docs/console.md`.

use axum::body::Body;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use settings::Settings;

mod files;

use files::File;

/// The path of the console.
const PATH: &str = "/console";

/// The rules of a page, for its browser: nothing of another origin, nothing inline, no frame around it. What
/// a page shows comes from clients of the registry, and these headers see to it that none of that becomes a
/// script.
const RULES: [(HeaderName, &str); 7] = [
    (
        http::header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (http::header::X_FRAME_OPTIONS, "DENY"),
    (http::header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// The console of a process, or the word that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    is_on: bool,
}

impl Default for Console {
    fn default() -> Self {
        Self { is_on: true }
    }
}

impl Console {
    /// Declares the setting `console`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let help = "Serve the console, the pages for people, at /console/ of the API port, and lead browsers there from /.";
        Self { is_on: settings.get("console", "true", help) }
    }

    /// A console that is not served.
    pub fn off() -> Self {
        Self { is_on: false }
    }

    /// The answer to a request of a browser; `None` for every request that is not for the console.
    ///
    /// While the console is off, its paths do not exist. They are not passed on either, so a gateway does not
    /// show the console of a control plane behind it.
    pub fn answer<B>(self, request: &Request<B>) -> Option<Response<Body>> {
        let path = request.uri().path();
        let Some(below) = path.strip_prefix(PATH) else {
            let is_of_person =
                path == "/" && *request.method() == Method::GET && wants_a_page(request.headers());
            // A control plane behind a gateway would lead the browser to the page that is not here.
            return is_of_person.then(|| if self.is_on { lead_on() } else { no_page() });
        };
        // Compared as it was sent: a path that is written in another way is another path.
        let name = match below {
            "" => None,
            _ => Some(below.strip_prefix('/')?),
        };
        if !self.is_on {
            return Some(no_page());
        }
        let is_head = *request.method() == Method::HEAD;
        if !is_head && *request.method() != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        let mut response = match name.map(files::named) {
            None => lead_on(),
            Some(Some(file)) => serve(file, request.headers()),
            Some(None) => no_page(),
        };
        if is_head {
            *response.body_mut() = Body::empty();
        }
        Some(response)
    }
}

/// True for a person's browser. Programs accept anything, or JSON.
fn wants_a_page(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = values.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html")))
}

fn no_page() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Leads a browser to the console. The address is a relative one, so it is right behind a proxy that serves
/// the registry below a path of its own.
fn lead_on() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("console/"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

fn serve(file: &'static File, headers: &HeaderMap) -> Response<Body> {
    let zipped = answer::gzip::is_accepted(headers);
    let content = file.content(zipped);
    let mut response = Response::new(Body::empty());
    let is_known = answer::tag::is_named(headers, &content.tag);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Body::from(content.bytes.clone());
    }
    let headers = response.headers_mut();
    for (name, value) in RULES {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // The names of the files stay the same, so a browser must ask. In a rolling upgrade a page of one version
    // then loads the script of another, and works: with names of their own, the old script would be missing.
    answer::tag::mark(headers, &content.tag);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    if !is_known {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(content.bytes.len()));
        if zipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    response
}

#[cfg(test)]
mod tests;
