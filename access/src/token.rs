//! Tokens: what one says, and whether one of our keys has signed it.
//!
//! A token is a JWT with the algorithm RS512, as Service-Center makes them. No other algorithm is accepted,
//! so a header cannot choose a weaker one. Whether the account behind a token still counts is decided by
//! [`crate::Policy`], not here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use parking_lot::Mutex;

pub use crate::claims::{Claims, SERVICE_KIND, Verified};
use crate::denial::{Denial, DenialCode};
use crate::issuer::claimed_issuer;
use crate::keys::{PublicKey, SigningKey};
use crate::policy::Policy;

/// The longest token that is looked at, in bytes. One of ours with five roles has less than 2 KB.
pub const LONGEST_TOKEN: usize = 8 << 10;
/// The longest wait for a policy that is as new as a token. Replicas are milliseconds apart, and a gateway hears
/// of a change with the next bookmark at worst, a second later. A token of the time before a restore of the
/// store waits in vain.
pub const POLICY_WAIT: Duration = Duration::from_secs(2);
/// The issuer that our tokens name.
const ISSUER: &str = "muster";
/// The verified tokens that are remembered. Beyond it one is verified anew at each request.
const REMEMBERED: usize = 100_000;

/// Verifies signatures, and remembers which tokens it has verified. Cheap to share.
///
/// Verifying costs some 40 µs, and clients send the same token with each request.
#[derive(Debug, Default)]
pub struct Verifier {
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

impl Verifier {
    /// Verifies that a key of the policy signed the token, and that its time is not over at `now` (seconds
    /// since 1970).
    ///
    /// # Errors
    /// The refusal, in the contract's words.
    pub fn verify(&self, token: &str, policy: &Policy, now: u64) -> Result<Verified, Denial> {
        if token.len() > LONGEST_TOKEN {
            return Err(unauthorized("the token is too long"));
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()).as_ref(),
        );
        let known = self.verified.lock().get(&hash).cloned();
        // A key that was taken away takes its tokens with it, also those that were verified before.
        if let Some(known) = known.filter(|known| is_signer(policy, known)) {
            return alive(known, now);
        }
        let fresh = match claimed_issuer(token).and_then(|name| policy.issuer(&name)) {
            Some(issuer) => issuer.verify(token)?,
            None => verify_signature(token, &policy.keys)?,
        };
        let fresh = alive(fresh, now)?;
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.retain(|_, known| known.claims.exp > now);
        }
        if verified.len() < REMEMBERED {
            verified.insert(hash, fresh.clone());
        }
        Ok(fresh)
    }
}

/// True while the key that signed a token is in use.
pub(crate) fn is_signer(policy: &Policy, token: &Verified) -> bool {
    match &token.issuer {
        None => policy.keys.iter().any(|key| *key.kid == *token.kid),
        Some(name) => policy.issuer(name).is_some_and(|issuer| issuer.has_key(&token.kid)),
    }
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
    pub fn issue(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let header = Header { kid: Some(self.key.public().kid.clone()), ..Header::new(Algorithm::RS512) };
        let claims = Claims { iss: ISSUER.to_owned(), ..claims.clone() };
        jsonwebtoken::encode(&header, &claims, self.key.encoding())
    }
}

#[cfg(test)]
mod tests;
