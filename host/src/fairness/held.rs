//! The place of the request that a task works on, where code far below the handler can tell that the request
//! waits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::{NoPlace, Place, Wait};

tokio::task_local! {
    static HELD: RefCell<Option<Place>>;
}

/// Works on a request, and at its end gives back the place that [`hold`] was given meanwhile.
pub fn holding<F: Future>(work: F) -> impl Future<Output = F::Output> {
    // No async function: its future would have room for the work twice.
    HELD.scope(RefCell::default(), work)
}

/// Holds a place to the end of the request that this task works on. Outside of [`holding`] there is no end to
/// wait for, and the place is given back at once.
pub fn hold(place: Place) {
    with_held(|held| *held = Some(place));
}

/// The request that this task works on begins to wait for another program, such as a store. Its place goes to
/// the next request of its party, and does not come back. Without a place nothing happens.
pub fn rest() {
    with_held(|held| held.iter_mut().for_each(Place::rest));
}

/// The request that this task works on begins to wait for something that may take long. Its place goes to the next
/// request of its party, and it waits for one of those that its party has for this kind of wait. It keeps that to
/// its end, or until it begins to wait for something else. Without a place nothing happens.
///
/// Cancel-safe: a request that no longer waits here has no place, and may begin another wait.
///
/// # Errors
/// When no such place has become free for ten seconds.
pub async fn wait(wait: Wait) -> Result<(), NoPlace> {
    let next = with_held(|held| held.as_mut()?.leave(wait)).flatten();
    if let Some((shares, party)) = next {
        hold(shares.change_over(party, wait).await?);
    }
    Ok(())
}

/// Waits for something that may have happened already. If it has, the request that this task works on keeps its
/// place; otherwise it begins to [`wait`].
///
/// # Errors
/// When no place has become free for ten seconds.
pub async fn waiting<T>(kind: Wait, happens: impl Future<Output = T>) -> Result<T, NoPlace> {
    let mut happens = pin!(happens);
    if let Poll::Ready(happened) = poll_fn(|context| Poll::Ready(happens.as_mut().poll(context))).await {
        return Ok(happened);
    }
    wait(kind).await?;
    Ok(happens.await)
}

/// `None` for work that is nobody's request.
fn with_held<T>(change: impl FnOnce(&mut Option<Place>) -> T) -> Option<T> {
    HELD.try_with(|held| held.try_borrow_mut().ok().map(|mut held| change(&mut held))).ok().flatten()
}
