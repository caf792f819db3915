//! Reasons for which a replica declines a request. The gateway logs the text and repeats the request.

use prost::DecodeError;

use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::view::ViewError;

/// A replica's reason to decline a gateway's request.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The payload is not the expected message.
    #[error("the request cannot be decoded: {0}")]
    Undecodable(#[from] DecodeError),
    /// An interest request without a consumer and without a scope.
    #[error("the request names neither a consumer nor a scope")]
    NothingNamed,
    /// The view has not reached the requested revision in time.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A request for the complete history begins before the first change that this replica knows.
    #[error("the history does not reach back that far")]
    HistoryTooShort,
    /// The gateway or this replica has not noticed yet that the store was restored.
    #[error("the view is of another incarnation of the store")]
    OtherIncarnation,
    /// The consumer is missing from the view, and the store could not confirm that it does not exist.
    #[error(
        "the consumer is unknown here, and the store cannot be reached to confirm that it does not exist"
    )]
    Unconfirmed,
    /// The view did not reach the store's revision.
    #[error("the view cannot be confirmed: {0}")]
    Confirming(#[from] RegistryError),
    /// The store did not report its revision.
    #[error("the store's revision cannot be read: {0}")]
    Store(#[from] StoreError),
}
