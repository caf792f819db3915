//! Slow work on passwords, beside everything else.
//!
//! One check takes some 20 ms of a processor and 12 MiB, and strangers ask for it. So only as many run as
//! there are processors, some wait, and more are refused. So it is in each lane, because a check takes longer in
//! the slow one.

use std::sync::Arc;

use access::password::{self, HashKind};
use host::lane::ForEach;
use tokio::sync::Semaphore;

use crate::registry::{AccountError, RegistryError};

/// The most checks of a lane at a time, however many processors there are: each takes memory.
const MOST_AT_ONCE: usize = 8;
/// The most checks of a lane that run or wait.
const MOST_WAITING: usize = 256;

/// A hash that no password has, in the form of new ones: logins of unknown accounts are checked against it
/// and take as long as those of others.
const NOBODY_ARGON2: &str = "$argon2id$v=19$m=12288,t=3,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const NOBODY_SCRYPT: &str = "1024$8$1$0000000000000000$\
    0000000000000000000000000000000000000000000000000000000000000000";

/// Makes and checks hashes of passwords.
#[derive(Debug)]
pub(in crate::registry) struct Hashing {
    kind: HashKind,
    turns: ForEach<Turns>,
}

/// The checks of one lane.
#[derive(Debug)]
struct Turns {
    running: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Hashing {
    pub(super) fn new(kind: HashKind) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = || Turns {
            running: Arc::new(Semaphore::new(processors.min(MOST_AT_ONCE))),
            places: Arc::new(Semaphore::new(MOST_WAITING)),
        };
        Self { kind, turns: ForEach::new(turns) }
    }

    /// True for a hash in the form of new ones.
    pub(in crate::registry) fn is_current(&self, stored: &str) -> bool {
        password::is_current(self.kind, stored)
    }

    /// The hash to store for a password.
    pub(in crate::registry) async fn hash(&self, password: &str) -> Result<String, RegistryError> {
        let kind = self.kind;
        let password = password.to_owned();
        self.run(move || password::hash(kind, &password)).await?.map_err(|_| AccountError::NotMade.into())
    }

    /// True when a password is the stored one. With `None` it is not, which takes as long to say.
    pub(in crate::registry) async fn verify(
        &self,
        stored: Option<&str>,
        password: &str,
    ) -> Result<bool, RegistryError> {
        let nobody = match self.kind {
            HashKind::Argon2id => NOBODY_ARGON2,
            HashKind::Scrypt => NOBODY_SCRYPT,
        };
        let known = stored.is_some();
        let stored = stored.unwrap_or(nobody).to_owned();
        let password = password.to_owned();
        Ok(self.run(move || password::verify(&stored, &password)).await? && known)
    }

    /// Runs slow work in its turn.
    pub(in crate::registry) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RegistryError> {
        let turns = self.turns.here();
        let place = turns.places.clone().try_acquire_owned().map_err(|_| AccountError::Busy)?;
        let turn = turns.running.clone().acquire_owned().await.map_err(|_| AccountError::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let outcome = work();
            // Held by the work and not by its caller, who may have gone while the work goes on.
            drop((place, turn));
            outcome
        });
        Ok(done.await.map_err(|_| AccountError::NotMade)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_has_no_password_and_the_cost_of_a_new_hash() {
        for (kind, nobody) in [(HashKind::Argon2id, NOBODY_ARGON2), (HashKind::Scrypt, NOBODY_SCRYPT)] {
            assert!(password::is_current(kind, nobody), "{nobody}");
            let hashing = Hashing::new(kind);
            let stored = hashing.hash("Complicated_password1").await.expect("hashed");
            assert_eq!(stored.len(), nobody.len(), "{stored} and {nobody}");
            assert!(hashing.verify(Some(&stored), "Complicated_password1").await.expect("verified"));
            assert!(!hashing.verify(None, "Complicated_password1").await.expect("verified"));
        }
    }

    #[tokio::test]
    async fn more_than_can_wait_are_refused() {
        let hashing = Hashing::new(HashKind::Scrypt);
        let places =
            hashing.turns.here().places.clone().acquire_many_owned(MOST_WAITING as u32).await.expect("open");
        let refused = hashing.verify(None, "x").await.expect_err("no place");
        assert!(matches!(refused, RegistryError::Account(AccountError::Busy)));
        drop(places);
        assert!(hashing.verify(None, "x").await.is_ok());
    }
}
