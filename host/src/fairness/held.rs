//! The place of the request that a task works on, where code far below the handler can tell that the request
//! waits.

use std::cell::RefCell;

use super::Place;

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

fn with_held(change: impl FnOnce(&mut Option<Place>)) {
    // Fails for work that is nobody's request.
    let _ = HELD.try_with(|held| {
        if let Ok(mut held) = held.try_borrow_mut() {
            change(&mut held);
        }
    });
}
