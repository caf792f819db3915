//! The list of a tenant's services as clients receive it, made once for each state of the services' records.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;
use shared::model::Service;

/// The body of a list of services, plain and compressed. It takes about as many bytes as the records
/// themselves.
#[derive(Debug)]
pub struct ServiceList {
    plain: Bytes,
    gzip: OnceLock<Bytes>,
    tag: OnceLock<HeaderValue>,
}

impl ServiceList {
    fn of(services: Vec<&Service>) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Vec::is_empty")]
            services: Vec<&'a Service>,
        }
        let plain = serde_json::to_vec(&Body { services }).expect("plain fields always serialise");
        Self { plain: plain.into(), gzip: OnceLock::new(), tag: OnceLock::new() }
    }

    /// The body as JSON.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The tag of the body. It is made at the first call and kept.
    pub fn tag(&self) -> &HeaderValue {
        self.tag.get_or_init(|| answer::tag::of(&self.plain))
    }

    /// The body as gzipped JSON. It is compressed at the first call and kept.
    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| answer::gzip::kept(&self.plain))
    }
}

/// The cell of a list. Snapshots with the same records share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListCell(Arc<OnceLock<Arc<ServiceList>>>);

impl ListCell {
    /// The list of `services`, which are those that the cell was made for.
    pub(super) fn list<'a>(&self, services: impl FnOnce() -> Vec<&'a Service>) -> Arc<ServiceList> {
        self.0.get_or_init(|| Arc::new(ServiceList::of(services()))).clone()
    }
}
