//! Public keys of tokens, in the form in which they are published (JWK) and sent to gateways.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

/// A public RSA key. Its id is the thumbprint of RFC 7638, so every process gives a key the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// The id of the key.
    pub kid: String,
    /// The modulus, base64url without padding.
    pub n: String,
    /// The exponent, base64url without padding.
    pub e: String,
}

impl PublicKey {
    /// The key of these numbers, big-endian.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Self {
        let n = BASE64URL_NOPAD.encode(strip_zeros(modulus));
        let e = BASE64URL_NOPAD.encode(strip_zeros(exponent));
        // The members in the order of RFC 7638, without blanks.
        let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
        Self { kid: BASE64URL_NOPAD.encode(digest.as_ref()), n, e }
    }

    pub(crate) fn decoding(&self) -> Option<DecodingKey> {
        DecodingKey::from_rsa_components(&self.n, &self.e).ok()
    }
}

fn strip_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
