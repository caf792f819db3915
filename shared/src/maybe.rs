//! Futures that may be absent: an arm of `select!` that waits only while there is something to wait for.

/// Awaits `future`, or waits for ever when there is none.
///
/// Cancel-safe when the future is. `OptionFuture` would be ready at once without a future, so that each
/// `select!` needed a condition beside its arm.
pub async fn or_pending<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
