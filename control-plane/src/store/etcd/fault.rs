//! Translates errors of etcd: one table.

use std::error::Error as _;

use etcd_client::Error;
use shared::model::Revision;
use tonic::Code;

use crate::store::StoreError;

/// Translates an error. [`StoreError::Compacted`] carries 0, because etcd does not report the compacted
/// revision.
pub(super) fn translate(error: Error) -> StoreError {
    match error {
        Error::GRpcStatus(status) => of_status(status.code(), status.message(), status.source()),
        Error::InvalidArgs(why) => StoreError::Refused(why),
        other => StoreError::Unavailable(other.to_string()),
    }
}

fn of_status(code: Code, message: &str, source: Option<&(dyn std::error::Error + 'static)>) -> StoreError {
    let text = message.trim_start_matches("etcdserver: ").to_owned();
    match code {
        Code::NotFound if message.contains("lease not found") => StoreError::LeaseNotFound,
        Code::OutOfRange if message.contains("has been compacted") => StoreError::Compacted(Revision::ZERO),
        Code::InvalidArgument if message.contains("request is too large") => StoreError::TooLarge(text),
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unimplemented => StoreError::Refused(aligned(text)),
        // A message over gRPC's own limit never succeeds. "too many requests" has the same code but may
        // succeed later.
        Code::ResourceExhausted if message.contains("larger than max") => {
            StoreError::TooLarge(text)
        }
        Code::ResourceExhausted if message.contains("database space exceeded") => StoreError::Full(text),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        // A token may have expired, and the client fetches a new one, so this may succeed later.
        | Code::Unauthenticated => StoreError::Unavailable(match source {
            Some(source) => format!("{text}: {}", root(source)),
            None => text,
        }),
    }
}

/// The text of the embedded store for the same mistake, so that callers and tests see one wording.
fn aligned(text: String) -> String {
    match text.as_str() {
        "duplicate key given in txn request" => "duplicate key in one transaction".into(),
        "too many operations in txn request" => "too many operations in one transaction".into(),
        _ => text,
    }
}

/// The first cause of an error. Transports wrap theirs several times in texts that say nothing.
pub(super) fn root<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_can_tell_refused_from_unavailable() {
        assert!(matches!(
            of_status(Code::NotFound, "etcdserver: requested lease not found", None),
            StoreError::LeaseNotFound
        ));
        assert!(matches!(
            of_status(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", None),
            StoreError::Compacted(Revision::ZERO)
        ));
        for (code, message) in [
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        ] {
            assert!(matches!(of_status(code, message, None), StoreError::Refused(_)), "{message}");
        }
        let full = of_status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", None);
        assert!(matches!(full, StoreError::Full(_)), "{full}");
        for (code, message) in [
            (Code::InvalidArgument, "etcdserver: request is too large"),
            (Code::ResourceExhausted, "grpc: received message larger than max (3 vs. 2)"),
        ] {
            assert!(matches!(of_status(code, message, None), StoreError::TooLarge(_)), "{message}");
        }
        for (code, message) in [
            (Code::ResourceExhausted, "etcdserver: too many requests"),
            (Code::Unavailable, "etcdserver: no leader"),
            (Code::Unavailable, "etcdserver: request timed out"),
        ] {
            assert!(matches!(of_status(code, message, None), StoreError::Unavailable(_)), "{message}");
        }
    }
}
