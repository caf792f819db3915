//! Tokens: what one says, and whether one of our keys has signed it.
//!
//! A token is a JWT with the algorithm RS512, as Service-Center makes them. No other algorithm is accepted,
//! so a header cannot choose a weaker one. Whether the account behind a token still counts is decided by
//! [`crate::Policy`], not here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use parking_lot::Mutex;
use serde::Serialize;

use crate::admitted::Admitted;
pub use crate::claims::{Claims, SERVICE_KIND, Verified};
use crate::decision::{Identity, token_in};
use crate::denial::{Denial, DenialCode};
use crate::issuer::claimed_issuer;
use crate::keys::{NotSigned, PublicKey, SigningKey};
use crate::policy::Policy;

/// The longest token that is looked at, in bytes. One of ours with five roles has less than 2 KB.
pub const LONGEST_TOKEN: usize = 8 << 10;
/// The longest wait for a policy that is as new as a token. Replicas are milliseconds apart, and a gateway hears
/// of a change with the next bookmark at worst, a second later. A token of the time before a restore of the
/// store waits in vain.
pub const POLICY_WAIT: Duration = Duration::from_secs(2);
/// The issuer that our tokens name.
const ISSUER: &str = "muster";
/// The parts of the memory of verified tokens, so that requests on many processors do not wait for each other.
const PARTS: usize = 16;
/// The verified tokens that each part remembers, 100 000 in all. Beyond it one is verified anew at each request.
const REMEMBERED: usize = 100_000 / PARTS;

/// Verifies signatures, and remembers which tokens it has verified, by their hashes, with what the last policy
/// has decided about them.
///
/// Verifying costs some 40 µs, and clients send the same token with each request.
#[derive(Debug, Default)]
pub struct Verifier {
    parts: [Mutex<HashMap<Hash, Remembered>>; PARTS],
}

/// SHA-256 of a token. Tokens themselves are not kept.
type Hash = [u8; 32];

#[derive(Debug)]
struct Remembered {
    verified: Verified,
    admitted: Option<Arc<Admitted>>,
}

impl Verifier {
    /// Verifies that a key of the policy signed the token, and that its time is not over at `now` (seconds
    /// since 1970).
    ///
    /// # Errors
    /// The refusal, in the contract's words.
    pub fn verify(&self, token: &str, policy: &Policy, now: u64) -> Result<Verified, Denial> {
        let hash = hash_of(token)?;
        let known = self.part(&hash).lock().get(&hash).map(|known| known.verified.clone());
        self.verify_hashed(token, hash, known, policy, now)
    }

    /// The account that the value of a header `Authorization` shows, if it counts by this policy at `now`
    /// (seconds since 1970): what [`Policy::authenticate`] decides, for a fraction of its price if the same
    /// header was shown since the policy has changed.
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(
        &self,
        header: Option<&[u8]>,
        policy: &Arc<Policy>,
        now: u64,
    ) -> Result<Arc<Admitted>, Denial> {
        let token = token_in(header)?;
        let hash = hash_of(token)?;
        let known = {
            let part = self.part(&hash).lock();
            let known = part.get(&hash);
            let admitted = known.and_then(|known| known.admitted.as_ref());
            if let Some(admitted) = admitted.filter(|admitted| admitted.holds(policy, now)) {
                return Ok(admitted.clone());
            }
            known.map(|known| known.verified.clone())
        };
        let identity = Identity::Token(self.verify_hashed(token, hash, known, policy, now)?);
        let admitted = Admitted::of(identity, policy, now)?;
        // Not there if the memory is full.
        if let Some(known) = self.part(&hash).lock().get_mut(&hash) {
            known.admitted = Some(admitted.clone());
        }
        Ok(admitted)
    }

    fn part(&self, hash: &Hash) -> &Mutex<HashMap<Hash, Remembered>> {
        &self.parts[usize::from(hash[0]) % PARTS]
    }

