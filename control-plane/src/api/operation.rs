//! One operation of the API, declared once: its handler and its description.
//!
//! Each resource's file declares its operations beside their handlers. [`Routes`] takes the declarations and
//! makes both the router and the OpenAPI document of them, so that neither can contain an operation that the
//! other lacks.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::handler::Handler;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use tower::util::MapResponseLayer;

use super::failure::Code;
use super::guard::{ApiName, OfNoTenant};
use super::openapi;
use super::state::Api;

/// A function that makes the schema of a body.
pub(super) type SchemaOf = Box<dyn Fn(&mut SchemaGenerator) -> Schema>;

/// The schema of a type.
pub(super) fn of<T: JsonSchema>() -> SchemaOf {
    Box::new(|generator| generator.subschema_for::<T>())
}

/// The schema of an object with the given members. Each is optional, because an empty member is absent.
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

/// A parameter of the query, or a header: its name and meaning.
pub(super) type Parameter = (&'static str, &'static str);

/// The body of a success.
pub(super) enum ResponseBody {
    Empty,
    Json(SchemaOf),
    Html,
}

/// One operation.
pub(super) struct Operation {
    pub(super) method: Method,
    /// The path below that of the operation's group.
    pub(super) path: &'static str,
    /// The name in metrics and in the document.
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    /// True when the reply depends on the consumer that `X-ConsumerId` names.
    pub(super) for_consumer: bool,
    pub(super) request: Option<SchemaOf>,
    pub(super) response: ResponseBody,
    /// A header of a success.
    pub(super) header: Option<Parameter>,
    /// True when the reply has a revision and is left out for a client that has sent the same one.
    pub(super) revision: bool,
    /// The codes with which this operation fails, beside those that every operation of a tenant has.
    pub(super) failures: &'static [Code],
    /// True when the reply is the same for every tenant and no parameter can be refused.
    pub(super) tenantless: bool,
    route: MethodRouter<Api>,
}

/// Makes one function for each method, with which a resource declares its operations.
macro_rules! methods {
    ($($name:ident $method:ident)*) => {$(
        #[doc = concat!("Declares an operation with the method ", stringify!($method), ".")]
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
            request: None,
            response: ResponseBody::Empty,
            header: None,
            revision: false,
            failures: &[],
            tenantless: false,
            route: route.layer(named(name)),
        }
    }

    /// Adds parameters of the query.
    pub(super) fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    /// Adds the header `X-ConsumerId`.
    pub(super) fn for_consumer(self) -> Self {
        Self { for_consumer: true, ..self }
    }

    /// Adds the body of the request.
    pub(super) fn takes(self, schema: SchemaOf) -> Self {
        Self { request: Some(schema), ..self }
    }

    /// Adds the JSON body of a success.
    pub(super) fn returns(self, schema: SchemaOf) -> Self {
        Self { response: ResponseBody::Json(schema), ..self }
    }

    /// Makes a page the body of a success.
    pub(super) fn returns_html(self) -> Self {
        Self { response: ResponseBody::Html, ..self }
    }

    /// Adds a header of a success.
    pub(super) fn header(self, name: &'static str, meaning: &'static str) -> Self {
        Self { header: Some((name, meaning)), ..self }
    }

    /// Adds the revision of the reply, and the status 304.
    pub(super) fn with_revision(self) -> Self {
        Self { revision: true, ..self }
    }

    /// Adds codes of failures to those that every operation of a tenant has.
    pub(super) fn fails_with(self, failures: &'static [Code]) -> Self {
        Self { failures, ..self }
    }

    /// Marks a reply that is the same for every tenant.
    pub(super) fn tenantless(self) -> Self {
        let marked = MapResponseLayer::new(|mut response: Response| {
            response.extensions_mut().insert(OfNoTenant);
            response
        });
        Self { tenantless: true, route: self.route.layer(marked), ..self }
    }
}

/// Adds the name that metrics use to the responses of a route.
fn named(name: &'static str) -> MapResponseLayer<impl Fn(Response) -> Response + Clone> {
    MapResponseLayer::new(move |mut response: Response| {
        // In the response, because only the router knows the route, and the guard around it counts.
        response.extensions_mut().insert(ApiName(name));
        response
    })
}

/// Operations that lie below one path.
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// The path.
    pub(super) base: &'static str,
    /// The heading in the document.
    pub(super) tag: &'static str,
    /// Follows the names of the operations in the document, where a name must be unique among all groups.
    pub(super) suffix: &'static str,
    /// True when only old clients use the group.
    pub(super) deprecated: bool,
}

/// Operations on their way into a router and a document.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Api>,
    document: openapi::Document,
}

impl Routes {
    /// Adds operations below the path of a group.
    pub(super) fn mount(mut self, group: Group, operations: impl IntoIterator<Item = Operation>) -> Self {
        for operation in operations {
            let path = format!("{}{}", group.base, operation.path);
            // One path is added once for each of its methods; axum merges them.
            self.document.add(group, &path, &operation);
            self.router = self.router.route(&path, operation.route);
        }
        self
    }

    /// The router, which also serves the document and a page that shows it.
    pub(super) fn finish(self) -> Router<Api> {
        let text = Arc::new(OnceLock::<Bytes>::new());
        let Self { router, document } = self.mount(openapi::GROUP, openapi::operations(text.clone()));
        // The document describes the operation that serves it. So it can be written only now, after it was
        // mounted, and the handler gets a cell that is filled here and never again.
        let _ = text.set(Bytes::from(document.finish().to_string()));
        router
    }
}
