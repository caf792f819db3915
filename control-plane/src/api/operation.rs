//! One operation of the API, declared once: how it is answered, and what its document says.
//!
//! [`Routes`] takes declarations in and gives out the router and the document, so that neither can have what the
//! other has not.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use tower::util::MapResponseLayer;

use super::Api;
use super::guard::ApiName;
use super::openapi;
use crate::failure::Code;

/// How the schema of a body is made.
pub(super) type SchemaOf = Box<dyn Fn(&mut SchemaGenerator) -> Schema>;

/// The schema of a type.
pub(super) fn of<T: JsonSchema>() -> SchemaOf {
    Box::new(|generator| generator.subschema_for::<T>())
}

/// The schema of an object with the given members, each of them optional: empty means absent.
macro_rules! object {
    ($($member:literal: $kind:ty),* $(,)?) => {{
        let schema: $crate::api::operation::SchemaOf = Box::new(|_generator| {
            let members: [(&str, serde_json::Value); _] =
                [$(($member, _generator.subschema_for::<$kind>().to_value())),*];
            let members = serde_json::Map::from_iter(members.map(|(name, kind)| (name.to_owned(), kind)));
            schemars::json_schema!({ "type": "object", "properties": members })
        });
        schema
    }};
}
pub(super) use object;

/// A parameter of the query, or a header of the request: name and meaning.
pub(super) type Parameter = (&'static str, &'static str);

/// What a success carries.
pub(super) enum Gives {
    /// Nothing.
    Nothing,
    /// JSON.
    Json(SchemaOf),
    /// A page.
    Html,
}

/// One operation.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// The name that metrics call it by.
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    /// Its answer depends on who asks.
    pub(super) for_consumer: bool,
    pub(super) takes: Option<SchemaOf>,
    pub(super) gives: Gives,
    /// A header of a success: name and meaning.
    pub(super) header: Option<Parameter>,
    /// The answer has a revision, and is left out for those who have it.
    pub(super) revision: bool,
    /// What it refuses with, beside what every operation may.
    pub(super) refuses: &'static [Code],
    /// It answers alike for every tenant, and cannot refuse a parameter.
    pub(super) tenantless: bool,
    route: MethodRouter<Api>,
}

/// One function for each method, which declares the answer to it.
macro_rules! methods {
    ($($name:ident $method:ident)*) => {$(
        #[doc = concat!("Declares the answer to ", stringify!($method), ".")]
        pub(super) fn $name<H, T>(
            path: &'static str,
            handler: H,
            name: &'static str,
            summary: &'static str,
        ) -> Operation
        where
            H: Handler<T, Api>,
            T: 'static,
        {
            Operation::new(Method::$method, path, on(MethodFilter::$method, handler), name, summary)
        }
    )*};
}
methods! { get GET post POST put PUT delete DELETE }

impl Operation {
    fn new(
        method: Method,
        path: &'static str,
        route: MethodRouter<Api>,
        name: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            name,
            summary,
            query: &[],
            for_consumer: false,
            takes: None,
            gives: Gives::Nothing,
            header: None,
            revision: false,
            refuses: &[],
            tenantless: false,
            route: route.layer(named(name)),
        }
    }

    /// Its parameters in the query.
    pub(super) fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    /// It reads `X-ConsumerId`.
    pub(super) fn for_consumer(self) -> Self {
        Self { for_consumer: true, ..self }
    }

    /// The body of its request.
    pub(super) fn takes(self, schema: SchemaOf) -> Self {
        Self { takes: Some(schema), ..self }
    }

    /// The JSON of its success.
    pub(super) fn gives(self, schema: SchemaOf) -> Self {
        Self { gives: Gives::Json(schema), ..self }
    }

    /// Its success is a page.
    pub(super) fn gives_html(self) -> Self {
        Self { gives: Gives::Html, ..self }
    }

    /// A header of its success.
    pub(super) fn header(self, name: &'static str, meaning: &'static str) -> Self {
        Self { header: Some((name, meaning)), ..self }
    }

    /// Its answer has a revision.
    pub(super) fn with_revision(self) -> Self {
        Self { revision: true, ..self }
    }

    /// Why it may refuse, beside what every operation may refuse for.
    pub(super) fn refuses(self, refuses: &'static [Code]) -> Self {
        Self { refuses, ..self }
    }

    /// It answers alike for every tenant.
    pub(super) fn tenantless(self) -> Self {
        Self { tenantless: true, ..self }
    }
}

/// Gives a route the name that metrics call it by.
fn named(name: &'static str) -> MapResponseLayer<impl Fn(Response) -> Response + Clone> {
    MapResponseLayer::new(move |mut response: Response| {
        response.extensions_mut().insert(ApiName(name));
        response
    })
}

/// A part of the API that lies below a path of its own.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// The path.
    pub(super) base: &'static str,
    /// How documents group it.
    pub(super) tag: &'static str,
    /// Tells its operations from those of another part with the same name.
    pub(super) suffix: &'static str,
    /// Only clients of long ago use it.
    pub(super) deprecated: bool,
}

/// Operations on their way into a router and a document.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Api>,
    document: openapi::Document,
}

impl Routes {
    /// Adds operations below a path.
    pub(super) fn mount(mut self, part: Part, operations: Vec<Operation>) -> Self {
        for operation in operations {
            let path = format!("{}{}", part.base, operation.path);
            self.document.add(part, &path, &operation);
            self.router = self.router.route(&path, operation.route);
        }
        self
    }

    /// The router, which also serves the document and a page to read it on.
    pub(super) fn finish(self) -> Router<Api> {
        let document = Arc::new(OnceLock::<Bytes>::new());
        let written = document.clone();
        let serve = move || {
            let mut response = Response::new(Body::from(written.get().cloned().unwrap_or_default()));
            let json_type = HeaderValue::from_static("application/json; charset=UTF-8");
            response.headers_mut().insert(header::CONTENT_TYPE, json_type);
            std::future::ready(response)
        };
        let part = Part { base: "", tag: "About", suffix: "", deprecated: false };
        let page = get("/openapi", openapi::page, "OpenApiPage", "This API, to be read in a browser.");
        let json = get("/openapi.json", serve, "OpenApi", "This API as an OpenAPI 3.1 document.");
        let operations = vec![page.tenantless().gives_html(), json.tenantless().gives(object! {})];
        let Self { router, document: complete } = self.mount(part, operations);
        // It describes itself too, so it is written last. The cell is empty: nobody else has it yet.
        let _ = document.set(Bytes::from(complete.finish().to_string()));
        router
    }
}
