//! Waiting for something to become true, with one deadline for all.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The time after which a test gives up: `MUSTER_TEST_DEADLINE` in seconds, else 30 s.
pub fn deadline() -> Duration {
    let seconds = std::env::var("MUSTER_TEST_DEADLINE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// Asks again and again until there is an answer, and gives that.
///
/// # Panics
/// When there is none within the [`deadline`].
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let give_up = Instant::now() + deadline();
    loop {
        // The attempt is bounded as well, because a call that hangs must not outlive the deadline.
        match tokio::time::timeout_at(give_up, ask()).await {
            Ok(Some(answer)) => return answer,
            Ok(None) if Instant::now() < give_up => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(None) | Err(_) => panic!("not within {:?}: {what}", deadline()),
        }
    }
}