    fn verify_hashed(
        &self,
        token: &str,
        hash: Hash,
        known: Option<Verified>,
        policy: &Policy,
        now: u64,
    ) -> Result<Verified, Denial> {
        // A key that was taken away takes its tokens with it, also those that were verified before.
        if let Some(known) = known.filter(|known| policy.has_signer(known)) {
            return alive(known, now);
        }
        let fresh = match claimed_issuer(token).and_then(|name| policy.issuer(&name)) {
            Some(issuer) => issuer.verify(token)?,
            None => verify_signature(token, &policy.keys)?,
        };
        let fresh = alive(fresh, now)?;
        let mut part = self.part(&hash).lock();
        if part.len() >= REMEMBERED {
            part.retain(|_, known| known.verified.claims.exp > now);
        }
        if part.len() < REMEMBERED {
            part.insert(hash, Remembered { verified: fresh.clone(), admitted: None });
        }
        Ok(fresh)
    }
}

fn hash_of(token: &str) -> Result<Hash, Denial> {
    if token.len() > LONGEST_TOKEN {
        return Err(unauthorized("the token is too long"));
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    Ok(hash)
}

fn alive(verified: Verified, now: u64) -> Result<Verified, Denial> {
    if verified.claims.exp > now { Ok(verified) } else { Err(Denial::new(DenialCode::Expired, "")) }
}

fn verify_signature(token: &str, keys: &[PublicKey]) -> Result<Verified, Denial> {
    if token.split('.').count() != 3 {
        return Err(unauthorized("token contains an invalid number of segments"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| unauthorized("the token is malformed"))?;
    if header.alg != Algorithm::RS512 {
        return Err(unauthorized("the token's algorithm is not accepted"));
    }
    let mut validation = Validation::new(Algorithm::RS512);
    // The end is compared afterwards, with the caller's clock and with no leeway, for remembered tokens too.
    validation.validate_exp = false;
    validation.validate_nbf = true;
    validation.leeway = 0;
    validation.validate_aud = false;
    validation.set_required_spec_claims(&["exp"]);
    // A token that names its key is tried with that key alone. Those of Service-Center name none.
    let named = header.kid.as_deref();
    for key in keys.iter().filter(|key| named.is_none_or(|kid| kid == key.kid)) {
        let Some(decoding) = key.decoding() else { continue };
        match jsonwebtoken::decode::<Claims>(token, &decoding, &validation) {
            Ok(data) => {
                return Ok(Verified {
                    claims: Arc::new(data.claims),
                    kid: key.kid.as_str().into(),
                    issuer: None,
                });
            }
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
            // Service-Center does not tell a token that is not yet valid from one that is no longer.
            Err(error) if *error.kind() == ErrorKind::ImmatureSignature => {
                return Err(Denial::new(DenialCode::Expired, ""));
            }
            Err(_) => return Err(unauthorized("the token is malformed")),
        }
    }
    Err(unauthorized("the token's signature is not valid"))
}

fn unauthorized(detail: &'static str) -> Denial {
    Denial::new(DenialCode::Unauthorized, detail)
}

/// Makes tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Issuer {
    key: Arc<SigningKey>,
}

impl Issuer {
    /// Makes tokens with this key.
    pub fn new(key: SigningKey) -> Self {
        Self { key: Arc::new(key) }
    }

    /// A signed token with these claims; this program is named as its issuer.
    ///
    /// # Errors
    /// When the key does not sign, which no key that was read does.
    pub fn issue(&self, claims: &Claims) -> Result<String, NotSigned> {
        let header = Header { kid: Some(self.key.public().kid.clone()), ..Header::new(Algorithm::RS512) };
        let claims = Claims { iss: ISSUER.to_owned(), ..claims.clone() };
        let mut token = String::new();
        append(&mut token, &header)?;
        token.push('.');
        append(&mut token, &claims)?;
        let signature = self.key.sign(token.as_bytes())?;
        token.push('.');
        BASE64URL_NOPAD.encode_append(&signature, &mut token);
        Ok(token)
    }
}

fn append(token: &mut String, part: &impl Serialize) -> Result<(), NotSigned> {
    let json = serde_json::to_vec(part).map_err(|_| NotSigned)?;
    BASE64URL_NOPAD.encode_append(&json, token);
    Ok(())
}

#[cfg(test)]
mod tests;
