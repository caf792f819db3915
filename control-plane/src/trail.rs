//! Notes for the audit log that are made while a request is handled: what it is about, and what a write
//! changed.
//!
//! In: notes of handlers and of the registry, made wherever they know something. Out: [`Notes`] for the
//! record of the request. The notes belong to the task that handles the request, so no operation has to pass
//! them on. Without access control nobody collects them, and noting does nothing.

use std::cell::RefCell;
use std::future::Future;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

tokio::task_local! {
    static NOTES: RefCell<Notes>;
}

/// The notes about one request.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The thing that the request is about, where the path does not say it.
    pub(crate) about: Option<About>,
    /// The digest of the stored value before the write.
    pub(crate) before: Option<String>,
    /// The digest of the stored value after it.
    pub(crate) after: Option<String>,
}

/// The thing that a request is about.
#[derive(Debug)]
pub(crate) enum About {
    /// A new thing below the path of the request, by its name or id.
    New(String),
    /// The thing at another path.
    At(String),
}

/// Handles a request, and returns the notes that were made meanwhile.
pub(crate) async fn noting<F: Future>(handling: F) -> (F::Output, Notes) {
    let noted = async {
        let output = handling.await;
        (output, NOTES.with(RefCell::take))
    };
    NOTES.scope(RefCell::default(), noted).await
}

/// True while somebody collects notes.
pub(crate) fn is_kept() -> bool {
    NOTES.try_with(|_| ()).is_ok()
}

/// Notes the thing that a request is about.
pub(crate) fn about(thing: impl FnOnce() -> About) {
    note(|notes| notes.about = Some(thing()));
}

/// Notes a write that has happened: the stored value before and after it, as far as there are any. Of several
/// writes each digest covers the one before it, too.
pub(crate) fn changed(before: Option<&[u8]>, after: Option<&[u8]>) {
    note(|notes| {
        add(&mut notes.before, before);
        add(&mut notes.after, after);
    });
}

fn note(make: impl FnOnce(&mut Notes)) {
    // Fails outside of a request, for the work of the replica itself.
    let _ = NOTES.try_with(|notes| {
        if let Ok(mut notes) = notes.try_borrow_mut() {
            make(&mut notes);
        }
    });
}

fn add(noted: &mut Option<String>, value: Option<&[u8]>) {
    let Some(value) = value else { return };
    let own = hex(value);
    *noted = Some(match noted.take() {
        None => own,
        Some(earlier) => hex(format!("{earlier}{own}").as_bytes()),
    });
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_belong_to_the_request_that_made_them() {
        changed(None, Some(b"nobody collects this"));
        let (output, notes) = noting(async {
            changed(None, Some(b"abc"));
            tokio::task::yield_now().await;
            about(|| About::New("peter".to_owned()));
            7
        })
        .await;
        assert_eq!(output, 7);
        assert!(matches!(notes.about, Some(About::New(name)) if name == "peter"));
        assert_eq!(notes.before, None);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(notes.after.as_deref(), Some(abc));
        let (_, notes) = noting(async {
            changed(Some(b"abc"), None);
            changed(Some(b"abc"), None);
        })
        .await;
        assert!(notes.before.is_some_and(|both| both != abc));
        assert_eq!(notes.after, None);
    }
}
