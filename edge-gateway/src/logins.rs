//! The logins of clients that show a name and a password with each request.
//!
//! In: what a client has shown. Out: the token of an earlier login with the same. A token is kept for some
//! minutes, under a digest whose key exists in this process alone: neither a name nor a password stands in
//! the table, and the time that a look takes says nothing about them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;

/// Logins that are kept.
const MAX_KNOWN: usize = 1024;
/// The time for which a token is used. Tokens of a login live for a quarter of an hour at least.
const KEPT: Duration = Duration::from_secs(600);

type Digest = Box<[u8]>;

/// A token, and the time until which it is used.
#[derive(Clone)]
pub(crate) struct Kept {
    /// The value of a header that shows the token.
    pub(crate) bearer: HeaderValue,
    until: Instant,
}

impl Kept {
    /// A token that was made just now.
    pub(crate) fn now(bearer: HeaderValue) -> Self {
        Self { bearer, until: Instant::now() + KEPT }
    }

    /// True while the token is used.
    pub(crate) fn is_young(&self) -> bool {
        self.until > Instant::now()
    }
}

/// One login. Requests that show the same wait for it together.
pub(crate) type Login = Arc<tokio::sync::Mutex<Option<Kept>>>;

/// The logins of this process.
pub(crate) struct Logins {
    /// `None` when the system gave no random bytes; then nothing is kept.
    key: Option<hmac::Key>,
    known: Mutex<HashMap<Digest, Login>>,
}

impl Logins {
    /// Nobody has logged in.
    pub(crate) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok();
        Self { key, known: Mutex::default() }
    }

    /// The login with what a client has shown.
    pub(crate) fn of(&self, shown: &[u8]) -> Login {
        let Some(key) = &self.key else { return Login::default() };
        let digest: Digest = hmac::sign(key, shown).as_ref().into();
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN && !known.contains_key(&digest) {
            known.retain(|_, login| is_in_use(login));
            // All of them count: any may go, and logs in again.
            if known.len() >= MAX_KNOWN
                && let Some(any) = known.keys().next().cloned()
            {
                known.remove(&any);
            }
        }
        known.entry(digest).or_default().clone()
    }
}

/// True for a login that counts, or is about to be made.
fn is_in_use(login: &Login) -> bool {
    let Ok(kept) = login.try_lock() else { return true };
    kept.as_ref().is_some_and(Kept::is_young)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_bounded_and_told_apart() {
        let logins = Logins::new();
        let kept = || Kept::now(HeaderValue::from_static("Bearer t"));
        let first = logins.of(b"0");
        assert!(Arc::ptr_eq(&first, &logins.of(b"0")) && !Arc::ptr_eq(&first, &logins.of(b"1")));
        for n in 0..3 * MAX_KNOWN {
            // Some of them failed, and are first to go.
            *logins.of(n.to_string().as_bytes()).try_lock().expect("is free") = (n % 2 == 0).then(kept);
        }
        assert!(logins.known.lock().len() <= MAX_KNOWN);
    }
}
