//! The bodies of a page: each form is made when it is first asked for, once, and shared by all requests.

use std::sync::Arc;

use answer::gzip;
use bytes::Bytes;
use tokio::sync::OnceCell;

use super::apps::{Application, Listed};
use super::book::Page;
use super::json::Detail;
use super::model::{ActionType, Info};
use super::{json, xml};

/// The language of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Xml,
}

/// The form in which a client wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) format: Format,
    pub(crate) detail: Detail,
    pub(crate) gzip: bool,
}

/// The question that a body answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// Every instance.
    Full,
    /// The changes of the last minutes.
    Delta,
}

/// The bodies that were made.
#[derive(Debug, Default)]
pub(crate) struct Bodies([OnceCell<Bytes>; 16]);

impl Form {
    /// The body of a list in this form, without compression.
    pub(crate) fn encode(self, listed: &Listed<'_>) -> Bytes {
        match self.format {
            Format::Json => json::applications(listed, self.detail).into(),
            Format::Xml => xml::applications(listed, self.detail).into(),
        }
    }

    /// The body of one application.
    pub(crate) fn encode_application(self, application: &Application<'_>) -> Bytes {
        match self.format {
            Format::Json => json::application(application, self.detail).into(),
            Format::Xml => xml::application(application, self.detail).into(),
        }
    }

    /// The body of one instance.
    pub(crate) fn encode_instance(self, info: &Info) -> Bytes {
        match self.format {
            Format::Json => json::instance(info, ActionType::Added, self.detail).into(),
            Format::Xml => xml::instance(info, ActionType::Added, self.detail).into(),
        }
    }

    fn place(self, amount: Amount) -> usize {
        usize::from(self.gzip)
            + 2 * usize::from(self.format == Format::Xml)
            + 4 * usize::from(self.detail == Detail::Compact)
            + 8 * usize::from(amount == Amount::Delta)
    }
}

/// The body of a page for clients that may see everything. The work is done beside the threads that serve.
/// `None` when it was not made, which is no answer: an empty body would be one.
pub(crate) async fn body(page: &Arc<Page>, amount: Amount, form: Form) -> Option<Bytes> {
    let cell = &page.bodies.0[form.place(amount)];
    let of_page = page.clone();
    let making = cell.get_or_try_init(|| async move {
        let make = move || {
            let listed = match amount {
                Amount::Full => of_page.full(|_| true),
                Amount::Delta => of_page.delta(|_| true),
            };
            let plain = form.encode(&listed);
            if form.gzip { gzip::kept(&plain) } else { plain }
        };
        // Thousands of instances take many milliseconds.
        tokio::task::spawn_blocking(make).await
    });
    making.await.ok().cloned()
}
