//! Bodies that are made for one client alone, beside the threads that serve.
//!
//! In: the work of making one. Out: its result, or 503 with `Retry-After` where too many wait. A list of many
//! thousands of instances takes many milliseconds, in which a serving thread would push nothing to anybody.

use std::sync::Arc;

use axum::body::Body;
use host::lane::ForEach;
use http::Response;
use tokio::sync::Semaphore;

use super::refusal;

/// Bodies of a lane that are made at a time. Each takes a core while it is made, and the watchers need them as well.
const AT_ONCE: usize = 2;
/// Bodies of a lane that are made or waited for, each with a connection that waits. Even if each takes 50 ms, the last
/// one comes within 7 s.
const MOST: usize = 256;

/// The places of bodies that are made, of each lane by itself: in the slow one a body takes longer, and nobody
/// else is to wait for it. Clones share them.
#[derive(Clone)]
pub(crate) struct Encoding(Arc<ForEach<Places>>);

struct Places {
    places: Semaphore,
    at_once: Arc<Semaphore>,
}

impl Default for Encoding {
    fn default() -> Self {
        let places = || Places { places: Semaphore::new(MOST), at_once: Arc::new(Semaphore::new(AT_ONCE)) };
        Self(Arc::new(ForEach::new(places)))
    }
}

impl Encoding {
    /// Runs `make` beside the serving threads. One whose client has left before its turn is not run.
    ///
    /// # Errors
    /// 503 when too many wait already, or when `make` panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Response<Body>> {
        let full = |_| refusal::unavailable("too many lists are being made; try again");
        let places = self.0.here();
        let _place = places.places.try_acquire().map_err(full)?;
        let permit = places.at_once.clone().acquire_owned().await;
        let permit = permit.map_err(|_| refusal::unavailable("this gateway ends"))?;
        let made = tokio::task::spawn_blocking(move || {
            let made = make();
            // Here and not when the client leaves, which the thread does not notice.
            drop(permit);
            made
        });
        made.await.map_err(|_| refusal::unavailable("the answer could not be made; try again"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use futures_util::stream::{FuturesUnordered, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn bodies_are_made_within_bounds_and_refused_beyond() {
        let encoding = Encoding::default();
        let (begun, begins) = mpsc::sync_channel(MOST);
        let mut ends = Vec::new();
        let mut all = FuturesUnordered::new();
        for n in 0..MOST {
            let (end, ended) = mpsc::sync_channel::<()>(1);
            ends.push(end);
            let (begun, encoding) = (begun.clone(), encoding.clone());
            all.push(async move {
                let made = encoding.run(move || {
                    begun.send(()).expect("the test listens");
                    _ = ended.recv();
                    n
                });
                made.await.map_err(|refused| refused.status())
            });
        }
        while encoding.0.here().places.available_permits() > 0 {
            assert!(all.next().now_or_never().is_none(), "all of them wait");
            tokio::task::yield_now().await;
        }
        let refused = encoding.run(|| ()).await.expect_err("no place");
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        for _ in 0..AT_ONCE {
            begins.recv().expect("as many begin as may");
        }
        assert!(begins.try_recv().is_err(), "no further one");
        drop(ends);
        let made: Vec<_> = all.collect().await;
        assert!(made.iter().all(Result::is_ok));
        assert_eq!(made.len(), MOST);
        let panicked = encoding.run::<()>(|| panic!("a defect")).await.expect_err("no answer");
        assert_eq!(panicked.status(), 503);
        assert_eq!(encoding.run(|| 1).await.expect("places are given back"), 1);
    }
}
